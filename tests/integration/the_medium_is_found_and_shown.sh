#!/usr/bin/env bash
# The mount says what it lies on and how reads are queued for it; options have
# the last word. Root's mounts read 1 MiB ahead, of experts on slow media less.
source "$(dirname "$0")/lib.sh"
need_fuse

cd "$tmp"
generate_model model.gguf BF16 16
pack model.mfs --profile nvme model.gguf
stat_of() { python3 -c 'import json,sys; d=json.load(sys.stdin); print(eval(sys.argv[1],{},d))' "$2" <"$1/.modelfs/stats.json"; }
is() { [ "$(stat_of mnt "$1")" = "$2" ] || fail "$1 is $(stat_of mnt "$1"), not $2"; }
check_and_unmount()
{
	same model.gguf mnt/model.gguf
	unmount_container "$tmp/mnt" "$daemon"
}

mount_container model.mfs "$tmp/mnt"
is profile nvme
is 'medium["source"] in ("sysfs", "probe", "profile")' True
is 'medium["depth"] == depth and medium["request_bytes"] == request_bytes' True
note "this medium: $(modelfs-stat mnt | grep '  medium')"
before=$(stat_of mnt read_ahead_kb)
if [ "$(id -u)" = 0 ] && [ -w "/sys/class/bdi/0:$(connection_of "$tmp/mnt")/read_ahead_kb" ]; then
	is read_ahead_kb 1024
	modelfs-stat mnt | grep -q 'reads ahead 1024 KiB' || fail "modelfs-stat does not say so"
fi
check_and_unmount

if [ "$(id -u)" = 0 ] && [ "$before" = 1024 ]; then
	mount_container model.mfs "$tmp/mnt" -o read_ahead_kb=256
	is read_ahead_kb 256
	check_and_unmount
	mount_container model.mfs "$tmp/mnt" -o read_ahead_kb=0
	is read_ahead_kb 128 # what kernels begin with
	check_and_unmount

	generate_model experts.gguf BF16 16 --experts 8
	pack experts.mfs model.gguf=experts.gguf
	for expected in sd=256 sata=256 nvme=1024; do
		mount_container experts.mfs "$tmp/mnt" -o "profile=${expected%=*}"
		is read_ahead_kb "${expected#*=}"
		unmount_container "$tmp/mnt" "$daemon"
	done
	mount_container experts.mfs "$tmp/mnt" -o profile=sd,read_ahead_kb=512
	is read_ahead_kb 512
	unmount_container "$tmp/mnt" "$daemon"
fi

# A directory that /proc has to escape.
mkdir "a b\\c"
modelfs model.mfs "a b\\c" || fail "cannot be mounted on a name with a blank"
mounts+=("$tmp/a b\\c")
set_to=$(stat_of "$tmp/a b\\c" read_ahead_kb)
fusermount3 -u "a b\\c" || fail "cannot be unmounted"
[ "$set_to" = "$before" ] || fail "read-ahead is $set_to KiB, not $before"

mount_container model.mfs "$tmp/mnt" -o profile=nand
is 'medium["source"]' option
is 'medium["queue"]' nand
is 'medium["latency_us"]' None
is request_bytes 131072
is depth 1
modelfs-stat mnt | grep -q 'nvme, queued as for nand' || fail "modelfs-stat does not say so"
check_and_unmount

# Memory needs no probe.
if [ "$(stat -fc %T /dev/shm 2>/dev/null)" = tmpfs ] && [ -w /dev/shm ]; then
	in_memory=$(mktemp /dev/shm/mfs-XXXXXX)
	cp model.mfs "$in_memory"
	mount_container "$in_memory" "$tmp/mnt"
	rm "$in_memory"
	is 'medium["kind"] + medium["source"]' memorysysfs
	is 'medium["latency_us"]' None
	check_and_unmount
fi

# Nothing but a file system of somebody's is known: it is measured, or, where the
# machine has no time, taken for what the container was packed for.
mkdir medium
mounts+=("$tmp/medium")
slowfile --latency-us 500 --mbps 90 --channels 1 model.mfs medium >medium.log 2>&1 &
pids+=("$!")
wait_until 10 is_mounted "$tmp/medium" || fail "slowfile: $(cat medium.log)"
mount_container medium/medium "$tmp/mnt"
is 'medium["kind"]' fuse
is 'medium["source"] == ("probe" if medium["latency_us"] else "profile")' True
check_and_unmount

for bad in x -1 1M 65537; do
	status=0
	modelfs -o "read_ahead_kb=$bad" model.mfs mnt 2>misuse.err || status=$?
	[ "$status" -eq 2 ] || fail "read_ahead_kb=$bad: status $status"
	grep -q "read_ahead_kb=$bad: not a number up to 65536" misuse.err || fail "$(cat misuse.err)"
done
