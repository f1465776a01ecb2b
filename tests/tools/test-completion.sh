#!/bin/bash
# SPDX-License-Identifier: MIT
# test-completion.sh SCRIPT BUILD: what bash offers for lines that are half typed, by the script and
# the function that it would call itself, with programs of the build folder and one gpuqd.
set -u
export LC_ALL=C
script=$1 build=$2
number=0 failed=0
folder=$(mktemp -d)
export PATH=$build/tools:$build/daemon:$build/bench:$PATH XDG_RUNTIME_DIR=$folder
export XDG_STATE_HOME=$folder
unset GPUQ_SOCKET

# offer WORD...: what is offered for the last word, in one line.
offer() {
	COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
	local specification previous=
	[[ $# -gt 1 ]] && previous=${*: -2:1}
	specification=$(complete -p "$1") || return
	specification=${specification#*-F }
	"${specification%% *}" "$1" "${*: -1}" "$previous"
	echo "${COMPREPLY[*]-}"
}

# check EXPECTED WORD...
check() {
	local expected=$1 found
	shift
	found=$(offer "$@")
	number=$((number + 1))
	if [[ $found == "$expected" ]]; then
		echo "ok $number - completion: $* -> $expected"
	else
		echo "not ok $number - completion: $*"
		printf '# expected: %s\n# found: %s\n' "$expected" "$found"
		failed=1
	fi
}

# shellcheck source=/dev/null
source "$script"
check "status stop" gpuq st
check "--socket --help --version" gpuq --
check "status" gpuq -s /tmp/x sta
check "--wait-ready" gpuq status --w
check "--json --wait-ready --socket --help" gpuq status --
check "" gpuq load tiny /
check "restart" gpuq device r
check "--temp" gpuq generate --te
check "" gpuq generate --tokenizer /
check "cuda" gpuqd --device cu
check "--max-channels --max-channels-per-client --max-channels-per-user" gpuqd --max-ch
check "--iterations" gpuq-top --it
check "" gpuq-top st
check "--kills" gpuq-soak --ki
check "null" gpuq-bench nul
check "" gpuq nothing --x

# Names of what gpuqd has.
check "" gpuq run gemv
gpuqd --device cpu --hot-list '' --kv-bytes 16M --log error &
daemon=$!
gpuq status --wait-ready 100 >/dev/null
check "gemv_batched" gpuq run gemv
check "" gpuq unload x
check "0" gpuq graphs --device ''
gpuq load tiny "${script%/*}/../../models/tiny" >/dev/null
check "tiny" gpuq unload t
check "tiny" gpuq generate --model ''
check "tiny" gpuq chat -m ti
kill "$daemon"
wait "$daemon"
rm -rf "$folder"
echo "1..$number"
exit "$failed"
