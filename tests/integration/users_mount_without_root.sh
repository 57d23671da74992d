#!/usr/bin/env bash
# An ordinary user mounts through fusermount3. Run as root, the test gives its
# own mount namespace a /dev/fuse that users may open, and becomes nobody there.
source "$(dirname "$0")/lib.sh"
need_fuse
[ -e /etc/mtab ] || skip "fusermount3 lets users unmount by /etc/mtab, which is missing"

cd "$tmp"
generate_model model.gguf BF16 4
pack model.mfs model.gguf
mkdir mnt
cat >as_user <<'INSIDE'
set -eu
cd "$1"
modelfs model.mfs mnt
trap 'fusermount3 -u mnt' EXIT
cmp mnt/model.gguf model.gguf
[ "$(stat -c %u mnt/model.gguf)" = "$(id -u)" ]
modelfs-stat mnt >/dev/null
grep -q engine mnt/.modelfs/stats.json
INSIDE
if [ "$(id -u)" != 0 ]; then
	mounts=("$tmp/mnt")
	bash as_user "$tmp" || fail "mounting as $(id -un) does not work"
	exit 0
fi

need_program unshare
need_program setpriv
mkdir dev
mknod -m 666 dev/fuse c 10 229 2>/dev/null || skip "no device nodes can be made here"
chmod 755 "$tmp"
chown -R 65534:65534 mnt model.mfs model.gguf as_user
cat >private_fuse <<'INSIDE'
mount --bind "$1/dev/fuse" /dev/fuse
shift
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
INSIDE
unshare -m bash private_fuse "$tmp" true 2>/dev/null || skip "no private mount namespaces here"
unshare -m bash private_fuse "$tmp" test -x "$MFS_BIN/modelfs" ||
	skip "nobody may not run $MFS_BIN/modelfs"
unshare -m bash private_fuse "$tmp" bash "$tmp/as_user" "$tmp" ||
	fail "mounting as nobody does not work"
