#!/usr/bin/env bash
# SIGTERM, SIGINT and SIGHUP unmount within two seconds with status 0, also with
# files open and mapped; after SIGKILL the next mount works.
source "$(dirname "$0")/lib.sh"
need_fuse

cd "$tmp"
generate_model model.gguf BF16 24
pack model.mfs model.gguf
limit=2
! sanitized || limit=10

# ends_by SIGNAL: the daemon is gone in time, with status 0, and so is the mount
ends_by()
{
	local status=0

	kill -"$1" "$daemon"
	wait_until "$limit" is_gone "$daemon" || fail "SIG$1: still there after $limit s"
	wait "$daemon" || status=$?
	[ "$status" -eq 0 ] || {
		cat "$tmp/mnt.log" >&2
		fail "SIG$1: status $status"
	}
	! is_mounted "$tmp/mnt" || fail "SIG$1: still mounted"
}

rounds=2
[ "${MFS_SOAK:-0}" != 1 ] || rounds=70
for ((i = 0; i < rounds; i++)); do
	for signal in TERM INT HUP; do
		mount_container model.mfs "$tmp/mnt"
		same mnt/model.gguf model.gguf
		ends_by "$signal"

		mount_container model.mfs "$tmp/mnt"
		exec 9<mnt/model.gguf
		head -c 100000 <&9 >/dev/null
		(cat mnt/model.gguf >/dev/null 2>&1 || true) &
		reader=$!
		ends_by "$signal"
		exec 9<&-
		wait "$reader"
	done
done

rounds=3
[ "${MFS_SOAK:-0}" != 1 ] || rounds=300
for ((i = 0; i < rounds; i++)); do
	mount_container model.mfs "$tmp/mnt"
	(cat mnt/model.gguf >/dev/null 2>&1 || true) &
	reader=$!
	sleep 0.01
	kill -KILL "$daemon"
	wait "$daemon" 2>/dev/null || true
	wait "$reader"
	unmount "$tmp/mnt"
	mount_container model.mfs "$tmp/mnt"
	same mnt/model.gguf model.gguf
	unmount_container "$tmp/mnt" "$daemon"
done
