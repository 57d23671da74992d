#!/usr/bin/env bash
# Adapters of PEFT on safetensors models, in one file and in shards, of every type and
# of bitsandbytes' NF4: merged/NAME/ is byte for byte the model that a NumPy program
# makes of the definitions, and the adapter stays as it is.
source "$(dirname "$0")/lib.sh"
need_fuse
python=python3
/usr/bin/python3 -c 'import numpy' 2>/dev/null && python=/usr/bin/python3
"$python" -c 'import numpy' 2>/dev/null || skip "python3-numpy is not installed"
seed=${MFS_SEED:-$RANDOM}
note "seed $seed"
cd "$tmp"

reference() { "$python" "$here/peft_safetensors.py" "$@" || fail "peft_safetensors.py $*"; }

make()
{
	rm -rf base a b
	reference make . "$@" "$seed"
}

# compare LABEL CASE MIXTURE: the mounted model with the reference
compare()
{
	rm -rf expected
	reference merge . expected "$2" "$3"
	diff -r expected "mnt/merged/$1" || fail "merged/$1 is not $3 ($2)"
}

for type in f32 f16 bf16 mixed nf4; do
	for case in plain both dora; do
		shards=1
		[ $case = plain ] || shards=3
		make $type $shards $case
		pack --force new.mfs base --lora a=a --lora b=b --merge mix=a@1+b@-0.7
		mount_container new.mfs "$tmp/mnt"
		compare a $case a@1
		compare mix $case a@1+b@-0.7
		for file in adapter_config.json adapter_model.safetensors; do
			same a/$file mnt/adapters/a/$file
		done
		unmount_container "$tmp/mnt" "$daemon"
		modelfs-check new.mfs >/dev/null || fail "modelfs-check finds damage"
	done
done
for case in rslora rank alpha fan; do
	make f32 2 $case
	pack --force new.mfs base --lora a=a --base model-00002-of-00002.safetensors --lora b=b
	mount_container new.mfs "$tmp/mnt"
	compare a $case a@1
	unmount_container "$tmp/mnt" "$daemon"
done

# What is appended is as if it had been packed at once; what is removed goes whole.
for type in bf16 nf4; do
	make $type 2 dora
	pack --force all.mfs base --lora a=a --lora b=b --merge mix=a@1+b@2
	pack --force new.mfs base --lora a=a
	pack --append new.mfs --lora b=b
	pack --append new.mfs --merge mix=a@1+b@2
	for container in all new; do
		mount_container $container.mfs "$tmp/mnt"
		compare mix dora a@1+b@2
		unmount_container "$tmp/mnt" "$daemon"
	done
	refused 1 "'a.*' cannot be removed: 'merged/mix" mkmodelfs --remove a new.mfs
	cp new.mfs one.mfs
	pack --remove merged/mix one.mfs
	pack --remove a one.mfs
	modelfs-stat --json one.mfs >names
	grep -q '"name": "merged/b/model-' names || fail "merged/b is gone"
	! grep '"name": "\(merged/\(mix\|a\)/\|adapters/a/\)' names || fail "what was removed is there"
	modelfs-check --quiet one.mfs || fail "a removal damaged the container"
	pack --remove b --remove a new.mfs
	modelfs-stat --json new.mfs | grep -q '"name": "\(merged\|adapters\)' &&
		fail "something of a removed adapter is left"
done

# Refusals.
make f32 2 plain
rm base/model-00002-of-00002.safetensors base/*.index.json
refused 1 'model-00002-of-00002.safetensors: this file of the model is missing' \
	mkmodelfs no.mfs base --lora a=a
make f32 1 plain
# bad PATTERN KEY=JSON: the adapter is refused with this setting
bad()
{
	make f32 1 "${3:-plain}"
	"$python" - "$2" <<-'END'
		import json, sys
		key, value = sys.argv[1].split("=", 1)
		config = json.load(open("a/adapter_config.json"))
		config[key] = json.loads(value)
		json.dump(config, open("a/adapter_config.json", "w"))
	END
	refused 1 "a/adapter_.*$1" mkmodelfs no.mfs base --lora a=a
}
bad "lora_bias: " lora_bias=true
bad "modules_to_save: " 'modules_to_save=["lm_head"]'
bad "rank 4, its configuration says 3" r=3
bad "makes no adapter" lora_alpha=0
bad "made for .* the tensor of tiny.safetensors is" fan_in_fan_out=true
bad "has magnitudes, its configuration says nothing of DoRA" use_dora=false dora
bad "has no magnitudes, its configuration says DoRA" use_dora=true
make f32 1 dora
refused 1 "adapter 'a' is a DoRA: its gains hold" \
	mkmodelfs no.mfs base --lora a=a --lora b=b --merge mix=b@1+a@1
refused 1 "adapter 'a' is a DoRA: its gains hold" \
	mkmodelfs no.mfs base --lora a=a --merge mix=a@0.5
sed -i 's/"norm.weight"/"other.weigh"/; s/lm_head.weight/lm_haed.weight/' base/tiny.safetensors
refused 1 "its base tiny.safetensors has no tensor 'lm_head.weight'" \
	mkmodelfs no.mfs base --lora a=a
# A head that is the embedding: merged, both would change. Names of the model's version.
make f32 1 plain
sed -i 's/lm_head/nomhead/g' base/tiny.safetensors a/adapter_model.safetensors
refused 1 "'model.embed_tokens': its base tiny.safetensors has no head of its own" \
	mkmodelfs no.mfs base --lora a=a
# So is a head that is there, where the configuration ties the two.
make f32 1 plain
echo '{"tie_word_embeddings": true}' >base/config.json
refused 1 "'model.embed_tokens': the configuration of tiny.safetensors ties the head to it" \
	mkmodelfs no.mfs base --lora a=a
echo '{"tie_word_embeddings": false}' >base/config.json
pack --force old.mfs base --lora a=a
# Embeddings of positions are no head.
make f32 1 plain
sed -i 's/lm_head/nomhead/g; s/embed_tokens/position_emb/g' base/tiny.safetensors \
	a/adapter_model.safetensors a/adapter_config.json
pack --force old.mfs base --lora a=a
# What was trained without the head names the same tensors by less.
make f32 1 plain
echo '{"tie_word_embeddings": false}' >base/config.json
reference rename a/adapter_model.safetensors '[.]model[.]layers[.]=.layers.'
reference rename a/adapter_model.safetensors '[.]model[.]embed=.embed'
pack --force new.mfs base --lora a=a
make f32 1 plain
pack --force old.mfs base --lora a=a
mkdir old new
for container in old new; do
	modelfs-extract --quiet -C $container $container.mfs merged/a/model.safetensors
done
same old/merged/a/model.safetensors new/merged/a/model.safetensors
# An adapter that lost some of its matrices is not merged in part.
make f32 1 plain
"$python" - <<'END'
import json, struct
path = "a/adapter_model.safetensors"
raw = open(path, "rb").read()
size = struct.unpack("<Q", raw[:8])[0]
head = json.loads(raw[8:8 + size])
head["base_model.model.lost.lora_A.weight"] = {"dtype": "F32", "shape": [0, 8], "data_offsets": [0, 0]}
text = json.dumps(head).encode()
open(path, "wb").write(struct.pack("<Q", len(text)) + text + raw[8 + size:])
END
refused 1 "tensor 'base_model.model.lost.lora_A.weight' is empty" mkmodelfs no.mfs base --lora a=a
make f32 1 plain
pack --force old.mfs base --lora a=a
reference rename base/tiny.safetensors '^model[.]=language_model.model.'
reference rename a/adapter_model.safetensors '[.]model[.]model[.]=.model.model.language_model.'
pack --force new.mfs base --lora a=a
reference rename base/tiny.safetensors '^language_model[.]model[.]=model.'
for container in old new; do
	modelfs-extract --force --quiet -C $container $container.mfs merged/a/model.safetensors
done
reference rename new/merged/a/model.safetensors '^language_model[.]model[.]=model.'
reference rename old/merged/a/model.safetensors '^model[.]=model.'
same old/merged/a/model.safetensors new/merged/a/model.safetensors
make nf4 1 plain
sed -i 's/"quant_type": "nf4"/"quant_type": "fp4"/' base/tiny.safetensors
refused 1 "nothing can be merged into this model: .*only nf4" mkmodelfs no.mfs base --lora a=a
[ ! -e no.mfs ] || fail "a container was left behind"
