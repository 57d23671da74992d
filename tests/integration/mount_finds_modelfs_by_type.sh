#!/usr/bin/env bash
# mount -t fuse.modelfs and a line of fstab find the installed programs.
source "$(dirname "$0")/lib.sh"
need_fuse
need_root
need_program unshare

cd "$tmp"
generate_model model.gguf BF16 4
pack model.mfs model.gguf
DESTDIR=$tmp/stage cmake --install "${MFS_BUILD:-$MFS_SOURCE/build}" --prefix /usr >install.log ||
	fail "cmake --install failed"
[ -x stage/usr/sbin/mount.modelfs ] || fail "mount.modelfs is not installed in sbin"
mkdir mnt

# mount(8) and mount.fuse3 look in fixed places; a private mount namespace puts
# the staged programs there.
cat >as_installed <<'INSIDE'
set -eu
mount --bind "$1/sbin" /sbin
cd "$1"
mount -t fuse.modelfs "$1/model.mfs" "$1/mnt"
cmp mnt/model.gguf model.gguf
umount mnt
mount -t modelfs "$1/model.mfs" "$1/mnt"
cmp mnt/model.gguf model.gguf
umount mnt
mount -t fuse.modelfs -o ro,noexec,nosuid,nodev,relatime,lazytime,nosymfollow \
	"$1/model.mfs" "$1/mnt"
cmp mnt/model.gguf model.gguf
umount mnt
for type in modelfs fuse.modelfs; do
	printf '%s %s %s ro,noauto,x-systemd.automount,nofail 0 0\n' \
		"$1/model.mfs" "$1/mnt" "$type" >fstab
	mount -T fstab "$1/mnt"
	cmp mnt/model.gguf model.gguf
	if mount -o remount,allow_other "$1/mnt" 2>err || ! grep -q 'remount: unmount' err; then
		echo "remounting: $(cat err)" >&2
		exit 1
	fi
	umount mnt
done
if mount -t fuse.modelfs "$1/model.gguf" "$1/mnt" 2>err; then
	echo "mounted a file that is no container" >&2
	exit 1
fi
grep -q model.gguf err
INSIDE
mkdir sbin
cp -a /sbin/. sbin/
cp -P stage/usr/sbin/mount.modelfs stage/usr/bin/modelfs sbin/
mounts=("$tmp/mnt")
unshare -m bash as_installed "$tmp" || fail "mount by type does not work"
