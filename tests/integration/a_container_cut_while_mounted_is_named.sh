#!/usr/bin/env bash
# A container that becomes shorter while it is mounted: errors for what is gone, which
# say so and do not blame the medium; right bytes for the rest, and again for all when
# it is whole again.
source "$(dirname "$0")/lib.sh"
need_fuse

cd "$tmp"
generate_model model.gguf BF16 8
pack model.mfs model.gguf
cp model.mfs mounted.mfs
half=$(($(stat -c %s model.mfs) / 2))
mount_container mounted.mfs "$tmp/mnt" -o noprefetch

truncate -s "$half" mounted.mfs
cat mnt/model.gguf >prefix 2>/dev/null && fail "bytes that are gone were read"
cmp -n "$(stat -c %s prefix)" prefix model.gguf || fail "wrong bytes"
tail -c 65536 mnt/model.gguf >/dev/null 2>&1 && fail "the end is gone and was read"
grep -q 'frame at 0x.*: truncated' mnt.log || fail "the log does not say why: $(cat mnt.log)"
grep -q 'the medium failed' mnt.log && fail "the log blames the medium: $(cat mnt.log)"

cat model.mfs >mounted.mfs
same mnt/model.gguf model.gguf
unmount_container "$tmp/mnt" "$daemon"

# A device does not become shorter: one that ends early has failed.
cp model.mfs cut.img
loop=$(losetup -f --show -r cut.img 2>/dev/null) || skip "the rest: no loop device can be had"
trap 'status=$?; set +e; losetup -d "$loop"; (exit "$status"); cleanup' EXIT
mount_container "$loop" "$tmp/mnt" -o noprefetch
losetup -d "$loop" # once the daemon has closed it
trap cleanup EXIT
truncate -s "$half" cut.img
losetup -c "$loop"
tail -c 65536 mnt/model.gguf >/dev/null 2>&1 && fail "the device's end is gone and was read"
grep -q 'the medium failed' mnt.log || fail "the log does not say why: $(cat mnt.log)"
unmount_container "$tmp/mnt" "$daemon"
