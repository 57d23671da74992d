#!/usr/bin/env bash
# While every read of the medium takes five seconds, attributes, directories and
# what is cached answer within 50 ms, however many readers wait.
source "$(dirname "$0")/lib.sh"
need_fuse

cd "$tmp"
generate_model model.gguf BF16 96
printf small >config.json
pack model.mfs model.gguf config.json
mkdir medium
mounts+=("$tmp/medium")
# With the kernel's default of 12 reads under way the medium is soon full.
slowfile --background 12 --stall "$tmp/stall" --stall-ms 5000 model.mfs medium >medium.log 2>&1 &
pids+=("$!")
wait_until 10 is_mounted "$tmp/medium" || fail "slowfile: $(cat medium.log)"
mount_container medium/medium "$tmp/mnt"

cached=$((1 << 20))
head -c "$cached" mnt/model.gguf | cmp -n "$cached" - model.gguf || fail "the first bytes differ"
cat mnt/config.json >/dev/null
size=$(stat -c %s model.gguf)

touch stall
readers=()
for ((i = 0; i < 48; i++)); do
	offset=$((8 * cached + i * ((size - 9 * cached) / 48)))
	cmp -i "$offset" -n 300000 mnt/model.gguf model.gguf >&2 &
	readers+=("$!")
done
sleep 0.5
start=$(date +%s%N)
promptcheck -n 20 -l 50 "$tmp/mnt" model.gguf 0 "$cached" || fail "something waited for the medium"
promptcheck -n 20 -l 50 "$tmp/mnt" config.json 0 5 || fail "something waited for the medium"
cat mnt/.modelfs/stats.json >/dev/null
elapsed=$((($(date +%s%N) - start) / 1000000))
[ "$elapsed" -lt 3000 ] || fail "the questions took $elapsed ms together"
still=0
for pid in "${readers[@]}"; do
	is_gone "$pid" || still=$((still + 1))
done
note "$still of ${#readers[@]} readers were waiting meanwhile"
[ "$still" -gt 0 ] || fail "no reader was waiting: the medium was not stalled"
rm stall
for pid in "${readers[@]}"; do
	wait "$pid" || fail "a reader that had to wait got something else than the bytes"
done
unmount_container "$tmp/mnt" "$daemon"
