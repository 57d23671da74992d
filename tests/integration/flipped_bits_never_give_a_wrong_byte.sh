#!/usr/bin/env bash
# Single flipped bits, in the library and through the mount. MFS_FLIPS sets how
# many (200; 10,000 in the long form), MFS_SEED which.
source "$(dirname "$0")/lib.sh"
need_program python3

flips=${MFS_FLIPS:-200}
mounted=5
! sanitized || flips=${MFS_FLIPS:-60}
if [ "${MFS_SOAK:-0}" = 1 ]; then
	flips=${MFS_FLIPS:-10000}
	mounted=500
fi
cd "$tmp"
python3 "$here/odd_gguf.py" experts experts.gguf
generate_model model.gguf Q4_0 4
head -c 20000 /dev/urandom >noise
sources=(experts.gguf noise model.gguf)
[ ! -d "$data" ] || sources+=("$data/stories260K/stories260K-F16.gguf")

pack small.mfs --profile sd "${sources[@]}"
flipcheck -s "$seed" -n "$flips" small.mfs "${sources[@]}"
pack nor.mfs --profile nor "${sources[@]}"
flipcheck -s "$seed" -n $((flips / 4)) nor.mfs "${sources[@]}"

# Two models that have spans in common.
mkdir models
python3 "$MFS_SOURCE/spec/vectors/sources.py" models
shared=(models/short.safetensors models/long.safetensors)
pack shared.mfs --profile nor --page-size 512 --frame-size 4096 "${shared[@]}"
flipcheck -s "$seed" -n "$flips" shared.mfs "${shared[@]}"

# The heads and the index are a small target: a container that is little else.
: >empty
python3 "$here/odd_gguf.py" small-tensors many.gguf
pack index.mfs empty many.gguf
flipcheck -s "$seed" -n "$flips" index.mfs empty many.gguf

[ -w /dev/fuse ] || exit 0
# Through the mount: cmp sees equal bytes or an error; what a read refuses, a
# mapping refuses with SIGBUS.
python3 - "$seed" "$mounted" small.mfs >places <<'PLACES'
import os, random, sys
rng = random.Random(int(sys.argv[1]))
size = os.path.getsize(sys.argv[3])
for _ in range(int(sys.argv[2])):
    print(rng.randrange(65536 + 4096, size - 4096), rng.randrange(8))
PLACES
errors=0
while read -r at bit; do
	cp small.mfs flipped.mfs
	python3 "$here/flip.py" flipped.mfs "$at" "$bit"
	mount_container flipped.mfs "$tmp/mnt"
	for source in "${sources[@]}"; do
		name=$(basename "$source")
		status=0
		python3 "$here/read_or_error.py" "$tmp/mnt/$name" "$source" >report || status=$?
		[ "$status" -eq 0 ] || fail "bit $bit of byte $at: $name: $(cat report)"
		errors=$((errors + $(cat report)))
	done
	unmount_container "$tmp/mnt" "$daemon"
done <places
note "$mounted flips through the mount: $errors pieces refused, no wrong byte"
