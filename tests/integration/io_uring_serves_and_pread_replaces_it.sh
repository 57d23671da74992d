#!/usr/bin/env bash
# The default mount reads the container through io_uring and never by pread64;
# where the kernel refuses io_uring it is the reverse, and modelfs-stat tells.
source "$(dirname "$0")/lib.sh"
need_fuse
need_program strace
need_program python3

cd "$tmp"
generate_model model.gguf BF16 24
pack model.mfs model.gguf
mkdir mnt

# engine_of MOUNT: as the running daemon reports it
engine_of() { python3 -c 'import json,sys; print(json.load(sys.stdin)["engine"])' <"$1/.modelfs/stats.json"; }

# count CALL FROM: traced calls after line FROM of the log
count() { tail -n "+$2" trace | grep -c "$1(" || true; }

# traced_mount [STRACE-OPTION...]: mounts in the background, as by default
traced_mount()
{
	mounts=("$tmp/mnt")
	strace -f -o trace -e trace=io_uring_setup,io_uring_enter,pread64,preadv,preadv2 "$@" \
		modelfs model.mfs "$tmp/mnt" 2>strace.err &
	tracer=$!
	pids+=("$tracer")
	wait_until 20 mounted_or_gone "$tmp/mnt" "$tracer" || fail "not mounted in 20 s"
	is_mounted "$tmp/mnt" || {
		cat strace.err >&2
		fail "not mounted under strace"
	}
	stat "$tmp/mnt/model.gguf" >/dev/null
	started=$(($(wc -l <trace) + 1))
	same mnt/model.gguf model.gguf
	engine=$(engine_of "$tmp/mnt")
	modelfs-stat "$tmp/mnt" >live.txt || fail "modelfs-stat of the mount failed"
	grep -qi "$engine" live.txt || fail "modelfs-stat of the mount does not name the engine"
	fusermount3 -u "$tmp/mnt"
	wait_until 20 is_gone "$tracer" || fail "the daemon outlived its mount"
	rings=$(count io_uring_enter "$started")
	preads=$(($(count pread64 "$started") + $(count preadv "$started") + \
		$(count preadv2 "$started")))
	note "engine $engine: io_uring_enter $rings, pread $preads"
}

traced_mount
if [ "$engine" = uring ]; then
	[ "$rings" -gt 0 ] || fail "engine uring, but no io_uring_enter"
	[ "$preads" -eq 0 ] || fail "engine uring, but $preads preads after start"
else
	grep -q 'io_uring_setup(.*= -1 E' trace || fail "io_uring works here, but $engine was chosen"
	note "the kernel refuses io_uring here: $(grep -m1 io_uring_setup trace)"
fi

for error in EPERM ENOSYS ENOMEM; do
	traced_mount -e "inject=io_uring_setup:error=$error"
	[ "$engine" != uring ] || fail "engine uring although io_uring_setup gave $error"
	[ "$rings" -eq 0 ] || fail "io_uring_enter although io_uring_setup gave $error"
	[ "$preads" -gt 0 ] || fail "neither io_uring nor pread read the container"
done
