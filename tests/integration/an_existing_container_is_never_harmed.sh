#!/usr/bin/env bash
# mkmodelfs replaces nothing without --force, writes nothing with --dry-run, and
# however it is killed there is the old container, a whole new one, or none. So it is
# with the files that modelfs-extract writes.
source "$(dirname "$0")/lib.sh"
need_program python3

cd "$tmp"
generate_model model.gguf BF16 60
printf precious >old.mfs
refused any 'old\.mfs' mkmodelfs --quiet old.mfs model.gguf
[ "$(cat old.mfs)" = precious ] || fail "an existing file was changed without --force"
pack old.mfs --force model.gguf
modelfs-check old.mfs >&2 || fail "the container that replaced a file is damaged"
cp old.mfs reference.mfs

mkmodelfs --quiet --dry-run none.mfs model.gguf || fail "--dry-run failed"
[ ! -e none.mfs ] || fail "--dry-run wrote a container"
refused any model mkmodelfs --quiet old.mfs --force missing-model.gguf
for change in --force --append; do
	refused 1 'source and the container at once' mkmodelfs --quiet $change old.mfs copy=old.mfs
done
same old.mfs reference.mfs

# Where files without names can be had, not even SIGKILL leaves anything.
nameless=$(python3 -c 'import os
try: os.open(".", os.O_TMPFILE | os.O_RDWR); print(1)
except OSError: print(0)')

# Without /proc, as on FAT, the temporary file has a name.
if unshare --map-root-user --mount true 2>/dev/null; then
	mkdir named
	# shellcheck disable=SC2016 # for the shell inside
	unshare --map-root-user --mount sh -c 'mount -t tmpfs none /proc && cd named &&
		mkmodelfs --quiet new.mfs ../model.gguf && mkmodelfs --quiet --force new.mfs ../model.gguf &&
		! mkmodelfs --quiet new.mfs ../model.gguf 2>../message' || fail "without /proc"
	same named/new.mfs reference.mfs
	[ "$(ls -A named)" = new.mfs ] || fail "left behind: $(ls -A named)"
fi

rounds=12
[ "${MFS_SOAK:-0}" != 1 ] || rounds=1000
RANDOM=$((seed % 32768))
for ((i = 0; i < rounds; i++)); do
	signal=$([ $((i % 2)) = 0 ] && echo KILL || echo INT)
	mkdir work
	set -m # its own process group, so that SIGINT is not ignored in it
	mkmodelfs --quiet work/new.mfs model.gguf >/dev/null 2>&1 &
	pid=$!
	set +m
	pids+=("$pid")
	sleep "0.$(printf %03d $((RANDOM % 700)))"
	kill -"$signal" "$pid" 2>/dev/null || true
	status=0
	wait "$pid" 2>/dev/null || status=$?
	if [ -e work/new.mfs ]; then
		same work/new.mfs reference.mfs
	elif [ "$status" -eq 0 ]; then
		fail "status 0 but no container"
	elif { [ "$signal" = INT ] || [ "$nameless" = 1 ]; } && [ -n "$(ls -A work)" ]; then
		fail "SIG$signal left behind: $(ls -A work)"
	fi
	rm -rf work
done

# limited COMMAND...: with files of at most 8 MiB; what needs more says so
limited()
{
	status=0
	(
		ulimit -f 8192
		exec "$@"
	) 2>err || status=$?
	[ "$status" -eq 1 ] || fail "$1 at the limit of a file's size: status $status"
	grep -q 'File too large' err || fail "$1 at the limit of a file's size: $(cat err)"
}

cp old.mfs kept.mfs
limited mkmodelfs --quiet --force kept.mfs model.gguf
same kept.mfs old.mfs

# modelfs-extract with its file half written, stopped by that limit or killed.
for force in "" --force; do
	mkdir out
	[ -z "$force" ] || printf precious >out/model.gguf
	# shellcheck disable=SC2086 # an option or none
	limited modelfs-extract --quiet $force -C out old.mfs
	for delay in 0.005 0.01 0.02; do
		# shellcheck disable=SC2086
		modelfs-extract --quiet $force -C out old.mfs &
		pid=$!
		sleep $delay
		kill -KILL "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || continue
		[ -z "$force" ] || printf precious >out/model.gguf # it was done before
		[ -n "$force" ] || rm -f out/model.gguf
	done
	[ -z "$force" ] || [ "$(cat out/model.gguf)" = precious ] || fail "the old file is lost"
	[ "$nameless" != 1 ] || [ "$(ls -A out)" = "${force:+model.gguf}" ] || fail "left behind: $(ls -A out)"
	# shellcheck disable=SC2086
	modelfs-extract --quiet $force -C out old.mfs || fail "modelfs-extract $force"
	same out/model.gguf model.gguf
	[ "$nameless" != 1 ] || [ "$(ls -A out)" = model.gguf ] || fail "left behind: $(ls -A out)"
	refused 1 exists modelfs-extract --quiet -C out old.mfs
	rm -r out
done
