#!/usr/bin/env bash
# Merged views, read through the mount, are byte for byte the files that a NumPy
# program writes which was made from the definitions alone; in whatever order and
# by however many readers they are read.
source "$(dirname "$0")/lib.sh"
need_fuse
# Debian's modules are those of Debian's Python.
python=python3
/usr/bin/python3 -c 'import numpy' 2>/dev/null && python=/usr/bin/python3
"$python" -c 'import numpy' 2>/dev/null || skip "python3-numpy is not installed"

seed=${MFS_SEED:-$RANDOM}
note "seed $seed"
cd "$tmp"
compared=0

views=()
wanted=()
# expect NAME.TYPE [ADAPTER SCALE]...: a merged view that compare_views will look at
expect()
{
	views+=("$1")
	wanted+=(-- "${1##*.}" "expected-$1.gguf" "${@:2}")
}

# compare_views BASE: all that were expected, made at once
compare_views()
{
	local view

	"$python" "$here/merged_gguf.py" "$1" "${wanted[@]:1}" || fail "merged_gguf.py"
	for view in "${views[@]}"; do
		same "expected-$view.gguf" "mnt/merged/$view.gguf"
		readcheck -s "$seed" -n 40 "mnt/merged/$view.gguf" "expected-$view.gguf" >/dev/null ||
			fail "$view: a reader saw something else, seed $seed"
	done
	compared=$((compared + ${#views[@]}))
	views=()
	wanted=()
}

# check BASE A B: two adapters, alone and together
check()
{
	local base=$1 a=$2 b=$3 type

	pack --force views.mfs "$base" --lora "a=$a" --lora "b.2=$b" --merge mix=b.2@0.3+a@-1.75
	mount_container views.mfs "$tmp/mnt"
	same "$a" mnt/adapters/a.gguf
	same "$b" mnt/adapters/b.2.gguf
	same "$base" "mnt/$(basename "$base")"
	for type in f32 f16 bf16 q8_0; do
		expect "a.$type" "$a" 1
	done
	expect mix.f16 "$b" 0.3 "$a" -1.75
	expect mix.q8_0 "$b" 0.3 "$a" -1.75
	compare_views "$base"
	unmount_container "$tmp/mnt" "$daemon"
}

for type in F32 F16 BF16 Q8_0 Q4_0 Q4_K Q6_K; do
	generate_model model.gguf "$type" 4 --seed "$seed" --lora a.gguf --rank 5
	mkllama --type "$type" --size 4M --seed "$seed" --lora b.gguf --rank 16 copy.gguf
	same model.gguf copy.gguf
	check model.gguf a.gguf b.gguf
done

# Experts: a pair of matrices for each, some of slices that share a span.
for type in F16 Q4_0 Q6_K; do
	mkllama --type $type --dim 256 --layers 1 --ffn 256 --vocab 354 --experts 3 --seed "$seed" \
		moe.gguf
	python3 "$here/make_adapter.py" a.gguf blk.0.attn_q.weight.lora_{a:256x3,b:3x256} \
		blk.0.ffn_down_exps.weight.lora_{a:256x4x3,b:4x256x3}
	python3 "$here/make_adapter.py" b.gguf blk.0.ffn_down_exps.weight.lora_{a:256x2x3,b:2x256x3} \
		blk.0.ffn_up_exps.weight.lora_{a:256x5x3,b:5x256x3}
	check moe.gguf a.gguf b.gguf
done

# Matrices that are no weights, or that programs want in F32, keep their type: ssm_d, the
# biases of experts, positions.
python3 "$here/make_adapter.py" odd.gguf {general.type,adapter.type,adapter.lora.alpha}= \
	blk.0.attn_q.weight:64x64 blk.0.ffn_up_exps.weight:64x32x3 blk.0.ffn_up_exps.bias:32x3 \
	blk.0.ffn_gate_inp.weight:64x3 blk.0.ssm_d:1x24 position_embd.weight:64x32 \
	token_embd.weight:64x32 output.weight:64x32
python3 "$here/make_adapter.py" a.gguf blk.0.attn_q.weight.lora_{a:64x3,b:3x64}
python3 "$here/make_adapter.py" b.gguf blk.0.attn_q.weight.lora_{a:64x2,b:2x64}
check odd.gguf a.gguf b.gguf

# NF4: the reference merges into the weights that the codes stand for.
for type in F32 BF16; do
	generate_model model.gguf $type 1 --seed "$seed" --lora a.gguf --rank 5
	python3 "$here/quantized_gguf.py" model.gguf nf4.gguf --nf4 f32 || fail "no reference"
	pack --force views.mfs --quantize nf4 model.gguf --lora a=a.gguf --merge b=a@-0.4
	[ $type = F32 ] || { # appended, they are the same
		pack --force views.mfs --quantize nf4 model.gguf
		pack --append views.mfs --lora a=a.gguf --merge b=a@-0.4
	}
	mount_container views.mfs "$tmp/mnt"
	for view in f32 f16 bf16 q8_0; do
		expect "a.$view" a.gguf 1
	done
	expect b.bf16 a.gguf -0.4
	compare_views nf4.gguf
	unmount_container "$tmp/mnt" "$daemon"
done

if [ -d "$data" ]; then
	for type in f32 F16 BF16; do
		check "$data/stories260K/stories260K-$type.gguf" \
			"$data/stories260K/stories260K-lora-r4-f32.gguf" \
			"$data/stories260K/stories260K-lora-r4-f32.gguf"
	done
	pack --force views.mfs "$data/random-s58/rand-s58-Q4_K_M.gguf" --views f16,q8_0 \
		--lora "a=$data/random-s58/rand-s58-lora-r8-f32.gguf"
	mount_container views.mfs "$tmp/mnt"
	for type in f16 q8_0; do
		expect a.$type "$data/random-s58/rand-s58-lora-r8-f32.gguf" 1
	done
	compare_views "$data/random-s58/rand-s58-Q4_K_M.gguf"
	unmount_container "$tmp/mnt" "$daemon"
else
	note "no shared data at $data: generated models only"
fi
note "$compared views compared"
