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
for file in files/bad-*; do
	name=$(basename "$file")
	status=0
	/usr/bin/time -q -f '%U %S %M' -o usage timeout 20 \
		mkmodelfs --quiet c.mfs "$file" >message.out 2>message || status=$?
	[ "$status" -ne 0 ] || fail "$name was packed"
	[ "$status" -lt 124 ] || fail "$name: status $status: $(cat message)"
	[ "$(wc -l <message)" -eq 1 ] || fail "$name: not one line: $(cat message)"
	grep -qF "$name" message || fail "$name is not named: $(cat message)"
	grep -qF -- --opaque message || fail "$name: no way on is named: $(cat message)"
	[ -z "$(find . -maxdepth 1 -name 'c.mfs*')" ] || fail "$name: a container was left"
	read -r user system kilobytes <usage
	read -r slowest largest < <(awk -v u="$user" -v s="$system" -v k="$kilobytes" \
		-v slow="$slowest" -v big="$largest" 'BEGIN {
			t = u + s
			print (t > slow ? t : slow), (k > big ? k : big) }')
	if ! sanitized; then
		awk -v t="$slowest" 'BEGIN { exit t >= 1 }' || fail "$name: $user + $system s"
		[ "$kilobytes" -lt 65536 ] || fail "$name: $kilobytes kB"
	fi
	pack c.mfs --opaque "$file"
	rm -rf out
	mkdir out
	modelfs-extract -C out c.mfs
	same "out/$name" "$file"
	rm c.mfs
	bad=$((bad + 1))
done
for file in files/good-*; do
	pack c.mfs "$file"
	rm -rf out
	mkdir out
	modelfs-extract -C out c.mfs
	same "out/$(basename "$file")" "$file"
	rm c.mfs
	good=$((good + 1))
done
if [ "$bad" -lt 20 ] || [ "$good" -lt 1 ]; then
	fail "only $bad bad and $good good files"
fi
note "$bad refused (slowest $slowest s, largest $largest kB), $good packed"
