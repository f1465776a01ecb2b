#!/bin/sh
# SPDX-License-Identifier: MIT
# test-library.sh LIBRARY MAP SONAME VERSION [OTHER]: the shared library exports what the version
# script lists, all of it and nothing else, under one version; is named after its interface; and
# needs the C library only, and OTHER.
set -eu
export LC_ALL=C
library=$1 map=$2 soname=$3 version=$4 other=${5:-libc}
failed=0
number=0

# check NAME EXPECTED FOUND
check() {
	number=$((number + 1))
	if [ "$2" = "$3" ]; then
		echo "ok $number - $soname: $1"
	else
		echo "not ok $number - $soname: $1"
		printf '%s\n' "expected:" "$2" "found:" "$3" | sed 's/^/# /'
		failed=1
	fi
}

listed=$(sed -n 's/^\t\(gpuq_[a-z0-9_]*\);$/\1@@'"$version"'/p' "$map" | sort)
exported=$(nm -D --defined-only --with-symbol-versions "$library" |
	awk '$2 != "A" {print $3}' | sort)
check "exports the version script's names" "$listed" "$exported"

found=$(readelf -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
check "soname" "$soname" "$found"

# The dynamic linker is a part of the C library. A sanitizer's run time does not count.
strangers=$(readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
	grep -Ev "^(libc|$other|ld-linux[-a-z0-9_]*|lib(a|ub|t)san)\.so\.[0-9]+$" || true)
check "needs no other library" "" "$strangers"

echo "1..$number"
exit $failed
