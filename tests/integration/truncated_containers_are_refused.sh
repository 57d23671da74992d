#!/usr/bin/env bash
# A container that lost its end is refused with the reason: every length up to
# 64 KiB and many others in the library, some through every program.
source "$(dirname "$0")/lib.sh"
need_program python3

cd "$tmp"
python3 "$here/odd_gguf.py" experts experts.gguf
generate_model model.gguf BF16 4
pack whole.mfs experts.gguf model.gguf
cuts=300
[ "${MFS_SOAK:-0}" != 1 ] || cuts=1000
step=1
! sanitized || step=16
flipcheck -t -s "$seed" -n "$cuts" -e "$step" whole.mfs experts.gguf model.gguf

size=$(stat -c %s whole.mfs)
mkdir mnt out
for length in 0 1 4095 4096 65535 65536 $((size / 2)) $((size - 4096)) $((size - 1)); do
	head -c "$length" whole.mfs >cut.mfs
	mounts=("$tmp/mnt")
	refused any cut.mfs modelfs cut.mfs "$tmp/mnt"
	! is_mounted "$tmp/mnt" || fail "$length bytes: mounted"
	refused any cut.mfs modelfs-stat cut.mfs
	refused any cut.mfs modelfs-check cut.mfs
	refused any cut.mfs modelfs-extract -C out cut.mfs
	[ -z "$(ls out)" ] || fail "$length bytes: something was extracted"
done

# Bytes past the end are no damage: an append that was cut off left them.
head -c 12345 /dev/urandom >>whole.mfs
modelfs-extract -C out whole.mfs
same out/model.gguf model.gguf
