#!/usr/bin/env bash
# PEFT adapters become GGUF adapters: a model that is built as Hugging Face has it
# and as GGUF has the same weights, element for element, after merging. What GGUF
# cannot express is refused.
source "$(dirname "$0")/lib.sh"
need_fuse
python=python3
/usr/bin/python3 -c 'import numpy' 2>/dev/null && python=/usr/bin/python3
"$python" -c 'import numpy' 2>/dev/null || skip "python3-numpy is not installed"
cd "$tmp"

make() { "$python" "$here/peft_case.py" make . "$@" || fail "peft_case.py make $*"; }

for architecture in llama qwen2 qwen3 gemma2 phi3 granite smollm3; do
	cases=(plain rslora rank alpha both f16 bf16)
	case $architecture in
	phi3 | granite | smollm3) cases=(both) ;;
	esac
	for case in "${cases[@]}"; do
		make $architecture "$case"
		pack --force new.mfs base.gguf --lora x=peft
		mount_container new.mfs "$tmp/mnt"
		"$python" "$here/peft_case.py" compare . $architecture "$case" - mnt/merged/x.f32.gguf ||
			fail "see above"
		# What was made is an adapter like any other.
		cp mnt/adapters/x.gguf again.gguf
		unmount_container "$tmp/mnt" "$daemon"
		pack --force again.mfs base.gguf --lora x=again.gguf
		modelfs-extract --force --quiet again.mfs adapters/x.gguf
		same again.gguf adapters/x.gguf
	done
done

# A DoRA has merged models of all types, whatever the base's, but is no adapter of GGUF.
for architecture in llama qwen2; do
	make $architecture dora
	types=(f32 nf4 q8_0 q4_0 q4_k q6_k)
	[ $architecture = llama ] || types=(q4_k)
	for type in "${types[@]}"; do
		quantize=(--quantize "$type")
		[ "$type" != f32 ] || quantize=()
		mkmodelfs --force dora.mfs "${quantize[@]}" base.gguf --lora x=peft --merge y=x@1 \
			>/dev/null 2>remark || fail "mkmodelfs: $(cat remark)"
		grep -q 'no adapters/x.gguf: the adapter is a DoRA' remark ||
			fail "no remark: $(cat remark)"
		mount_container dora.mfs "$tmp/mnt"
		[ ! -e mnt/adapters/x.gguf ] || fail "there is an adapters/x.gguf"
		if [ "$type" = nf4 ]; then
			python3 "$here/quantized_gguf.py" base.gguf stored.gguf --nf4 f32
		else
			cp mnt/base.gguf stored.gguf
		fi
		"$python" "$here/peft_case.py" compare . $architecture dora stored.gguf \
			mnt/merged/x.*.gguf mnt/merged/y.f32.gguf || fail "$type: see above"
		unmount_container "$tmp/mnt" "$daemon"
	done
done
# Merged before quantizing, its magnitudes are those of the unquantized model.
for architecture in llama qwen2; do
	make $architecture dora
	for type in q8_0 q4_0; do
		pack --force dora.mfs --quantize $type stored.gguf=base.gguf --lora x=peft \
			--views f16 --premerge x
		modelfs-extract --stdout dora.mfs merged/x.$type.gguf >x.gguf || fail "no view"
		"$python" "$here/peft_case.py" compare . $architecture dora - x.gguf ||
			fail "premerged $type: see above"
	done
done
refused 1 "adapters/x.dora: is a DoRA whose magnitudes the container does not have" \
	mkmodelfs --append dora.mfs --premerge y=x@1 --source base.gguf
# What is appended later finds its gains.
make llama dora
pack --force dora.mfs base.gguf --lora x=peft --views f32
pack --append dora.mfs --merge y=x --views f32
modelfs-extract --force --quiet dora.mfs merged/x.f32.gguf merged/y.f32.gguf
same merged/x.f32.gguf merged/y.f32.gguf
pack --remove x dora.mfs
! modelfs-stat --json dora.mfs | grep -q '"name": "\(merged\|adapters\)' || fail "not removed"
refused 1 'the adapter is a DoRA: .* without merged views it would be nothing' \
	mkmodelfs new2.mfs base.gguf --lora x=peft --views none
refused 1 "adapter 'x' is a DoRA: its gains hold" \
	mkmodelfs new2.mfs base.gguf --lora x=peft --merge y=x@2

# bad PATTERN KEY=JSON...: an adapter with these settings is refused
bad()
{
	local pattern=$1

	shift
	make llama plain "$@"
	refused 1 "peft/.*$pattern" mkmodelfs new2.mfs base.gguf --lora x=peft
	[ ! -e new2.mfs ] || fail "a container was left behind"
}
bad "peft_type is 'IA3'" 'peft_type="IA3"'
bad "a DoRA of the embedding" use_dora=true
bad "bias 'all'" 'bias="all"'
bad "lora_bias: " lora_bias=true
bad "modules_to_save: " 'modules_to_save=["lm_head"]'
bad "target_parameters: " 'target_parameters=["x"]'
bad "trainable_token_indices: " 'trainable_token_indices=[1]'
bad "layer_replication: " 'layer_replication=[[0,1]]'
bad "fan_in_fan_out: " fan_in_fan_out=true
for name in pissa pissa_niter_4 corda olora loftq lora_ga; do
	bad "init_lora_weights '$name' changed" "init_lora_weights=\"$name\""
done
bad "init_lora_weights 'new' is not known" 'init_lora_weights="new"'
bad "use_new: this variant" use_new=true
bad "arrow_config: " 'arrow_config={"top_k":3}'
bad "r is no rank" r=0
bad "r is no rank" r=2.5
bad "r is no rank" 'r="4"'
bad "rank 4, its configuration says 3" r=3
bad "no finite number" 'lora_alpha="x"'
bad "lora_alpha of 0" lora_alpha=0
bad "no rank for" 'rank_pattern={"q_proj":0}'
bad "'\(\?=x\)' is not supported" 'rank_pattern={"(?=x)":4}'
bad "'.*' is not supported" 'rank_pattern={"\\d":4}'
bad "is no pattern" 'alpha_pattern={"(":4}'
bad "no finite number" 'alpha_pattern={"q_proj":"x"}'
# renamed SED: the adapter with other names of tensors, and its length of them again
renamed()
{
	make llama plain
	"$python" - "$1" <<-'END'
		import json, re, struct, sys
		path, (old, new) = "peft/adapter_model.safetensors", sys.argv[1].split("=")
		data = open(path, "rb").read()
		length, = struct.unpack_from("<Q", data)
		header = json.loads(data[8:8 + length])
		header = json.dumps({re.sub(old, new, k): v for k, v in header.items()}).encode()
		header += b" " * (-len(header) % 8)
		open(path, "wb").write(struct.pack("<Q", len(header)) + header + data[8 + length:])
	END
}
# What other programs and versions call the same.
for names in '(lora_[AB])=\1.default' '[.]model[.]model[.]=.model.model.language_model.' \
	'[.]model[.](model|lm_head)=.model.language_model.\1' 'x=x'; do
	renamed "$names"
	pack --force new.mfs base.gguf --lora x=peft --views f32
	modelfs-extract --stdout new.mfs merged/x.f32.gguf >x.gguf
	"$python" "$here/peft_case.py" compare . llama plain - x.gguf || fail "$names: see above"
done
make llama plain 'init_lora_weights="eva"' 'target_modules="all-linear"' \
	'layers_to_transform=[0,1]' 'layers_pattern="layers"' use_new=null
pack --force new.mfs base.gguf --lora x=peft --views f32
# called PATTERN OLD=NEW: with these names it is refused
called()
{
	renamed "$2"
	refused 1 "$1" mkmodelfs new2.mfs base.gguf --lora x=peft
}
called "does not begin with base_model.model" 'base_model.model.=x.'
called "no matrix of a LoRA that is known" 'lora_A.weight=lora_A.other.weight'
called "replaces a tensor of the model" 'lm_head.lora_A.weight=lm_head.weight'
called "'vision_tower.model.layers.0.*' is not known" '[.]model[.]model.layers=.model.vision_tower.model.layers'
make llama plain
sed -i 's/output.weight/outqut.weight/' base.gguf
refused 1 "lora_embedding_.*the base has no head of its own" mkmodelfs new2.mfs base.gguf --lora x=peft
make llama dora use_dora=false
refused 1 'the configuration says nothing of DoRA' mkmodelfs new2.mfs base.gguf --lora x=peft
make mamba plain
refused 1 "architecture 'mamba' cannot be converted" mkmodelfs new2.mfs base.gguf --lora x=peft
make llama plain
echo '{"r": 4, "r": 5}' >peft/adapter_config.json
refused 1 'adapter_config.json: line 1: duplicate' mkmodelfs new2.mfs base.gguf --lora x=peft
make llama plain
mv peft/adapter_model.safetensors peft/adapter_model.bin
refused 1 'pickle' mkmodelfs new2.mfs base.gguf --lora x=peft
rm peft/adapter_model.bin
refused 1 'adapter_model.safetensors' mkmodelfs new2.mfs base.gguf --lora x=peft
rm peft/adapter_config.json
refused 1 'adapter_config.json' mkmodelfs new2.mfs base.gguf --lora x=peft
