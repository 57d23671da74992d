#!/usr/bin/env bash
# Sixteen processes with eight threads each read at once, in every way; the
# daemon stays within its memory.
source "$(dirname "$0")/lib.sh"
need_fuse

cd "$tmp"
generate_model model.gguf BF16 48
generate_model second.gguf Q4_0 24
pack models.mfs model.gguf second.gguf
mount_container models.mfs "$tmp/mnt" -o arena=32M
readers=()
for ((i = 0; i < 16; i++)); do
	name=$([ $((i % 4)) = 0 ] && echo second.gguf || echo model.gguf)
	readcheck -s $((seed + i)) -n 25 "mnt/$name" "$name" >/dev/null &
	readers+=("$!")
done
for pid in "${readers[@]}"; do
	wait "$pid" || fail "a reader saw something else, seed $seed"
done
peak=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$daemon/status")
note "the daemon's memory at its peak: $peak kB, arena 32 MiB"
sanitized || [ "$peak" -lt $((96 << 10)) ] || fail "the daemon used $peak kB"
unmount_container "$tmp/mnt" "$daemon"
