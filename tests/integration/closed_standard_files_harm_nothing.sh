#!/usr/bin/env bash
# Programs that are started with standard input, output or error closed, as some
# supervisors do, serve and write the same bytes: no container takes their place.
source "$(dirname "$0")/lib.sh"
need_fuse

cd "$tmp"
generate_model model.gguf BF16 2
seq 20000 >words.txt
mkdir mnt
mounts+=("$tmp/mnt")
for closed in '<&-' '>&-' '2>&-' '<&- >&- 2>&-'; do
	# What was to be printed is lost, which is a failure; what was to be written is not.
	eval "mkmodelfs --force model.mfs model.gguf >/dev/null 2>&1 $closed" || true
	eval "mkmodelfs --append model.mfs words.txt >/dev/null 2>&1 $closed" || true
	modelfs-check --quiet model.mfs || fail "$closed: what mkmodelfs wrote is damaged"
	rm -rf out
	mkdir out
	eval "modelfs-extract --quiet -C out model.mfs $closed" || fail "$closed: not extracted"
	same out/words.txt words.txt
	eval "modelfs model.mfs mnt $closed" || fail "$closed: not mounted"
	same mnt/model.gguf model.gguf
	same mnt/words.txt words.txt
	fusermount3 -u mnt || fail "$closed: cannot be unmounted"
done
eval 'modelfs-stat model.mfs >&-' 2>/dev/null && fail "what could not be printed is no error"
true
