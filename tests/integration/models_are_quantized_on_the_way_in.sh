#!/usr/bin/env bash
# --quantize and --prune: the virtual file is the model that a second implementation
# makes of the source, byte for byte, and an unchanged llama.cpp runs it.
source "$(dirname "$0")/lib.sh"
need_program python3

cd "$tmp"
if [ -d "$data" ]; then
	sources=("$data"/stories260K/stories260K-{f32,F16,BF16}.gguf)
else
	note "no shared data at $data: a generated model only"
	generate_model f32.gguf F32 1
	sources=(f32.gguf)
fi

# comes_back SOURCE OPTION...: packs, extracts and compares with the reference
comes_back()
{
	local source=$1

	shift
	python3 "$here/quantized_gguf.py" "$source" expected.gguf "$@" || fail "no reference: $*"
	pack --force one.mfs "$@" "model.gguf=$source"
	modelfs-extract --quiet --force one.mfs || fail "$source: not extracted"
	same model.gguf expected.gguf
}

for source in "${sources[@]}"; do
	comes_back "$source" --quantize q8_0
	comes_back "$source" --quantize q4_0
	comes_back "$source" --prune 0.5
	comes_back "$source" --prune 2:4
	comes_back "$source" --prune 0.3 --quantize q8_0
done

# NF4: what is stored is codes and constants; the views are what these stand for.
nf4_comes_back()
{
	local source=$1 type

	shift
	pack --force nf4.mfs --quantize nf4 "$@" "model.gguf=$source"
	for type in bf16 f16; do
		python3 "$here/quantized_gguf.py" "$source" expected.gguf --nf4 $type "$@" ||
			fail "no reference: $type $*"
		modelfs-extract --stdout nf4.mfs "views/model.$type.gguf" >view.gguf ||
			fail "$source: no view of $type"
		same view.gguf expected.gguf
	done
}

for source in "${sources[@]}"; do
	nf4_comes_back "$source"
done
nf4_comes_back "${sources[0]}" --prune 0.4

# The container does not depend on the threads, nor does what it says of the loss.
generate_model wide.gguf BF16 4
for type in q4_k q6_k nf4; do
	pack -j1 one-$type.mfs --quantize $type --prune 0.25 wide.gguf
	pack -j4 four-$type.mfs --quantize $type --prune 0.25 wide.gguf
	same one-$type.mfs four-$type.mfs
done

# What it cost is reported for each tensor, and in the container.
mkmodelfs --json loss.mfs --quantize q4_0 "${sources[0]}" >loss.json
python3 - loss.json <<'END' || fail "the losses are not as they should be"
import json, sys
losses = json.load(open(sys.argv[1]))["losses"]
assert losses and all(0 < l["rmse"] <= l["max"] and l["new_type"] == "Q4_0" for l in losses)
END
grep -aEq 'q4_0 rmse=[0-9.e+-]+ max=[0-9.e+-]+' loss.mfs || fail "no note in the container"

# Half of the weights are zeros: less is stored.
pack whole.mfs wide.gguf
pack half.mfs --prune 0.5 wide.gguf
[ "$(stat -c %s half.mfs)" -lt $(($(stat -c %s whole.mfs) * 85 / 100)) ] ||
	fail "pruning saved less than 15 %"

# Refusals.
comes_back "${sources[0]}" --quantize q8_0
cp model.gguf quantized.gguf
refused 1 'of type Q8_0: only models of F32, F16 and BF16' \
	mkmodelfs no.mfs --quantize q4_0 quantized.gguf
refused 2 "cannot quantize to 'q5_1'" mkmodelfs no.mfs --quantize q5_1 wide.gguf
refused 2 "cannot prune '1.5'" mkmodelfs no.mfs --prune 1.5 wide.gguf
[ ! -d "$data" ] || refused 1 'has no weights to change' \
	mkmodelfs no.mfs --quantize q4_k --prune 0.5 "${sources[0]}"
echo hello >readme.txt
refused 1 'is no GGUF model' mkmodelfs no.mfs --quantize q8_0 readme.txt
[ ! -e no.mfs ] || fail "a refused container was left behind"

# llama.cpp writes with them, through the mount.
[ -d "$data" ] || exit 0
need_fuse
status=0
client=$("$MFS_SOURCE/scripts/llama-client.sh") || status=$?
[ "$status" -ne 77 ] || skip "no llama.cpp client, and none to be had"
[ "$status" -eq 0 ] || fail "scripts/llama-client.sh: status $status"
eval "$client"
export MFS_NODE_MODULES
for type in q8_0 q4_0 nf4; do
	file=model.gguf
	[ $type != nf4 ] || file=views/model.bf16.gguf
	pack --force $type.mfs --quantize $type "model.gguf=${sources[0]}"
	mount_container $type.mfs "$tmp/mnt-$type"
	text=$("$MFS_NODE" "$here/llama.mjs" "mnt-$type/$file")
	unmount_container "$tmp/mnt-$type" "$daemon"
	note "$type: $text"
	# Stories about Lily or Tim, who went or loved to play: the model knows few others.
	[[ $text == *there\ was\ a\ * ]] || fail "$type: llama.cpp wrote '$text'"
done
