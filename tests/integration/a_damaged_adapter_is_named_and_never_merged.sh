#!/usr/bin/env bash
# A flipped bit in the matrices of an adapter: its views answer with an error that
# names the adapter, or with the right bytes where it has no part in them; base and
# other views stay whole.
source "$(dirname "$0")/lib.sh"
need_fuse
need_program python3

seed=${MFS_SEED:-$RANDOM}
note "seed $seed"
cd "$tmp"
mkllama --type Q8_0 --size 4M --lora a.gguf model.gguf
mkllama --type Q8_0 --size 4M --lora b.gguf --rank 3 copy.gguf
pack whole.mfs model.gguf --lora a=a.gguf --lora b=b.gguf --views f16,q8_0
modelfs-extract --quiet whole.mfs merged/a.f16.gguf merged/b.f16.gguf

# Places in the frames of adapter a: chunks of class adapter, in its half.
modelfs-stat --json --chunks whole.mfs >chunks.json
python3 - "$seed" >places <<'PLACES'
import json, random, sys
rng = random.Random(int(sys.argv[1]))
chunks = [c for c in json.load(open("chunks.json"))["chunks"] if c["class"] == "adapter"]
assert chunks, "no chunk of class adapter"
for _ in range(6):
    chunk = rng.choice(chunks)
    print(chunk["offset"] + rng.randrange(chunk["stored_size"]), rng.randrange(8))
PLACES
named=0
while read -r at bit; do
	cp whole.mfs flipped.mfs
	python3 "$here/flip.py" flipped.mfs "$at" "$bit"
	mount_container flipped.mfs "$tmp/mnt"
	refusals=0
	for label in a b; do
		status=0
		python3 "$here/read_or_error.py" "mnt/merged/$label.f16.gguf" \
			"merged/$label.f16.gguf" >report || status=$?
		[ "$status" -eq 0 ] || fail "bit $bit of byte $at, view of $label: $(cat report)"
		refusals=$((refusals + $(cat report)))
	done
	same model.gguf mnt/model.gguf
	unmount_container "$tmp/mnt" "$daemon"
	[ "$refusals" -gt 0 ] || fail "bit $bit of byte $at: no view has an error"
	grep -Eq 'adapters/[ab]\.gguf: tensor blk.*lora_[ab]: .*adapter frame' mnt.log || {
		cat mnt.log >&2
		fail "bit $bit of byte $at: the log does not name the adapter"
	}
	named=$((named + 1))
	refused 1 'adapters/[ab]\.gguf: tensor ' modelfs-check flipped.mfs
done <places
note "$named flips: each gave errors that name the adapter, and no wrong byte"
