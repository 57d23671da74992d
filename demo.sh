#!/usr/bin/env bash
# A language model out of a container, from a bare checkout:
#   ./demo.sh [MODEL.gguf]
# Builds, makes a model if none is given, packs and mounts it, and lets an
# unchanged llama.cpp write the same text from the mount and from the plain file.
set -euo pipefail
case ${1-} in
-*)
	sed -n '2,5s/^# \{0,1\}//p' "$0"
	[ "$1" = --help ] && exit 0
	exit 2
	;;
esac
given=${1:+$(realpath -- "$1")}
cd "$(dirname "$0")"
[ -z "$given" ] || [ -r "$given" ] || {
	echo "demo.sh: $1 cannot be read" >&2
	exit 1
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/modelfs-demo-XXXXXX")
mount_dir=$tmp/mnt
mkdir "$mount_dir"
daemon=

is_mounted() { awk -v d="$mount_dir" '$5 == d { f = 1 } END { exit !f }' /proc/self/mountinfo; }
daemon_runs() { [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; }

# Takes away what was put up, and only that, however the demo ends.
cleanup()
{
	local status=$?

	trap - EXIT
	set +e
	if is_mounted; then
		# The daemon ends with its mount.
		fusermount3 -u "$mount_dir" 2>/dev/null || fusermount3 -uz "$mount_dir"
	fi
	if daemon_runs; then
		kill "$daemon" 2>/dev/null
	fi
	is_mounted || rm -rf --one-file-system "$tmp"
	[ $status = 0 ] || echo "demo.sh: did not finish (status $status)" >&2
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -t 1 ]; then
	bold=$'\e[1m'
	plain=$'\e[0m'
else
	bold=
	plain=
fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show()
{
	printf '$ %s\n' "$*"
	"$@"
}
size_of() { stat -c %s "$1"; }

step "1. Build"
scripts/install-deps.sh build demo
build=${MFS_BUILD:-build}
{
	cmake -S . -B "$build" && cmake --build "$build" -j "$(nproc)" --target \
		mkmodelfs modelfs modelfs-stat mkllama
} >"$tmp/build.log" 2>&1 || {
	tail -n 40 "$tmp/build.log" >&2
	exit 1
}
PATH=$(cd "$build/bin" && pwd):$PATH
modelfs --version

client=
if output=$(scripts/llama-client.sh); then
	client=$output
	eval "$client"
	export MFS_NODE_MODULES
fi

if [ -n "$given" ]; then
	model=$given
	step "2. The model: $model"
else
	model=$tmp/model.gguf
	step "2. Make a model: llama architecture, random BF16 weights"
	show mkllama --type BF16 --size 240M "$model"
fi
name=$(basename "$model")

step "3. Pack it"
show mkmodelfs "$tmp/model.mfs" "$model"

step "4. Look inside"
show modelfs-stat "$tmp/model.mfs"
show modelfs-stat --map "$tmp/model.mfs"

step "5. Mount it: an ordinary file again"
show modelfs "$tmp/model.mfs" "$mount_dir"
daemon=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$mount_dir/.modelfs/stats.json")
show ls -l "$mount_dir"

say_text() { "$MFS_NODE" tests/integration/llama.mjs "$1" --tokens 32; }
if [ -n "$client" ]; then
	step "6. An unchanged llama.cpp, its model mapped into memory"
	echo "from the plain file:"
	from_file=$(say_text "$model")
	printf '  %s\n' "$from_file"
	echo "from the mount:"
	from_mount=$(say_text "$mount_dir/$name")
	printf '  %s\n' "$from_mount"
	if [ -z "$from_file" ] || [ "$from_file" != "$from_mount" ]; then
		echo "demo.sh: the texts DIFFER" >&2
		exit 1
	fi
	echo "The texts are equal."
else
	step "6. No llama.cpp to be had here (no npm, or no network): no text"
fi

step "7. Every byte"
show cmp "$mount_dir/$name" "$model"
echo "byte-identical: $(size_of "$model") bytes, stored in $(size_of "$tmp/model.mfs")"

step "8. What the daemon did"
show modelfs-stat "$mount_dir"

step "9. Unmount"
show fusermount3 -u "$mount_dir"
for _ in $(seq 500); do
	daemon_runs || break
	sleep 0.02
done
if daemon_runs; then
	echo "demo.sh: the daemon still runs 10 s after its mount is gone" >&2
	exit 1
fi
daemon=
[ -n "$client" ] || {
	echo "demo.sh: everything worked but the last part: there was no llama.cpp" >&2
	exit 1
}
step "Done in $SECONDS s."
