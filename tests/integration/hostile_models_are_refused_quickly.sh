#!/usr/bin/env bash
# Each broken model is refused within a second with one line that names it, and
# travels byte for byte with --opaque; the odd but valid ones are packed as they
# are.
source "$(dirname "$0")/lib.sh"
[ -x /usr/bin/time ] || skip "/usr/bin/time is not installed"

cd "$tmp"
mkdir files out
for format in gguf safetensors; do
	"hostile_$format" files || fail "hostile_$format failed"
done
bad=0
good=0
slowest=0
largest=0

# try_packing FILE: sets `status`, `seconds` of processor time, and `kilobytes`
try_packing()
{
	local user system

	status=0
	/usr/bin/time -q -f '%U %S %M' -o usage timeout 20 \
		mkmodelfs --quiet c.mfs "$1" >message.out 2>message || status=$?
	read -r user system kilobytes <usage
	seconds=$(awk -v u="$user" -v s="$system" 'BEGIN { print u + s }')
}

# under A B: as numbers
under() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'; }

for file in files/bad-*; do
	name=$(basename "$file")
	# Beside other work a processor is slower: the best of three counts.
	for _ in 1 2 3; do
		try_packing "$file"
		! under "$seconds" 1 || break
	done
	[ "$status" -ne 0 ] || fail "$name was packed"
	[ "$status" -lt 124 ] || fail "$name: status $status: $(cat message)"
	[ "$(wc -l <message)" -eq 1 ] || fail "$name: not one line: $(cat message)"
	grep -qF "$name" message || fail "$name is not named: $(cat message)"
	grep -qF -- --opaque message || fail "$name: no way on is named: $(cat message)"
	[ -z "$(find . -maxdepth 1 -name 'c.mfs*')" ] || fail "$name: a container was left"
	! under "$slowest" "$seconds" || slowest=$seconds
	[ "$kilobytes" -le "$largest" ] || largest=$kilobytes
	if ! sanitized; then
		under "$seconds" 1 || fail "$name: $seconds s"
		[ "$kilobytes" -lt 65536 ] || fail "$name: $kilobytes kB"
	fi
	bad=$((bad + 1))
done

# come_back CONTAINER FILE...: all of them, byte for byte
come_back()
{
	local file

	rm -rf out
	mkdir out
	modelfs-extract --quiet -C out "$1" || fail "$1: not extracted"
	for file in "${@:2}"; do
		same "out/$(basename "$file")" "$file"
	done
}

pack opaque.mfs --opaque files/bad-*
come_back opaque.mfs files/bad-*
pack good.mfs files/good-*
come_back good.mfs files/good-*
good=$(find files -name 'good-*' | wc -l)
if [ "$bad" -lt 20 ] || [ "$good" -lt 1 ]; then
	fail "only $bad bad and $good good files"
fi
note "$bad refused (slowest $slowest s, largest $largest kB), $good packed"
