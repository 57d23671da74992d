#!/usr/bin/env bash
# --premerge: the base with an adapter merged in before it was quantized. It is byte for
# byte what an independent implementation makes, costs a part of the base, and stays
# when the adapter goes; an unquantized model that does not fit is refused.
source "$(dirname "$0")/lib.sh"
need_program python3
python=python3
/usr/bin/python3 -c 'import numpy' 2>/dev/null && python=/usr/bin/python3
"$python" -c 'import numpy' 2>/dev/null || skip "python3-numpy is not installed"

cd "$tmp"

# A model of several types, and adapters for it that change it by little.
shape=(--dim 512 --layers 2 --ffn 1024 --vocab 512)
mkllama --type F16 "${shape[@]}" --lora one.gguf --rank 4 source.gguf >/dev/null
mkllama --type F16 "${shape[@]}" --lora two.gguf --rank 16 source.gguf >/dev/null
small=1e-3

# base_of TYPE FILE: the model quantized by modelfs itself
base_of()
{
	pack --force quantized.mfs --quantize "$1" "$2=source.gguf"
	modelfs-extract --quiet --force quantized.mfs
}

# view CONTAINER FILE OUT
view() { modelfs-extract --stdout "$1" "$2" >"$3" || fail "$1: no $2"; }


for type in q8_0 q4_0; do
	base_of $type base.gguf
	pack --force p.mfs base.gguf --lora one=one.gguf --lora two=two.gguf --views f16 \
		--premerge one --premerge "both=one@0.5+two@-0.25" --source source.gguf
	modelfs-check --quiet p.mfs || fail "$type: modelfs-check finds damage"
	for model in "one one.gguf 1" "both one.gguf 0.5 two.gguf -0.25"; do
		read -r name adapters <<<"$model"
		# shellcheck disable=SC2086 # several words
		"$python" "$here/premerged_gguf.py" base.gguf source.gguf expected.gguf $adapters ||
			fail "$type: no reference"
		view p.mfs "merged/$name.$type.gguf" got.gguf
		same got.gguf expected.gguf
	done
	view p.mfs base.gguf got.gguf
	same got.gguf base.gguf

	# Quantized on the way in, the source is the base's own; appended later, the base
	# is the one in the container.
	pack --force q.mfs --quantize $type base.gguf=source.gguf --lora one=one.gguf --views none \
		--premerge one
	pack --force a.mfs base.gguf --lora one=one.gguf --views none
	pack --append a.mfs --premerge one --source source.gguf
	"$python" "$here/premerged_gguf.py" base.gguf source.gguf expected.gguf one.gguf 1
	for container in q.mfs a.mfs; do
		view $container "merged/one.$type.gguf" got.gguf
		same got.gguf expected.gguf
	done
done

# The container does not depend on the threads; nothing that is no adapter's is stored.
for type in q4_0 q4_k q6_k; do
	for threads in 1 4; do
		pack --force -j$threads j$threads.mfs --quantize $type base.gguf=source.gguf \
			--lora one=one.gguf --views none --premerge "small=one@$small"
	done
	same j1.mfs j4.mfs
	pack --force without.mfs --quantize $type base.gguf=source.gguf --lora one=one.gguf \
		--views none
	base=$(modelfs-stat --json without.mfs | python3 -c \
		'import json, sys; print([f for f in json.load(sys.stdin)["files"]
			if f["name"] == "base.gguf"][0]["size"])')
	cost=$((($(stat -c %s j1.mfs) - $(stat -c %s without.mfs)) * 1000 / base))
	note "$type: a small change costs $cost/1000 of the base"
	[ "$cost" -le 150 ] || fail "$type: a small change costs $cost/1000 of the base"
done

# What it cost is reported, and that another quantizer made a base.
mkllama --type Q4_K_M "${shape[@]}" foreign.gguf >/dev/null
mkmodelfs --json f.mfs foreign.gguf --lora one=one.gguf --views none --premerge one \
	--source source.gguf >f.json || fail "a base of mixed types is refused"
python3 - f.json <<'END' || fail "the report is not as it should be"
import json, sys
report = json.load(open(sys.argv[1]))
losses, (file,) = report["losses"], report["premerged"]
assert losses and all(0 < l["rmse"] <= l["max"] for l in losses)
assert all(0 <= l["blocks_as_base"] <= l["blocks"] for l in losses)
assert file["file"] == "merged/one.q4_k.gguf" and file["base"] == "foreign.gguf"
assert file["own_blocks_of_base"] < 0.99
END
mkmodelfs --force f.mfs foreign.gguf --lora one=one.gguf --views none --premerge one \
	--source source.gguf >f.txt
grep -q 'another quantizer made foreign.gguf' f.txt || fail "nothing about the quantizer: $(cat f.txt)"
modelfs-stat --json f.mfs >f.json
grep -Eq '"one@1 rmse=[0-9.e+-]+ max=[0-9.e+-]+"' f.json ||
	fail "no note in the container"

# Nothing of it depends on the adapter, all of it on the base.
pack --remove one a.mfs
view a.mfs merged/one.q4_0.gguf got.gguf
same got.gguf expected.gguf
refused any "depends on it" mkmodelfs --remove base.gguf a.mfs
pack --compact a.mfs
view a.mfs merged/one.q4_0.gguf got.gguf
same got.gguf expected.gguf

# Refusals.
base_of q8_0 base.gguf
premerge() { mkmodelfs --quiet --force no.mfs "$@"; }
with=(base.gguf --lora one=one.gguf --views none --premerge)
refused any "there is no adapter 'two'" premerge "${with[@]}" two --source source.gguf
refused any "source is needed: the model that base.gguf was quantized from" premerge "${with[@]}" one
refused any "of type Q8_0: F32, F16 or BF16 is needed" premerge "${with[@]}" one --source base.gguf
mkllama --type F16 "${shape[@]}" --seed 9 other.gguf >/dev/null
refused any "not the model that this was quantized from" \
	premerge "${with[@]}" one --source other.gguf
mkllama --type F16 "${shape[@]}" --vocab 600 small.gguf >/dev/null
refused any "small.gguf: tensor '.*' is 600 x 512, that of base.gguf 512 x 512" \
	premerge "${with[@]}" one --source small.gguf
python3 "$here/make_adapter.py" odd.gguf general.architecture=qwen2 general.type=model \
	blk.0.attn_q.weight:4x4
refused any "architecture is 'qwen2', that of base.gguf 'llama'" \
	premerge "${with[@]}" one --source odd.gguf
mkllama --type Q5_0 "${shape[@]}" five.gguf >/dev/null
refused any "type Q5_0, which there is no quantizer for" premerge five.gguf --lora one=one.gguf \
	--views none --premerge one --source source.gguf
refused any "leave out that type of --views" premerge base.gguf --lora one=one.gguf \
	--premerge one --source source.gguf
refused any "merged/one.q8_0.gguf" premerge "${with[@]}" one --premerge one --source source.gguf
[ ! -e no.mfs ] || fail "a refused container was left behind"
