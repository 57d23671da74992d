#!/usr/bin/env bash
# Files at the edges: empty, one byte, past 4 GiB, GGUF without tensors, with
# 10,000 tensors, with stacked experts; strange names; several in one container.
source "$(dirname "$0")/lib.sh"
need_fuse
need_program python3

names=(empty one.byte "a name with spaces.gguf" $'\u00e9l\u00e8ve \u6a21\u578b.gguf' experts.gguf
	large.bin -dash)
cd "$tmp"
mkdir src && cd src
: >empty
printf x >one.byte
python3 "$here/odd_gguf.py" no-tensors "${names[2]}"
python3 "$here/odd_gguf.py" small-tensors "${names[3]}"
python3 "$here/odd_gguf.py" experts experts.gguf
head -c 70001 /dev/urandom >./-dash
# One byte more than 32 bits can count, with something at both sides of the edge.
truncate -s $((4 * 1024 * 1024 * 1024 + 1)) large.bin
printf edge | dd of=large.bin bs=1 seek=$((4 * 1024 * 1024 * 1024 - 3)) conv=notrunc status=none
touch -d '1969-12-31 23:59:58.5 UTC' one.byte

pack "$tmp/odd.mfs" -- "${names[@]}"
modelfs-check "$tmp/odd.mfs" >&2 || fail "modelfs-check finds damage"
mount_container "$tmp/odd.mfs" "$tmp/mnt"
# Of the large one modelfs-check has hashed all, here it is the ends and the edge.
for at in 0 $((4 * 1024 * 1024 * 1024 - 1000000)); do
	cmp --ignore-initial=$at --bytes=2000000 "$tmp/mnt/large.bin" large.bin ||
		fail "large.bin differs behind $at"
done
for name in "${names[@]}"; do
	[ "$name" = large.bin ] || same "$tmp/mnt/$name" "./$name"
	[ "$(stat -c '%s %.Y' -- "$tmp/mnt/$name")" = "$(stat -c '%s %.Y' -- "./$name")" ] ||
		fail "$name: size or time differ"
	[ "$name" = large.bin ] || readcheck -s "$seed" -n 60 "$tmp/mnt/$name" "./$name"
done
ls "$tmp/mnt" >"$tmp/listing"
[ "$(wc -l <"$tmp/listing")" -eq "${#names[@]}" ] || fail "the directory lists something else"
unmount_container "$tmp/mnt" "$daemon"

mkdir "$tmp/out"
modelfs-extract -C "$tmp/out" "$tmp/odd.mfs" -- "${names[@]:0:5}" -dash ||
	fail "modelfs-extract failed"
for name in "${names[@]:0:5}" -dash; do
	same "$tmp/out/$name" "./$name"
done
[ ! -e "$tmp/out/large.bin" ] || fail "modelfs-extract wrote a file that was not asked for"
rm large.bin

# NAME=SOURCE, and a name that a source of the same name would collide with.
pack "$tmp/named.mfs" one.byte "two=one.byte" "deep name.gguf=experts.gguf"
modelfs-extract -C "$tmp/out" "$tmp/named.mfs" two "deep name.gguf"
same "$tmp/out/two" one.byte
same "$tmp/out/deep name.gguf" experts.gguf
refused any 'nothing-here' modelfs-extract -C "$tmp/out" "$tmp/named.mfs" nothing-here

# What git leaves when it did not fetch a model is no model; a damaged one is remarked on.
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 7\n' 0 >pointer.gguf
refused 1 'pointer.gguf: .*pointer of Git LFS' mkmodelfs -q "$tmp/pointer.mfs" pointer.gguf
pack "$tmp/pointer.mfs" --opaque pointer.gguf
printf 'not found' >page.gguf
mkmodelfs "$tmp/page.mfs" page.gguf 2>"$tmp/page.err" >/dev/null || fail "a page is not packed"
grep -q 'page.gguf: no GGUF file' "$tmp/page.err" || fail "no remark: $(cat "$tmp/page.err")"
