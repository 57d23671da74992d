#!/usr/bin/env bash
# safetensors models: the shared data, every dtype, a directory of shards behind
# links as a hub's cache has it, NF4 with its constants apart. Packed, extracted
# and read through the mount they are the same bytes; shards that do not agree
# with their index are refused.
source "$(dirname "$0")/lib.sh"
need_program python3

cd "$tmp"
sources=()
if [ -d "$data" ]; then
	sources+=("$data/silero/silero_vad_16k.safetensors" "$data/lora/lora_rank4.safetensors")
else
	note "no shared data at $data: generated models only"
fi
for type in BF16 F16 F32 F64 F8_E4M3 F8_E5M2 NF4; do
	mksafetensors --type "$type" --size 4M "$type.safetensors" || fail "mksafetensors failed"
	sources+=("$tmp/$type.safetensors")
done
mksafetensors --dist t5 --prune 0.5 --size 4M pruned.safetensors
mksafetensors --type F32 --bf16-origin --prune 2:4 --size 4M sparse.safetensors
sources+=("$tmp/pruned.safetensors" "$tmp/sparse.safetensors")

# A snapshot of a hub: links into a store, and what should stay out of it.
mksafetensors --size 6M --shards 3 store
mkdir -p snapshot/subdirectory
printf hidden >snapshot/.gitattributes
printf other >snapshot/subdirectory/other.json
for file in store/*; do
	ln -s "../$file" "snapshot/$(basename "$file")"
	sources+=("$tmp/$file")
done

pack all.mfs "${sources[@]::${#sources[@]}-5}" snapshot
modelfs-check all.mfs >&2 || fail "modelfs-check finds damage in a fresh container"
mkdir out
modelfs-extract -C out all.mfs || fail "modelfs-extract failed"
for source in "${sources[@]}"; do
	same "out/$(basename "$source")" "$source"
done
[ "$(find out -type f | wc -l)" -eq "${#sources[@]}" ] || fail "files missing or too many"

# What modelfs-stat says: formats, the order of dimensions, constants of their own.
modelfs-stat --json all.mfs >stat.json
python3 - stat.json <<'EOF' || fail "modelfs-stat tells something else"
import json, sys

stat = json.load(open(sys.argv[1]))
formats = {f["name"]: f.get("format") for f in stat["files"]}
assert formats["NF4.safetensors"] == "safetensors", formats
assert formats["model.safetensors.index.json"] == "opaque", formats
tensors = {t["name"]: t for t in stat["tensors"] if t["file"] == "NF4.safetensors"}
codes = tensors["model.layers.0.mlp.gate_proj.weight"]
assert codes["type"] == "U8" and codes["shape"][1] == 1, codes
for suffix in (".absmax", ".nested_absmax", ".quant_map", ".nested_quant_map",
               ".quant_state.bitsandbytes__nf4"):
    t = tensors[codes["name"] + suffix]
    assert t["class"] == "constants" and t["constants_size"] == t["size"], t
assert codes["class"] == "weights" and codes["constants_size"] == 0, codes
gate = [t for t in stat["tensors"] if t["file"] == "BF16.safetensors"
        and t["name"] == "model.layers.0.mlp.gate_proj.weight"][0]
assert gate["shape"][0] > gate["shape"][1] and gate["type"] == "BF16", gate
assert gate["size"] > 1.4 * gate["stored_size"], gate
types = [t["type"] for t in stat["types"]]
assert len(types) == len(set(types)), types
assert any(c["class"] == "constants" for c in stat["chunks"])
EOF
modelfs-stat all.mfs | grep -Eq '^constants +[1-9]' || fail "modelfs-stat shows no constants"

# A profile that stores plainly what does not pay.
pack nvme.mfs --profile nvme NF4.safetensors F16.safetensors
mkdir plain
modelfs-extract -C plain nvme.mfs || fail "modelfs-extract failed"
same plain/NF4.safetensors NF4.safetensors
same plain/F16.safetensors F16.safetensors

# An index and its shards.
refused 1 "snapshot.*cannot be given" mkmodelfs -q no.mfs name=snapshot
mkdir empty broken
refused 1 "empty: no regular files" mkmodelfs -q no.mfs empty
cp store/* broken
rm broken/model-00002-of-00003.safetensors
refused 1 "index.json: offset 0x[0-9a-f]+: the shard 'model-00002-of-00003.safetensors' is not" \
	mkmodelfs -q no.mfs broken
pack opaque.mfs --opaque broken
cp store/model-00001-of-00003.safetensors broken/model-00002-of-00003.safetensors
refused 1 "index.json: offset 0x[0-9a-f]+: tensor '.*' is not in the shard" \
	mkmodelfs -q no.mfs broken
head -c 1000 store/model-00002-of-00003.safetensors >broken/model-00002-of-00003.safetensors
refused 1 "^mkmodelfs: broken/model-00002-of-00003.safetensors: offset 0x" mkmodelfs -q no.mfs broken
cp store/* broken
printf '{"weight_map": [' >broken/model.safetensors.index.json
refused 1 "index.json: offset 0xf: not valid JSON" mkmodelfs -q no.mfs broken
printf '{}' >broken/model.safetensors.index.json
refused 1 "index.json: offset 0x0: the index has no weight_map" mkmodelfs -q no.mfs broken
ln -sf nowhere broken/config.json
refused 1 "config.json: No such file" mkmodelfs -q no.mfs broken
[ ! -e no.mfs ] || fail "a container was left"

# Through the mount.
if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ] || ! command -v fusermount3 >/dev/null; then
	note "no /dev/fuse for this user: not mounted"
	exit 0
fi
mount_container "$tmp/all.mfs" "$tmp/mnt"
for source in "${sources[@]}"; do
	same "$tmp/mnt/$(basename "$source")" "$source"
	[ "$(stat -c %s "$source")" -lt 100000 ] ||
		readcheck -s "$seed" -n 20 "$tmp/mnt/$(basename "$source")" "$source"
done
unmount_container "$tmp/mnt" "$daemon"
