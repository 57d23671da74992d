#!/usr/bin/env bash
# With too little address space, at whatever point it runs out, programs end with a
# message that says so: they do not crash, and find no damage where there is none.
source "$(dirname "$0")/lib.sh"
sanitized && skip "sanitizers need more address space than this gives"

cd "$tmp"
generate_model model.gguf Q4_0 2
pack model.mfs model.gguf

# with_memory KILOBYTES COMMAND...: it ends as it should, or for want of memory
with_memory()
{
	local limit=$1 status=0

	shift
	(
		ulimit -v "$limit"
		exec "$@"
	) >out 2>&1 || status=$?
	case $status in
	0) return 0 ;;
	# The system's loader has its own messages, and status 127.
	1 | 127) ;;
	*) fail "status $status with $limit kB: $*: $(head -c 500 out)" ;;
	esac
	if ! grep -Eq 'memory|call to the system failed|error while loading' out ||
		grep -q 'damaged\|mismatch\|no error' out; then
		fail "$limit kB: $*: $(head -c 500 out)"
	fi
}

# At some of these the first thread cannot be started, at others the tables of a
# tensor cannot be opened; where that is depends on the machine.
for ((limit = 12000; limit < 250000; limit += 9000 + limit / 8)); do
	with_memory $limit modelfs-check --quiet model.mfs
	with_memory $limit modelfs-extract --quiet --force -C . model.mfs
	with_memory $limit mkmodelfs --quiet --force new.mfs model.gguf
done
