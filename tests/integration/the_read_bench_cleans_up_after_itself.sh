#!/usr/bin/env bash
# tests/bench/readpath on a small model: every row has its figures, the bytes are the
# same for all peers, and neither its end nor a signal leaves a mount or a loop device.
. "$(dirname "$0")/lib.sh"
need_root
need_fuse
need_program fio
need_program mke2fs
need_program python3
losetup -f >/dev/null 2>&1 || skip "no loop devices here"

# What a run has to itself: mounts, loop devices and images all lie in here.
mkdir "$tmp/ram" "$tmp/places"
bench()
{
	TMPDIR=$tmp/places exec "$MFS_SOURCE/tests/bench/readpath" --no-install --keep-caches \
		--build "$MFS_BIN" --work "$tmp/work" --ram "$tmp/ram" --size 8M --models BF16 \
		--media sd90,none --scenarios mmap,load,random,warm,order --runs 1 \
		--fio-seconds 0.1 --faults 200 --peers plain,plain+cat,fuse-only,modelfs,modelfs-replay \
		--json "$tmp/bench.json" "$@"
}

left_behind()
{
	grep -F "$tmp/" /proc/self/mountinfo
	losetup -l -n -O BACK-FILE | grep -F "$tmp/"
	find "$tmp/ram" "$tmp/places" -mindepth 1
}
nothing_left() { [ -z "$(left_behind)" ]; }

(bench) >"$tmp/out" 2>"$tmp/err" || fail "readpath: $(tail -n 3 "$tmp/err")"
nothing_left || fail "left behind: $(left_behind)"
python3 - "$tmp/bench.json" <<-'END' || fail "rows are missing: $(cat "$tmp/out")"
	import json, sys
	cells = json.load(open(sys.argv[1]))["cells"]
	rows = {(c["medium"], c["scenario"], c["peer"]) for c in cells}
	assert all(run["rate"] > 0 for c in cells for run in c["runs"])
	assert all(run["medium_bytes"] > 0 for c in cells for run in c["runs"]
	           if c["scenario"] != "warm" and c["peer"] != "fuse-only")
	assert len(rows) >= 2 * 4 * 2 + 2 * 2 + 2 * 3 + 3
	# FUSE alone is as slow as the medium lets modelfs be.
	pace = {c["medium"]: c["runs"][0]["seconds"] for c in cells
	        if (c["scenario"], c["peer"]) == ("mmap", "fuse-only")}
	assert pace["sd90"] > 0.05, pace
	assert all("warm_reads" in run for c in cells for run in c["runs"]
	           if c["scenario"] == "warm" and c["peer"] == "modelfs")
END
grep -q 'sd90 BF16 mmap / (r x medium)' "$tmp/out" || fail "no goals were judged"

# A signal while something is mounted.
bench --media sd90 --scenarios mmap --runs 50 >"$tmp/out" 2>"$tmp/err" &
running=$!
pids+=("$running")
wait_until 60 grep -q 'run 2' "$tmp/err" || fail "not running: $(tail -n 3 "$tmp/err")"
kill -TERM "$running"
wait_until 60 is_gone "$running" || fail "does not end on a signal"
nothing_left || fail "left behind after a signal: $(left_behind)"
