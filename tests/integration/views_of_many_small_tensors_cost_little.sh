#!/bin/bash
# What the views of an adapter cost does not hang on the number of tensors: a model
# with seven times the matrices per byte of SmolLM-135M (210 of them in 15 MB, not in
# 100 to 145) keeps the bound, 0.1 % of the base + 64 KiB, and appending writes little
# but the adapter.
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

cd "$tmp"
shape=(--dim 256 --ffn 256 --layers 30 --vocab 354 --rank 2)
mkllama --type Q8_0 "${shape[@]}" --lora a.gguf base.gguf >/dev/null
mkllama --type Q8_0 "${shape[@]}" --seed 2 --lora b.gguf other.gguf >/dev/null
rm other.gguf
size() { stat -c %s "$1"; }
bound=$(($(size base.gguf) / 1000 + 65536))

# coded PACKED OPTION...: how the tensors are coded is no concern here
coded() { pack --page-size 512 --codec zstd "$@"; }

# costs LESS MORE WHAT: so many bytes more than LESS has
costs()
{
	local cost=$(($(size "$2") - $(size "$1")))

	note "$3: $cost bytes, bound $bound"
	[ "$cost" -le "$bound" ] || fail "$3 cost $cost bytes, over $bound"
}

coded one-bare.mfs --lora a=a.gguf --views none base.gguf
coded one.mfs --lora a=a.gguf base.gguf
costs one-bare.mfs one.mfs "four views of one adapter"
coded two-bare.mfs --lora a=a.gguf --lora b=b.gguf --views none base.gguf
coded two.mfs --lora a=a.gguf --lora b=b.gguf --merge both=a@0.5+b base.gguf
costs two-bare.mfs two.mfs "twelve views of two adapters and their mixture"
[ "$(modelfs-stat --json two.mfs | grep -c '"merged/[^"]*gguf"')" -ge 12 ] || fail "not twelve views"

# grows CONTAINER ADAPTER OPTION...: by little more than ADAPTER
grows()
{
	local container=$1 adapter=$2 before grown

	before=$(size "$container")
	shift 2
	pack --append "$@" "$container"
	grown=$(($(size "$container") - before))
	note "appended ${*}: $grown bytes for an adapter of $(size "$adapter")"
	[ "$grown" -le $(($(size "$adapter") + bound)) ] || fail "an append wrote $grown bytes"
}

coded c.mfs base.gguf
grows c.mfs a.gguf --codec zstd --lora a=a.gguf
grows c.mfs b.gguf --codec zstd --lora b=b.gguf --merge both=a@0.5+b
modelfs-check --quiet c.mfs
for view in merged/{a.f32,b.q8_0,both.bf16}.gguf; do
	modelfs-extract -O c.mfs "$view" | cmp - <(modelfs-extract -O two.mfs "$view") ||
		fail "$view: not the same when it was appended"
done
before=$(size c.mfs)
pack --remove b --remove=merged/both.{f32,f16,bf16,q8_0}.gguf c.mfs
[ $(($(size c.mfs) - before)) -le $((bound / 2)) ] || fail "removing wrote an adapter's worth"
modelfs-check --quiet c.mfs
