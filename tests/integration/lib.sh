# shellcheck shell=bash
# What every integration test sources: a temporary directory, mounts and
# processes that are cleaned up by their ids, assertions, and the shared data.
# The caller's variables: MFS_BIN (programs), MFS_SOURCE (source tree); both
# have defaults, so that a test runs by hand too.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
MFS_SOURCE=${MFS_SOURCE:-$(cd "$here/../.." && pwd)}
MFS_BIN=${MFS_BIN:-$MFS_SOURCE/build/bin}
PATH=$MFS_BIN:$PATH
data=${MFS_SHARED_DATA:-$MFS_SOURCE/../shared/data}
# Leaks are looked for by the unit tests; here they would hide exit codes of
# programs that are killed or traced.
export ASAN_OPTIONS=detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}
test_name=$(basename "$0" .sh)
tmp=$(mktemp -d "${TMPDIR:-/tmp}/mfs-$test_name-XXXXXX")
mounts=()
pids=()

note() { printf '%s\n' "$*" >&2; }

fail()
{
	note "FAIL: $*"
	exit 1
}

# skip REASON: ctest counts 77 as skipped.
skip()
{
	note "SKIP: $*"
	exit 77
}

# True when the programs carry sanitizers: their time and memory say nothing.
sanitized() { [ -n "${MFS_SANITIZED:-}" ]; }

need_fuse()
{
	[ -e /dev/fuse ] || skip "no /dev/fuse here"
	if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
		skip "/dev/fuse is not open to this user"
	fi
	command -v fusermount3 >/dev/null || skip "fusermount3 is not installed"
}

need_data() { [ -d "$data" ] || skip "no shared data at $data"; }

need_root() { [ "$(id -u)" = 0 ] || skip "needs root"; }

need_program() { command -v "$1" >/dev/null || skip "$1 is not installed"; }

is_mounted() { awk -v dir="$1" '$5 == dir { found = 1 } END { exit !found }' /proc/self/mountinfo; }

# The number of a mount's connection in /sys/fs/fuse/connections.
connection_of()
{
	awk -v dir="$1" '$5 == dir { split($3, dev, ":"); print dev[2] }' /proc/self/mountinfo |
		tail -n 1
}

# wait_until SECONDS COMMAND...: polls; false when the time is up.
wait_until()
{
	local tries=$(($1 * 50))

	shift
	while ! "$@"; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || return 1
		sleep 0.02
	done
}

is_gone() { ! kill -0 "$1" 2>/dev/null; }

# Unmounts one directory; one that does not answer is cut off through its own
# connection, so that nothing hangs on it.
unmount()
{
	local dir=$1 connection

	is_mounted "$dir" || return 0
	connection=$(connection_of "$dir")
	fusermount3 -u "$dir" 2>/dev/null && return 0
	umount "$dir" 2>/dev/null && return 0
	if [ -n "$connection" ] && [ -w "/sys/fs/fuse/connections/$connection/abort" ]; then
		echo 1 >"/sys/fs/fuse/connections/$connection/abort"
	fi
	fusermount3 -uz "$dir" 2>/dev/null || umount -l "$dir" 2>/dev/null
}

# end_process PID: asks, then insists.
end_process()
{
	is_gone "$1" && return 0
	kill "$1" 2>/dev/null || return 0
	wait_until 5 is_gone "$1" || kill -KILL "$1" 2>/dev/null || true
}

cleanup()
{
	local status=$? i

	trap - EXIT
	set +e
	exec 9<&- 8<&-
	for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do
		unmount "${mounts[i]}"
	done
	for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
		end_process "${pids[i]}"
	done
	for i in "${mounts[@]}"; do
		# A directory that is still a mount must not be emptied.
		if is_mounted "$i"; then
			note "still mounted: $i"
			exit "${status/#0/1}"
		fi
	done
	rm -rf --one-file-system "$tmp"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# mount_container CONTAINER DIR [OPTION...]: starts a daemon in the foreground
# and waits until it serves. Its process id is in $daemon, its messages in
# DIR.log.
mount_container()
{
	local container=$1 dir=$2

	shift 2
	mkdir -p "$dir"
	mounts+=("$dir")
	modelfs -f "$@" "$container" "$dir" >"$dir.log" 2>&1 &
	daemon=$!
	pids+=("$daemon")
	wait_until 20 mounted_or_gone "$dir" "$daemon" || fail "$container: not mounted in 20 s"
	if ! is_mounted "$dir"; then
		cat "$dir.log" >&2
		fail "$container: the daemon ended instead of mounting"
	fi
}

mounted_or_gone() { is_mounted "$1" || is_gone "$2"; }

# unmount_container DIR PID: the daemon must end by itself, with status 0.
unmount_container()
{
	local status=0

	fusermount3 -u "$1" || fail "$1: cannot be unmounted"
	wait_until 20 is_gone "$2" || fail "the daemon outlived its mount"
	wait "$2" || status=$?
	if [ "$status" -ne 0 ]; then
		cat "$1.log" >&2
		fail "the daemon ended with status $status"
	fi
}

# pack CONTAINER [OPTION|SOURCE]...: quietly, must succeed.
pack()
{
	mkmodelfs --quiet "$@" || fail "mkmodelfs $* failed"
}

# generate_model FILE TYPE MEGABYTES [OPTION...]: a llama model, random weights
generate_model()
{
	local file=$1 type=$2 megabytes=$3

	shift 3
	mkllama --type "$type" --size "${megabytes}M" "$@" "$file" || fail "mkllama failed: $type"
}

# same FILE FILE
same() { cmp -- "$1" "$2" >&2 || fail "$1 differs from $2"; }

# refused STATUS PATTERN COMMAND...: must fail with one line on standard error
# that matches PATTERN. STATUS is the exit code, or "any" for any but a crash.
refused()
{
	local want=$1 pattern=$2 status=0 lines

	shift 2
	"$@" >"$tmp/refused.out" 2>"$tmp/refused.err" || status=$?
	if [ "$status" -eq 0 ]; then
		fail "succeeded, should have been refused: $*"
	elif [ "$status" -ge 124 ]; then
		cat "$tmp/refused.err" >&2
		fail "status $status (a crash, or no end): $*"
	elif [ "$want" != any ] && [ "$status" -ne "$want" ]; then
		cat "$tmp/refused.err" >&2
		fail "status $status, not $want: $*"
	fi
	lines=$(wc -l <"$tmp/refused.err")
	if [ "$lines" -ne 1 ]; then
		cat "$tmp/refused.err" >&2
		fail "$lines lines of message, not one: $*"
	fi
	grep -Eq -- "$pattern" "$tmp/refused.err" || {
		cat "$tmp/refused.err" >&2
		fail "the message does not match '$pattern': $*"
	}
}

# A seed that is printed, so that a failure can be had again with MFS_SEED.
export seed=${MFS_SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
