#!/bin/sh
# SPDX-License-Identifier: MIT
# test-install.sh BUILD SOURCE VERSION: installs into an empty folder, then compiles and runs a
# consumer in C and in C++ with nothing but what pkg-config says about the installed copy.
set -eu
build=$1 source=$2 version=$3
number=0
if readelf -d "$build/client/libgpuq-client.so" | grep -Eq 'NEEDED.*lib(a|ub|t)san'; then
	echo "skipped: a sanitizer's library needs a sanitizer's program"
	exit 77
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

pass() {
	number=$((number + 1))
	echo "ok $number - install: $1"
}

fail() {
	number=$((number + 1))
	echo "not ok $number - install: $1"
	sed 's/^/# /' "$root/log"
	echo "1..$number"
	exit 1
}

# The build folder is complete by now; installing must not build anything.
DESTDIR=$root meson install -C "$build" --no-rebuild >"$root/log" 2>&1 || fail "meson install"
pass "meson install"

pc=$(find "$root" -name gpuq-client.pc)
[ -n "$pc" ] || { echo "no gpuq-client.pc" >"$root/log"; fail "pkg-config file"; }
export PKG_CONFIG_PATH="${pc%/*}" PKG_CONFIG_SYSROOT_DIR="$root"
{
	test "$(pkg-config --modversion gpuq-client)" = "$version" &&
		cflags=$(pkg-config --cflags gpuq-client) &&
		libs=$(pkg-config --libs gpuq-client) &&
		libdir=$root$(pkg-config --variable=libdir gpuq-client | sed "s|^$root||")
} >"$root/log" 2>&1 || fail "pkg-config"
pass "pkg-config"

# These may be several words: "ccache gcc".
# shellcheck disable=SC2086
c_compiler() {
	${CC:-cc} "$@"
}
# shellcheck disable=SC2086
cxx_compiler() {
	${CXX:-c++} "$@"
}

# consume NAME COMPILER... builds with every warning as an error, because users may, and runs.
consume() {
	name=$1
	shift
	# The consumer compares functions with NULL, and "= {0}" is no mistake.
	# shellcheck disable=SC2086
	"$@" -Wall -Wextra -pedantic -Werror -Wno-address -Wno-tautological-pointer-compare \
		-Wno-missing-field-initializers "-DEXPECTED_VERSION=\"$version\"" \
		$cflags -o "$root/$name" $libs >"$root/log" 2>&1 || fail "$name: compiles"
	LD_LIBRARY_PATH=$libdir "$root/$name" >"$root/log" 2>&1 || fail "$name: runs"
	[ "$(cat "$root/log")" = \
		"no daemon at /nowhere/gpuq; start gpuqd or set GPUQ_SOCKET" ] || fail "$name: says"
	pass "$name consumer"
}
consumer=$source/tests/install/consumer.c
consume c11 c_compiler -std=c11 "$consumer"
if cxx_compiler --version >/dev/null 2>&1; then
	consume cxx11 cxx_compiler -std=c++11 -x c++ "$consumer" -x none
else
	number=$((number + 1))
	echo "ok $number - install: cxx11 consumer # SKIP no C++ compiler"
fi
# The examples are programs of users as well: no flag of this project's own build is needed.
for example in softmax score classify pipeline lipogram; do
	library=gpuq-client helper=$source/client/examples/example.c
	case $example in
	softmax) helper= ;;
	lipogram) library=gpuq-text helper= ;;
	esac
	pkg-config --exists "$library" || continue
	# shellcheck disable=SC2046,SC2086
	c_compiler -std=c17 -Wall -Wextra -Werror -o "$root/$example" \
		"$source/client/examples/$example.c" $helper \
		$(pkg-config --cflags --libs "$library") -lm >"$root/log" 2>&1 ||
		fail "example $example: compiles"
done
pass "the examples compile"
# And so is what README.md and the headers show.
for library in gpuq-client gpuq-text; do
	pkg-config --exists "$library" || continue
	snippets=$("${PYTHON:-python3}" "$source/tests/install/snippets.py" "$source" "$root" \
		"$library") || fail "snippets of $library"
	for snippet in $snippets; do
		# shellcheck disable=SC2046
		c_compiler -std=c17 -Wall -Wextra -Werror -Wno-unused -c -o "$root/snippet.o" \
			"$snippet" $(pkg-config --cflags "$library") >"$root/log" 2>&1 ||
			fail "$(basename "$snippet" .c): compiles"
	done
done
pass "what README and headers show compiles"
# Not there where the build was told to leave CUDA out.
if pkg-config --exists gpuq-cuda; then
	# shellcheck disable=SC2046
	c_compiler -std=c11 -Wall -Wextra -pedantic -Werror -o "$root/cuda" \
		"$source/tests/install/consumer-cuda.c" -Wl,-rpath-link,"$libdir" \
		$(pkg-config --cflags --libs gpuq-cuda) >"$root/log" 2>&1 ||
		fail "libgpuq-cuda: compiles"
	LD_LIBRARY_PATH=$libdir "$root/cuda" >"$root/log" 2>&1 || fail "libgpuq-cuda: runs"
	pass "libgpuq-cuda consumer"
fi
# Nor where it was told to leave the tokenizer out.
if pkg-config --exists gpuq-text; then
	languages=c
	cxx_compiler --version >/dev/null 2>&1 && languages="c c++"
	for language in $languages; do
		# shellcheck disable=SC2046
		c_compiler -x "$language" -Wall -Wextra -pedantic -Werror -o "$root/text" \
			"$source/tests/install/consumer-text.c" -x none -Wl,-rpath-link,"$libdir" \
			$(pkg-config --cflags --libs gpuq-text) >"$root/log" 2>&1 ||
			fail "libgpuq-text: compiles as $language"
		LD_LIBRARY_PATH=$libdir "$root/text" >"$root/log" 2>&1 ||
			fail "libgpuq-text: runs as $language"
		pass "libgpuq-text consumer, $language"
	done
fi
# The module is found beside the executable, in the build and where it is installed, without help.
# There is no hundredth GPU: gpuqd ends at once, with what the module says or that it is missing.
unset GPUQ_CUDA_MODULE
gpuqd=$(find "$root" -path "*/bin/gpuqd" -type f)
for program in "$build/daemon/gpuqd" "$gpuqd"; do
	[ -n "$(find "$root" -name libgpuq-cuda-device.so)" ] || break
	timeout 60 "$program" --device cuda:99 --socket "$root/socket" >"$root/log" 2>&1 &&
		fail "gpuqd ends without its device"
	grep -q 'cannot be used' "$root/log" || fail "gpuqd says why"
	! grep -q 'module' "$root/log" || fail "the CUDA module is found"
	pass "the CUDA module is found"
done
echo "1..$number"
