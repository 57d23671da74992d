#!/usr/bin/env bash
# Passes over a model of which memory holds a part: each reads what the cache does
# not hold, as the block device under the container counts it; with auto the cache
# finds its size in a memory cgroup; the daemon stays within its memory.
source "$(dirname "$0")/lib.sh"
need_fuse
need_root

loop=
group=/sys/fs/cgroup/memory/$test_name-$$
# The programs first, then what they stood on.
end_here()
{
	local status=$?

	(
		trap - EXIT
		for pid in "${pids[@]}"; do end_process "$pid"; done
	)
	[ -z "$loop" ] || losetup -d "$loop" || true
	[ ! -d "$group" ] || wait_until 5 rmdir "$group" 2>/dev/null || true
	set +e # so that this only sets what cleanup() finds
	(exit "$status")
	cleanup
}
trap end_here EXIT

cd "$tmp"
generate_model model.gguf BF16 96
pack model.mfs model.gguf
stored=$(stat -c %s model.mfs)
loop=$(losetup -f --show -r --direct-io=on model.mfs 2>/dev/null) ||
	skip "no loop device can be had"

# Bytes that were read from the device so far.
medium() { echo $(($(awk '{ print $3 }' "/sys/block/${loop##*/}/stat") * 512)); }
counter() { modelfs-stat --json mnt | sed -n "s/^ *\"$1\": \([0-9]*\),*\$/\1/p"; }

# Reads the model past the page cache and compares; prints bytes of the device.
pass()
{
	local before

	before=$(medium)
	dd if=mnt/model.gguf iflag=direct bs=1M status=none | cmp - model.gguf >&2 ||
		fail "the mount differs from the source"
	echo $(($(medium) - before))
}

cache=$((stored / 2))
mount_container "$loop" "$tmp/mnt" -o "cache=$cache,arena=16M"
note "stored $stored, cache $cache, first pass: $(pass)"
for i in 1 2 3; do
	counted=$(counter medium_bytes)
	bytes=$(pass)
	counted=$(($(counter medium_bytes) - counted))
	note "pass $i: $bytes from the device, $counted as the daemon counts"
	[ "$bytes" -le $(((stored - cache) * 105 / 100)) ] || fail "too many bytes were read"
	[ "$bytes" -ge $((stored / 4)) ] || fail "no medium was read: this counts nothing"
	# The device may be read in larger blocks than were asked for.
	[ $((bytes - counted)) -le $((stored / 50)) ] || fail "the daemon counts other bytes"
done
[ "$(counter cache_used_bytes)" -le "$cache" ] || fail "the cache is larger than asked"
peak=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$daemon/status")
note "the daemon's memory at its peak: $peak kB"
if ! sanitized && [ "$peak" -gt $(((cache >> 10) + (48 << 10))) ]; then
	fail "the daemon used more than arena, cache and 32 MiB"
fi
unmount_container "$tmp/mnt" "$daemon"

sanitized && exit 0
mkdir "$group" 2>/dev/null || {
	note "no memory cgroup of version 1 can be had: auto is not tried"
	exit 0
}
echo $((80 << 20)) >"$group/memory.limit_in_bytes"
bash -c 'echo $$ >"$1/cgroup.procs"; exec modelfs -f -o cache=auto,arena=16M "$2" "$3"' \
	- "$group" "$loop" "$tmp/mnt" >"$tmp/mnt.log" 2>&1 &
daemon=$!
pids+=("$daemon")
wait_until 20 mounted_or_gone "$tmp/mnt" "$daemon" || fail "not mounted in 20 s"
is_mounted "$tmp/mnt" || fail "not mounted: $(cat "$tmp/mnt.log")"
for i in 1 2 3; do
	note "auto, pass $i: $(pass), cache $(counter cache_used_bytes)"
done
used=$(counter cache_used_bytes)
[ "$used" -ge $((24 << 20)) ] || fail "the cache found next to no memory"
[ "$used" -le $((68 << 20)) ] || fail "the cache left no memory"
# When others in the group need memory, bit by bit, the cache gives it back.
bash -c 'echo $$ >"$1/cgroup.procs"; exec python3 -c "
import time
held = []
for i in range(6):
    held.append(bytearray(b\"x\") * (4 << 20))
    time.sleep(0.8)
time.sleep(60)"' - "$group" &
pids+=("$!")
has_shrunk() { [ "$(counter cache_used_bytes)" -le $((used - (16 << 20))) ]; }
wait_until 20 has_shrunk || fail "the cache did not shrink: $(counter cache_used_bytes)"
note "beside a program of 24 MiB: $(counter cache_used_bytes), before: $used"
pass >/dev/null
unmount_container "$tmp/mnt" "$daemon"
