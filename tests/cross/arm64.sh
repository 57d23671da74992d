#!/usr/bin/env bash
# Builds format/ and its unit tests for 64-bit ARM, and runs them in QEMU:
#   tests/cross/arm64.sh [DIRECTORY]
# Then compares what frames look like there, here, and here without the processor's
# features. Says nothing about speed. Wants aarch64-linux-gnu-gcc, qemu-aarch64 and,
# for that architecture, libzstd, libxxhash and cmocka; in Debian:
#   dpkg --add-architecture arm64 && apt-get update && apt-get install \
#       gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static \
#       libzstd-dev:arm64 libxxhash-dev:arm64 libcmocka-dev:arm64
# Exit status 77: something of that is missing. The last line counts the tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD

tests=(context delta dequant frame huffman layout layout_ggml merge nf4 packed prune
	quantizers root store)
cross=${MFS_ARM64_CC:-aarch64-linux-gnu-gcc}
libraries=(-lcmocka -lzstd -lxxhash -lm -lpthread)
flags=(-std=gnu17 -O3 -g -Wall -Wextra -Wshadow -Wpointer-arith -Wundef -Wvla -Wstrict-prototypes
	-Wmissing-prototypes -Werror -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -ffp-contract=off
	"-I$root/format" "-I$root/libmodelfs" "-I$root/libmodelfs/include")

missing()
{
	echo "arm64.sh: skipped: $1"
	exit 77
}

command -v "$cross" >/dev/null || missing "no $cross"
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || missing "no qemu-aarch64"
directory=${1:-build-arm64}
mkdir -p "$directory/arm64" "$directory/native"
echo 'int main(void) { return 0; }' >"$directory/try.c"
"$cross" "$directory/try.c" -o "$directory/try" "${libraries[@]}" 2>/dev/null ||
	missing "no libzstd, libxxhash or cmocka for 64-bit ARM"

run()
{
	"$qemu" -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu "$@"
}
run "$directory/try" || missing "programs for 64-bit ARM do not run"

# build COMPILER DIRECTORY: all of format/
build()
{
	local compiler=$1 to=$2

	(cd "$to" && printf '%s\n' "$root"/format/*.c |
		xargs -P "$(nproc)" -n 1 "$compiler" "${flags[@]}" -c)
	rm -f "$to/libformat.a"
	ar rc "$to/libformat.a" "$to"/*.o
	"$compiler" "${flags[@]}" tests/cross/frame_digest.c "$to/libformat.a" -o "$to/frame_digest" \
		-lzstd -lxxhash -lm -lpthread
}
build "$cross" "$directory/arm64"
build "${CC:-gcc}" "$directory/native"

passed=0
failed=0
# result NAME STATUS LOG
result()
{
	if [ "$2" = 0 ]; then
		passed=$((passed + 1))
		echo "$1: passed"
	else
		failed=$((failed + 1))
		tail -n 20 "$3"
		echo "$1: FAILED, status $2"
	fi
}

for test in "${tests[@]}"; do
	program=$directory/arm64/test_$test
	"$cross" "${flags[@]}" "tests/unit/test_$test.c" "$directory/arm64/libformat.a" -o "$program" \
		"${libraries[@]}"
	status=0
	run "$program" >"$program.log" 2>&1 || status=$?
	result "arm64/test_$test" "$status" "$program.log"
done

status=0
"$directory/native/frame_digest" >"$directory/native.txt"
"$directory/native/frame_digest" portable >"$directory/portable.txt"
run "$directory/arm64/frame_digest" >"$directory/arm64.txt" 2>"$directory/arm64.log" || status=$?
for other in portable arm64; do
	diff "$directory/native.txt" "$directory/$other.txt" >"$directory/differ.log" || status=1
	result "frames are alike: native and $other" "$status" "$directory/differ.log"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
