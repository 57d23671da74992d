#!/usr/bin/env bash
# Adapters that do not fit their base, and views that cannot be, are refused with a
# line that says why, and leave nothing behind; odd ones that fit are merged as an
# independent program merges them.
source "$(dirname "$0")/lib.sh"
need_fuse
python=python3
/usr/bin/python3 -c 'import numpy' 2>/dev/null && python=/usr/bin/python3
cd "$tmp"
mkllama --vocab 512 base.gguf
mkllama --vocab 512 --seed 2 other.gguf
q=blk.0.attn_q.weight

# adapter ARGUMENT...: writes bad.gguf
adapter() { "$python" "$here/make_adapter.py" bad.gguf "$@" || fail "make_adapter.py"; }

# bad PATTERN ARGUMENT...: an adapter that is refused
bad()
{
	local pattern=$1

	shift
	adapter "$@"
	refused 1 "bad.gguf: .*$pattern" mkmodelfs new.mfs base.gguf --lora x=bad.gguf
	[ ! -e new.mfs ] || fail "a container was left behind"
}

pair=("$q.lora_a:256x4" "$q.lora_b:4x256")
bad "general.type is 'model'" general.type=model "${pair[@]}"
bad "general.type is ''" general.type= "${pair[@]}"
bad "adapter.type is 'control_vector'" adapter.type=control_vector "${pair[@]}"
bad "architecture 'qwen2', its base base.gguf is 'llama'" general.architecture=qwen2 "${pair[@]}"
bad "architecture ''" general.architecture= "${pair[@]}"
bad "alpha is not a finite number" adapter.lora.alpha=nan "${pair[@]}"
bad "alpha is not a finite number" adapter.lora.alpha=inf "${pair[@]}"
bad "aLoRA" adapter.alora.invocation_tokens=1 "${pair[@]}"
bad "no tensor 'blk.9.attn_q.weight'" blk.9.attn_q.weight.lora_a:256x4 blk.9.attn_q.weight.lora_b:4x256
bad "a lora_a without a lora_b" "$q.lora_a:256x4"
bad "a lora_b without a lora_a" "$q.lora_b:4x256"
bad "ranks of its matrices differ: 4 and 5" "$q.lora_a:256x4" "$q.lora_b:5x256"
bad "256 x 512, the tensor of base.gguf is 256 x 256" "$q.lora_a:512x4" "$q.lora_b:4x256"
bad "512 x 256, the tensor of base.gguf is 256 x 256" "$q.lora_a:256x4" "$q.lora_b:4x512"
bad "made for 2 experts, the tensor of base.gguf has 1" "$q.lora_a:256x4x2" "$q.lora_b:4x256x2"
bad "suffix that is not known" "${pair[@]}" "$q.dora_scale:256"
bad "suffix that is not known" "${pair[@]}" "$q:4x4"
bad "tensor 'blk.0.attn_k.weight.lora_a' is empty" "${pair[@]}" blk.0.attn_k.weight.lora_{a:256x0,b:0x256}
bad "duplicate tensor name" "${pair[@]}" "$q.lora_a:256x4"
sed 's/output[.]weight/outqut.weight/g' base.gguf >tied.gguf
adapter token_embd.weight.lora_a:4x512 token_embd.weight.lora_b:4x256
refused 1 "bad.gguf: 'token_embd.weight': its base tied.gguf has no head of its own" \
	mkmodelfs new.mfs tied.gguf --lora x=bad.gguf
[ ! -e new.mfs ] || fail "a container was left behind"
pack new.mfs base.gguf --lora x=bad.gguf
rm new.mfs
bad "has no matrices" blk.0.attn_norm.weight:256
bad "not an adapter: general.type is .vocab." general.type=vocab
printf 'nothing' >bad.gguf
refused 1 'bad.gguf: not an adapter' mkmodelfs new.mfs base.gguf --lora x=bad.gguf
refused 1 'missing.gguf: ' mkmodelfs new.mfs base.gguf --lora x=missing.gguf

adapter "${pair[@]}"
mv bad.gguf good.gguf
# new PATTERN OPTION...: refused beside a good adapter
new()
{
	local pattern=$1

	shift
	refused any "$pattern" mkmodelfs new.mfs "$@"
	[ ! -e new.mfs ] || fail "a container was left behind"
}
for name in 'a b' 'a/b' ä . ..; do
	new "names of adapters" base.gguf --lora "$name=good.gguf"
done
new "another adapter of this name" base.gguf --lora x=good.gguf --lora x=good.gguf
new "another adapter of this name" base.gguf --lora x=good.gguf --merge x=x@2
new "which of the models" base.gguf other.gguf --lora x=good.gguf
new "no model is called 'third.gguf'" base.gguf other.gguf --base third.gguf --lora x=good.gguf
new "no model that could be its base" good.gguf --views none --lora x=good.gguf
new "no adapter 'y'" base.gguf --lora x=good.gguf --merge m=y@1
new "'2,5' is not a number" base.gguf --lora x=good.gguf --merge m=x@2,5
new "'inf' is not a number" base.gguf --lora x=good.gguf --merge m=x@inf
new "merged twice" base.gguf --lora x=good.gguf --merge m=x@1+x@2
new "belongs to other.gguf, not to base.gguf" base.gguf other.gguf --base base.gguf \
	--lora x=good.gguf --base other.gguf --lora y=good.gguf --merge m=x@1+y@1
new "merge without views" base.gguf --views none --lora x=good.gguf --merge m=x
new "erases the adapter" base.gguf --views f16,q4_k --lora x=good.gguf
new "views of type 'f8' are not known" base.gguf --views f8 --lora x=good.gguf
new "views of type '' are not known" base.gguf --views f16, --lora x=good.gguf

# Bases that cannot be merged.
mkllama --be --lora lora.gguf big.gguf
new "big-endian" big.gguf --lora x=lora.gguf
mkllama --type IQ2_XXS --lora lora.gguf iq2.gguf
new "of type IQ2_XXS, which cannot be merged .*--views=none" iq2.gguf --lora x=lora.gguf
pack iq2.mfs iq2.gguf --views none --lora x=lora.gguf
modelfs-extract --stdout iq2.mfs adapters/x.gguf | cmp - lora.gguf || fail "another adapter"

"$python" -c 'import numpy' 2>/dev/null || skip "python3-numpy is not installed: nothing merged"
# fits ARGUMENT...: an odd adapter that is merged
fits()
{
	adapter "$@"
	pack --force new.mfs base.gguf --lora x=bad.gguf
	mount_container new.mfs "$tmp/mnt"
	for type in f16 q8_0; do
		"$python" "$here/merged_gguf.py" base.gguf $type expected.gguf bad.gguf 1
		same expected.gguf "mnt/merged/x.$type.gguf"
	done
	same bad.gguf mnt/adapters/x.gguf
	unmount_container "$tmp/mnt" "$daemon"
}
fits "${pair[@]}" blk.0.attn_norm.weight:256
fits adapter.lora.alpha=0 "${pair[@]}"
fits adapter.lora.alpha= "${pair[@]}"
fits "$q.lora_a:256" "$q.lora_b:1x256" # of rank 1, as ggml writes it
fits token_embd.weight.lora_a:4x512 token_embd.weight.lora_b:4x256
