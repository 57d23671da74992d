#!/usr/bin/env bash
# Models with 4-bit weights of bitsandbytes: the file comes back as it was, and its views
# in BF16 and F16 are what a NumPy program makes of the definition.
source "$(dirname "$0")/lib.sh"
need_fuse
python=python3
/usr/bin/python3 -c 'import numpy' 2>/dev/null && python=/usr/bin/python3
"$python" -c 'import numpy' 2>/dev/null || skip "python3-numpy is not installed"
seed=${MFS_SEED:-$RANDOM}
note "seed $seed"
cd "$tmp"

reference() { "$python" "$here/safetensors.py" "$@" || fail "safetensors.py $*"; }

# served FILE OPTION...: packed so, the views are the reference's
served()
{
	local model=$1 type

	shift
	pack --force model.mfs "$@" "$model"
	mount_container model.mfs "$tmp/mnt"
	same "$model" "mnt/$(basename "$model")"
	for type in bf16 f16; do
		reference decode "$model" expected $type
		same expected "mnt/views/$(basename "$model" .safetensors).$type.safetensors"
		readcheck -s "$seed" -n 40 \
			"mnt/views/$(basename "$model" .safetensors).$type.safetensors" expected \
			>/dev/null || fail "a reader saw something else, seed $seed"
	done
	"$python" - mnt/views/*.bf16.safetensors "$(basename "$model")" <<-END || fail "attributes"
		import os, sys
		assert os.getxattr(sys.argv[1], "user.modelfs.kind") == b"view"
		assert os.getxattr(sys.argv[1], "user.modelfs.base") == sys.argv[2].encode()
		assert int(os.getxattr(sys.argv[1], "user.modelfs.derived")) > 0
	END
	unmount_container "$tmp/mnt" "$daemon"
}

mksafetensors --type NF4 --size 4M --seed "$seed" model.safetensors
reference odd odd.safetensors "$seed"
for profile in sd nand nor; do
	served model.safetensors --profile $profile
	served odd.safetensors --profile $profile
done
# Spans begin with a block of weights whatever was asked for.
for size in 4K 40000 4M; do
	served odd.safetensors --frame-size $size
done

# Of a directory each shard has its views.
mksafetensors --type NF4 --size 4M --shards 2 --seed "$seed" shards
pack shards.mfs shards
for shard in 1 2; do
	file=model-0000$shard-of-00002
	reference decode shards/$file.safetensors expected bf16
	modelfs-extract --stdout shards.mfs views/$file.bf16.safetensors >view ||
		fail "no view of shard $shard"
	same expected view
done

# A matrix may have its tensors in several shards, of which one has no codes at all.
mkdir cut
for count in 3 11; do
	rm -f cut/*
	"$python" "$here/safetensors.py" cut odd.safetensors cut $count || fail "not cut"
	pack --force cut.mfs cut
	for shard in cut/*; do
		reference decode "$shard" expected bf16 cut/*
		name=$(basename "$shard" .safetensors)
		modelfs-extract --stdout cut.mfs "views/$name.bf16.safetensors" >view ||
			cp "$shard" view # it has nothing to do with 4 bits
		same expected view
	done
	modelfs-check cut.mfs >/dev/null || fail "modelfs-check finds damage"
done
# Without one of them nothing is guessed. Some of them hold whole matrices or none, by the
# random order of the tensors, so that nothing is missed; but not all.
missed=0
for shard in cut/*; do
	mv "$shard" aside
	mkmodelfs --force cut.mfs cut 2>remark >/dev/null || fail "not packed without $shard"
	if grep -q "no views of it: " remark; then
		missed=$((missed + 1))
	fi
	mv aside "$shard"
done
[ $missed != 0 ] || fail "no shard is missed"

# What cannot be decoded is packed all the same, and says so.
sed 's/"quant_type": "nf4"/"quant_type": "fp4"/' odd.safetensors >fp4.safetensors
mkmodelfs fp4.mfs fp4.safetensors 2>remark >/dev/null || fail "FP4 was not packed"
grep -q "no views of it: .*of type 'fp4', only nf4 can be decoded" remark ||
	fail "the reason is missing: $(cat remark)"
modelfs-extract --stdout fp4.mfs fp4.safetensors >again || fail "not extracted"
same fp4.safetensors again
! modelfs-extract --stdout fp4.mfs views/fp4.bf16.safetensors >/dev/null 2>&1 ||
	fail "there is a view of FP4"
mkmodelfs --json --dry-run none fp4.safetensors | grep -q 'only nf4' || fail "not in the JSON"
