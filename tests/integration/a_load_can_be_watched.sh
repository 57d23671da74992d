#!/usr/bin/env bash
# modelfs-stat --watch follows a load, as lines, as JSON and on a terminal, until
# the mount ends.
source "$(dirname "$0")/lib.sh"
need_fuse

cd "$tmp"
generate_model model.gguf BF16 32
head -c 300000 /dev/urandom >tokenizer.json
pack model.mfs model.gguf tokenizer.json
mkdir medium
mounts+=("$tmp/medium")
slowfile --latency-us 500 --mbps 40 --channels 1 model.mfs medium >medium.log 2>&1 &
pids+=("$!")
wait_until 10 is_mounted "$tmp/medium" || fail "slowfile: $(cat medium.log)"
mount_container medium/medium "$tmp/mnt"

misuse()
{
	local status=0

	modelfs-stat "$@" >/dev/null 2>&1 || status=$?
	[ "$status" -eq 2 ] || fail "status $status, not 2: modelfs-stat $*"
}
refused 1 'model.mfs: not a directory: --watch needs a MOUNTPOINT' modelfs-stat --watch model.mfs
refused 1 'medium: not a modelfs mount' modelfs-stat --watch 1 medium
misuse --watch=soon mnt
misuse --watch 0 mnt
misuse --watch 1 mnt mnt

modelfs-stat --json --watch=0.1 mnt >watch.json &
as_json=$!
modelfs-stat --watch 0.1 mnt >watch.txt &
as_lines=$!
python3 "$here/terminal.py" 70 12 terminal.txt modelfs-stat --watch 0.1 mnt &
as_picture=$!
NO_COLOR=1 python3 "$here/terminal.py" 40 6 plain.txt modelfs-stat --watch 0.1 mnt &
as_small=$!
pids+=("$as_json" "$as_lines" "$as_picture" "$as_small")
wait_until 20 test -s watch.json || fail "nothing is shown"
same model.gguf mnt/model.gguf
same tokenizer.json mnt/tokenizer.json
lines() { wc -l <"$1"; }
seen=$(lines watch.json)
more() { [ "$(lines watch.json)" -gt $((seen + 2)) ] && grep -q 'touched 100.0 %' watch.txt; }
wait_until 20 more || fail "the end of the load is not shown"
shown() { grep -q '100.0 %' terminal.txt && grep -q '100.0 %' plain.txt; }
wait_until 20 shown || fail "the end of the load is not drawn"

# A signal ends it well.
modelfs-stat --watch=0.1 mnt >interrupted.txt &
pid=$!
pids+=("$pid")
wait_until 20 test -s interrupted.txt || fail "nothing is shown"
kill -INT "$pid"
wait "$pid" || fail "status $? after SIGINT"

# Also while the daemon does not answer.
mount_container model.mfs "$tmp/dead"
modelfs-stat --watch=0.1 dead >stopped.txt &
pid=$!
pids+=("$pid")
wait_until 20 test -s stopped.txt || fail "nothing is shown"
kill -STOP "$daemon"
sleep 0.5
kill -INT "$pid"
ended=no
if wait_until 20 is_gone "$pid"; then ended=yes; fi
kill -CONT "$daemon"
[ $ended = yes ] || fail "a daemon that does not answer keeps the watcher"
wait "$pid" || fail "status $? after SIGINT, the daemon being stopped"

# A daemon that was killed is told apart from the end of a mount.
modelfs-stat --watch=0.1 dead >dead.txt 2>dead.err &
pid=$!
pids+=("$pid")
wait_until 20 test -s dead.txt || fail "nothing is shown"
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null || true
status=0
wait "$pid" || status=$?
[ "$status" = 1 ] || fail "the daemon died: status $status"
grep -q 'the daemon has died: unmount' dead.err || fail "the daemon died: $(cat dead.err)"
unmount "$tmp/dead"

# So does the end of the mount.
unmounted() { fusermount3 -u "$tmp/mnt" 2>unmount.err; } # may be busy for a moment
wait_until 20 unmounted || fail "watching keeps the mount busy"
for pid in "$as_json" "$as_lines" "$as_picture" "$as_small"; do
	wait "$pid" || fail "status $? after the mount has ended"
done

python3 - <<'EOF' || fail "watch.json is not right"
import json
rows = [json.loads(line) for line in open("watch.json")]
size = sum(f["size"] for f in rows[0]["files"])
touched = [r["watch"]["touched_bytes"] for r in rows]
assert touched == sorted(touched) and touched[-1] == size, touched
assert [f["name"] for f in rows[0]["files"]] == ["model.gguf", "tokenizer.json"]
loading = [r["watch"] for r in rows if r["watch"]["served_bytes_per_second"]]
assert loading
for w in loading:
    assert 0 <= w["medium_busy"] <= 1 and 0 <= w["decoders_busy"] <= 1
    assert w["cache_hits"] is None or 0 <= w["cache_hits"] <= 1
assert sum(w["medium_bytes_per_second"] for w in loading) > 0
assert rows[-1]["medium_bytes"] >= rows[0]["medium_bytes"]
EOF
python3 - <<'EOF' || fail "the picture is not right"
import re
picture = open("terminal.txt", newline="").read()
for word in ("model.gguf", "tokenizer.json", "medium", "decoders", "delivered", "no errors"):
    assert word in picture, word
assert "\033[48;5;32m" in picture
assert re.search(r"\033\[9A\r", picture)  # two files: nine lines, drawn over
small = open("plain.txt", newline="").read()
assert "\033[48" not in small and "#" in small
# Six rows are too few for all of it: the picture is never higher than the terminal.
assert all(int(n) < 6 for n in re.findall(r"\033\[(\d+)A", small)), small
EOF
