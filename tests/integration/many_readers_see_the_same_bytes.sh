#!/usr/bin/env bash
# Sixteen processes with eight threads each read at once, in every way and with every
# hint: models, an adapter, a merged view and a file that is no model. Once with as much memory as the machine has, when the
# daemon must stay within its own; once with all of them in a memory cgroup that
# holds a part of what they map, so that pages go while they are read.
source "$(dirname "$0")/lib.sh"
need_fuse
export ASAN_OPTIONS=detect_leaks=1

megabytes=48
limit=$((128 << 20)) # without one they use 190 to 220 MiB
preads=25
if sanitized; then
	megabytes=12
	limit=$((640 << 20)) # sanitizers use most of it
	# TSan 300 MiB in the daemon alone: with less it is killed.
	[ "$MFS_SANITIZED" != thread ] || limit=$((1280 << 20))
	preads=10
fi
if [ "${MFS_SOAK:-0}" = 1 ]; then
	megabytes=$((megabytes * 8))
	preads=2000
fi
group=
end_here()
{
	local status=$?

	# At once: one after another takes too long where a sanitizer slows them.
	[ ${#pids[@]} = 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
	[ -z "$group" ] || wait_until 5 rmdir "$group" 2>/dev/null || true
	set +e # so that this only sets what cleanup() finds
	(exit "$status")
	cleanup
}
trap end_here EXIT

cd "$tmp"
generate_model model.gguf BF16 $megabytes --lora adapter.gguf --rank 4
generate_model second.gguf Q4_K_M $((megabytes / 2))
{
	seq 200000
	tail -c 1000003 second.gguf
} >words.txt
pack models.mfs model.gguf second.gguf words.txt --base model.gguf --lora x=adapter.gguf \
	--views f16
names=(model.gguf second.gguf merged/x.f16.gguf words.txt model.gguf adapters/x.gguf)
modelfs-extract --quiet models.mfs merged/x.f16.gguf adapters/x.gguf ||
	fail "the view cannot be extracted"

# in_group COMMAND...: becomes the command, in the group from its first page on, if there
# is one.
in_group()
{
	[ -z "$group" ] || echo "$BASHPID" >"$group/cgroup.procs"
	exec "$@"
}

# read_all_ways ROUND
read_all_ways()
{
	local readers=() name pid

	for ((i = 0; i < 16; i++)); do
		name=${names[i % ${#names[@]}]}
		in_group readcheck -s $((seed + i)) -n $preads "mnt/$name" "$name" >/dev/null &
		readers+=("$!")
		pids+=("$!")
	done
	for pid in "${readers[@]}"; do
		wait "$pid" || fail "$1: a reader saw something else, seed $seed"
	done
}

mount_container models.mfs "$tmp/mnt" -o arena=32M,cache=8M
read_all_ways "all memory"
peak=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$daemon/status")
note "the daemon's memory at its peak: $peak kB, arena 32 MiB, cache 8 MiB, one view"
# Arena, cache, index, 32 MiB, and 16 MiB for the view.
sanitized || [ "$peak" -lt $((90 << 10)) ] || fail "the daemon used $peak kB"
unmount_container "$tmp/mnt" "$daemon"

group=/sys/fs/cgroup/memory/$test_name-$$
if ! mkdir "$group" 2>/dev/null; then
	group=
	note "no memory cgroup of version 1 can be had: not tried"
	exit 0
fi
echo $limit >"$group/memory.limit_in_bytes"
mount_container models.mfs "$tmp/mnt" -o arena=32M,cache=8M
echo "$daemon" >"$group/cgroup.procs"
read_all_ways "in the cgroup"
met=$(cat "$group/memory.failcnt")
note "in a cgroup of $((limit >> 20)) MiB: the limit was met $met times"
sanitized || [ "$met" -gt 0 ] || fail "there was no shortage: this tried nothing"
unmount_container "$tmp/mnt" "$daemon"
