#!/usr/bin/env bash
# Whatever keeps a container from being mounted is said in one line, with a
# status that is not 0, before the daemon goes to the background.
source "$(dirname "$0")/lib.sh"
need_fuse

cd "$tmp"
printf hello >model
pack model.mfs model
mkdir mnt
mounts=("$tmp/mnt")

refused any 'missing\.mfs' modelfs missing.mfs mnt
refused any 'nowhere' modelfs model.mfs nowhere
refused any 'model' modelfs model.mfs model
refused any 'mnt' modelfs mnt mnt
refused any 'model' modelfs model mnt
head -c 100000 /dev/urandom >noise
refused any 'noise' modelfs noise mnt
: >empty
refused any 'empty' modelfs empty mnt
for arguments in "" model.mfs "model.mfs mnt more" "-o no_such_option model.mfs mnt" \
	"--no-such-option model.mfs mnt"; do
	status=0
	# shellcheck disable=SC2086 # several arguments
	modelfs $arguments >out 2>err || status=$?
	[ "$status" -eq 2 ] || fail "misuse '$arguments': status $status, not 2"
	if [ ! -s err ] || [ -s out ]; then
		fail "misuse '$arguments': the message belongs on stderr"
	fi
done
for program in modelfs mkmodelfs modelfs-stat modelfs-extract modelfs-check; do
	for arguments in '"" mnt' 'model.mfs ""' '""'; do
		status=0
		eval "$program $arguments" >out 2>err || status=$?
		[ "$status" -eq 2 ] || fail "$program $arguments: status $status, not 2"
		grep -q 'is empty\|are needed' err || fail "$program $arguments: $(cat err)"
	done
done
! is_mounted "$tmp/mnt" || fail "something was mounted"

for program in modelfs mkmodelfs modelfs-stat modelfs-extract modelfs-check; do
	for option in --help --version; do
		"$program" "$option" >out 2>err || fail "$program $option: status $?"
		if [ ! -s out ] || [ -s err ]; then
			fail "$program $option belongs on stdout"
		fi
	done
	status=0
	"$program" --no-such-option >out 2>err || status=$?
	[ "$status" -eq 2 ] || fail "$program --no-such-option: status $status, not 2"
done

# And what works says nothing, and has served by the time the shell goes on.
modelfs model.mfs mnt >out 2>err || fail "the mount failed: $(cat err)"
is_mounted "$tmp/mnt" || fail "in the background before the mount was there"
[ "$(cat mnt/model)" = hello ] || fail "the file is wrong"
[ -z "$(cat out err)" ] || fail "a mount that works has nothing to say: $(cat out err)"

# What a killed daemon leaves is told apart, with what to do.
mount_container model.mfs "$tmp/dead"
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null || true
refused 1 'dead: .*fusermount3 -u' modelfs model.mfs dead
unmount "$tmp/dead"
