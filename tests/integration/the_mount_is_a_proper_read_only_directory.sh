#!/usr/bin/env bash
# stat, readdir and statfs tell the truth; every way of writing gives EROFS.
source "$(dirname "$0")/lib.sh"
need_fuse
need_program python3

cd "$tmp"
generate_model model.gguf F16 8
printf '%s' '{}' >config.json
touch -d '2024-02-29 12:34:56.789 UTC' config.json
pack model.mfs model.gguf config.json
mount_container model.mfs "$tmp/mnt"

ls -la mnt >listing
[ "$(grep -c '^-r--r--r--' listing)" -eq 2 ] || fail "modes: $(cat listing)"
[ "$(find mnt -mindepth 1 -maxdepth 1 -printf '%f\n' | sort | tr '\n' ' ')" = \
	"config.json model.gguf " ] || fail "the directory: $(cat listing)"
[ "$(stat -c '%.Y' mnt/config.json)" = "$(stat -c '%.Y' config.json)" ] || fail "time of config.json"
[ "$(stat -c '%F %u' mnt)" = "directory $(id -u)" ] || fail "the root is not ours"
read -r blocks unit < <(stat -f -c '%b %S' mnt)
[ $((blocks * unit)) -ge "$(stat -c %s model.mfs)" ] || fail "statfs: $blocks blocks of $unit"
[ "$(stat -f -c '%f' mnt)" -eq 0 ] || fail "statfs shows free room on a read-only mount"
ls -a mnt >listing
! grep -q "[.]modelfs" listing || fail ".modelfs is listed"
python3 -m json.tool mnt/.modelfs/stats.json >/dev/null || fail "stats.json is not JSON"
modelfs-stat mnt >live.txt || fail "modelfs-stat of a mount failed"

python3 - mnt <<'WRITES' || fail "a write was not refused with EROFS"
import errno, os, sys
top = sys.argv[1]
old, new = top + "/model.gguf", top + "/new"
attempts = {
    "open for writing": lambda: os.open(old, os.O_WRONLY),
    "open for both": lambda: os.open(old, os.O_RDWR),
    "truncating open": lambda: os.open(old, os.O_RDONLY | os.O_TRUNC),
    "create": lambda: os.open(new, os.O_CREAT | os.O_RDWR, 0o600),
    "truncate": lambda: os.truncate(old, 0),
    "unlink": lambda: os.unlink(old),
    "rename": lambda: os.rename(old, new),
    "link": lambda: os.link(old, new),
    "symlink": lambda: os.symlink("x", new),
    "mkdir": lambda: os.mkdir(new),
    "chmod": lambda: os.chmod(old, 0o777),
    "utime": lambda: os.utime(old),
}
bad = 0
for name, attempt in attempts.items():
    try:
        attempt()
        print(f"{name}: allowed")
    except OSError as e:
        if e.errno == errno.EROFS:
            continue
        print(f"{name}: {e}")
    bad += 1
sys.exit(bad > 0)
WRITES
same mnt/model.gguf model.gguf
unmount_container "$tmp/mnt" "$daemon"
