#!/usr/bin/env bash
# Models that are quantized or pruned on their way in go with deltas, appends, orders,
# adapters and views like any other: what comes out is what packing the changed model
# itself gives, or the combination is refused in one line.
source "$(dirname "$0")/lib.sh"
need_program python3

cd "$tmp"
shape=(--dim 256 --layers 2 --ffn 512 --vocab 512)
mkllama --type F16 "${shape[@]}" --lora a.gguf source.gguf >/dev/null
mkllama --type F16 "${shape[@]}" --tune 1e-2 tuned.gguf >/dev/null

# changed OUT SOURCE OPTION...: the changed model alone, as the reference test has it
changed()
{
	pack --force alone.mfs "${@:3}" "model.gguf=$2"
	modelfs-extract --stdout alone.mfs model.gguf >"$1" || fail "$2: not extracted"
}

# holds CONTAINER FILE EXPECTED
holds()
{
	modelfs-extract --stdout "$1" "$2" >got || fail "$1: no $2"
	same got "$3"
}

# The last tensors first, and of one of them a part behind the rest.
printf 'modelfs-trace 1\n%s\t%s\t%s\n%s\t%s\t%s\n' base.gguf output.weight 0-70000 \
	base.gguf blk.1.attn_q.weight 1000-20000 >order.trace

for change in "--quantize q8_0" "--quantize q4_k" "--prune 0.5" "--prune 2:4 --quantize q4_0"; do
	read -ra options <<<"$change"
	changed base.gguf source.gguf "${options[@]}"
	changed fine.gguf tuned.gguf "${options[@]}"

	# A fine-tune, changed alike, is a difference to the changed base.
	pack --force d.mfs "${options[@]}" base.gguf=source.gguf --base base.gguf \
		--delta fine.gguf=tuned.gguf --lora a=a.gguf --views f16,q8_0
	modelfs-check --quiet d.mfs || fail "$change: modelfs-check finds damage"
	holds d.mfs base.gguf base.gguf
	holds d.mfs fine.gguf fine.gguf
	pack --force whole.mfs base.gguf fine.gguf --base base.gguf --lora a=a.gguf --views f16,q8_0
	[ "$(stat -c %s d.mfs)" -lt "$(stat -c %s whole.mfs)" ] || fail "$change: no difference"

	# Merged views over it are those over the changed model.
	for view in f16 q8_0; do
		modelfs-extract --stdout whole.mfs merged/a.$view.gguf >view.gguf
		holds d.mfs merged/a.$view.gguf view.gguf
	done

	# Appended, as a difference to what is there.
	pack --force a.mfs base.gguf
	pack --append a.mfs "${options[@]}" --base base.gguf --delta fine.gguf=tuned.gguf
	holds a.mfs base.gguf base.gguf
	holds a.mfs fine.gguf fine.gguf

	# In another order, by any number of threads: the same files, and one container.
	for threads in 1 3; do
		pack --force -j$threads o$threads.mfs "${options[@]}" --order order.trace \
			base.gguf=source.gguf --base base.gguf --delta fine.gguf=tuned.gguf
	done
	same o1.mfs o3.mfs
	holds o1.mfs base.gguf base.gguf
	holds o1.mfs fine.gguf fine.gguf
done

# One that was merged before it was quantized, too.
pack p.mfs --quantize q8_0 base.gguf=source.gguf --lora a=a.gguf --views none --premerge a
modelfs-extract --stdout p.mfs merged/a.q8_0.gguf >premerged.gguf
pack po.mfs --quantize q8_0 base.gguf=source.gguf --lora a=a.gguf --views none --premerge a \
	--order order.trace
holds po.mfs merged/a.q8_0.gguf premerged.gguf
for container in p.mfs po.mfs; do
	modelfs-stat --json $container | grep -o '"a@1 rmse=[^"]*"' >$container.note || fail "no note"
done
same p.mfs.note po.mfs.note

# What does not go together says so.
refused any "nf4 .*cannot be stored as a difference" mkmodelfs no.mfs --quantize nf4 \
	base.gguf=source.gguf --base base.gguf --delta fine.gguf=tuned.gguf
pack --force a.mfs base.gguf
refused any "nothing is added that could be quantized or pruned" \
	mkmodelfs --append --quantize q8_0 --lora a=a.gguf a.mfs
refused any "nothing is added that could be quantized or pruned" \
	mkmodelfs --compact --prune 0.5 a.mfs
[ ! -e no.mfs ] || fail "a refused container was left behind"
