#!/usr/bin/env bash
# A medium on which one read in twenty fails: errors may reach the readers, wrong
# bytes may not, and the mount lives on. Ten seconds; half an hour in the long form.
source "$(dirname "$0")/lib.sh"
need_fuse
need_program python3

cd "$tmp"
seconds=10
[ "${MFS_SOAK:-0}" != 1 ] || seconds=1800
generate_model model.gguf BF16 48
pack model.mfs model.gguf
mkdir medium
mounts+=("$tmp/medium")
slowfile --eio 5 --seed "$seed" model.mfs medium >medium.log 2>&1 &
slow=$!
pids+=("$slow")
wait_until 10 is_mounted "$tmp/medium" || fail "slowfile: $(cat medium.log)"
# Opening reads the medium too, and may fail; it says so and can be tried again.
mkdir mnt
mounts+=("$tmp/mnt")
for ((i = 0; i < 20; i++)); do
	modelfs medium/medium mnt 2>mount.err && break
	[ -s mount.err ] || fail "no mount, and no reason"
done
is_mounted "$tmp/mnt" || fail "20 attempts to mount failed: $(cat mount.err)"

python3 - mnt/model.gguf model.gguf "$seconds" "$seed" <<'READ' || fail "see above"
import errno, os, random, sys, threading, time
mounted, source, seconds, seed = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
with open(source, "rb") as f:
    want = f.read()
end = time.monotonic() + seconds
counts = {"good": 0, "refused": 0, "wrong": 0}

def reader(number):
    rng = random.Random(seed + number)
    fd = os.open(mounted, os.O_RDONLY)
    while time.monotonic() < end:
        offset, length = rng.randrange(len(want)), rng.randrange(1, 600000)
        if rng.random() < 0.2:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            got = os.pread(fd, length, offset)
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            counts["refused"] += 1
            continue
        ok = got == want[offset:offset + len(got)] and got
        counts["good" if ok else "wrong"] += 1

threads = [threading.Thread(target=reader, args=(i,)) for i in range(4)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print(f"{counts} reads in {seconds:g} s, seed {seed}", file=sys.stderr)
sys.exit(counts["wrong"] > 0 or counts["good"] == 0)
READ
modelfs-stat mnt >live.txt || fail "the mount does not answer any more"
daemon=$(python3 -c 'import json,sys; print(json.load(sys.stdin)["pid"])' <mnt/.modelfs/stats.json)
fusermount3 -u mnt
wait_until 20 is_gone "$daemon" || fail "the daemon outlived its mount"
# The kernel closes a ring's files a little after the process.
wait_until 10 fusermount3 -u medium 2>/dev/null || fail "the medium is still in use"
wait "$slow" || fail "slowfile ended with an error"
awk '{ exit !($6 > 0) }' medium.log || fail "no read failed: $(cat medium.log)"
note "the medium: $(cat medium.log)"
