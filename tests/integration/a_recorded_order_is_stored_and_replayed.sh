#!/usr/bin/env bash
# A mount records in which order a client touches a model; a container laid out
# in that order gives the same bytes and is the same whoever packs it; a mount
# that replays it fetches what is next. Traces that are wrong are refused.
source "$(dirname "$0")/lib.sh"
need_fuse
need_program python3

cd "$tmp"
generate_model model.gguf BF16 24 --sorted
generate_model experts.gguf Q4_K 24 --sorted --experts 8
pack model.mfs model.gguf experts.gguf

counter() { python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$2" <"$1/.modelfs/stats.json"; }

# tokens CONTAINER MOUNT: two threads, two tokens of each model, compared
tokens()
{
	tokenpass -t 2 -n 2 -d -s "$seed" "$1" model.gguf "$2/model.gguf" model.gguf >/dev/null ||
		fail "seed $seed: the model differs"
	tokenpass -t 2 -n 2 -d -s "$seed" "$1" experts.gguf "$2/experts.gguf" experts.gguf \
		>/dev/null || fail "seed $seed: the experts differ"
}

# The trace appears when the mount has ended, whole.
mount_container model.mfs "$tmp/mnt" -o record=first.trace
tokens model.mfs "$tmp/mnt"
[ ! -e first.trace ] || fail "the trace is there before the mount has ended"
unmount_container "$tmp/mnt" "$daemon"
head -n 1 first.trace | grep -qx 'modelfs-trace 1' || fail "that is not a trace"
grep -q 'blk.0.attn_q.weight' first.trace || fail "the trace has no attn_q"
[ "$(find . -name 'first.trace*' | wc -l)" -eq 1 ] || fail "temporary files stayed behind"

# Two packers, one container; every byte as before.
pack --order=first.trace -j 1 one.mfs model.gguf experts.gguf
pack --order=first.trace -j 4 two.mfs experts.gguf model.gguf
same one.mfs two.mfs
cmp -s one.mfs model.mfs && fail "the order changed nothing"
modelfs-check --quiet one.mfs || fail "the container is damaged"
mkdir out
modelfs-extract -C out --quiet one.mfs
same out/model.gguf model.gguf
same out/experts.gguf experts.gguf

# It fits containers with other frames too.
pack --order=first.trace --frame-size=64K other.mfs model.gguf experts.gguf
modelfs-check --quiet other.mfs || fail "the container with small frames is damaged"

# Replayed: it begins at once, and most of what it fetches is used.
for container in model.mfs one.mfs other.mfs; do
	mount_container "$container" "$tmp/mnt" -o replay=first.trace,record=again.trace
	started() { [ "$(counter "$tmp/mnt" prefetch_bytes)" -gt 100000 ]; }
	wait_until 20 started || fail "$container: nothing was fetched ahead"
	tokens "$container" "$tmp/mnt"
	wasted=$(counter "$tmp/mnt" prefetch_wasted_bytes)
	ahead=$(counter "$tmp/mnt" prefetch_bytes)
	note "$container: $ahead bytes ahead, $wasted wasted"
	[ $((wasted * 2)) -lt "$ahead" ] || fail "$container: most was fetched in vain"
	unmount_container "$tmp/mnt" "$daemon"
done

# A killed daemon leaves no part of a trace.
mount_container model.mfs "$tmp/mnt" -o record=killed.trace
tokens model.mfs "$tmp/mnt"
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null || true
unmount "$tmp/mnt"
[ -z "$(find . -name 'killed.trace*')" ] || fail "a killed daemon left a trace"

# What is wrong is one line with its number.
printf 'modelfs-trace 1\nmodel.gguf\tno.such\t0-1\n' >bad.trace
mkdir -p bad
refused 1 'bad.trace: line 2: the file has no such tensor' \
	modelfs -o replay=bad.trace model.mfs bad
refused 1 'bad.trace: line 2: the file has no such tensor' \
	mkmodelfs --quiet --order=bad.trace x.mfs model.gguf
printf 'hello\n' >bad.trace
refused 1 'bad.trace: line 1: not a trace' mkmodelfs --quiet --order=bad.trace x.mfs model.gguf
refused 1 '/nonexistent' mkmodelfs --quiet --order=/nonexistent x.mfs model.gguf
refused 1 'record=' modelfs -o record=/nonexistent/x model.mfs bad
[ ! -e x.mfs ] || fail "a refused trace left a container"
