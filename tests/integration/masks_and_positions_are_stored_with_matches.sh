#!/usr/bin/env bash
# What repeats in a model is stored small: causal masks, positions, rotary tables,
# embeddings whose rows are padding. Weights beside them are coded as ever.
source "$(dirname "$0")/lib.sh"
need_program python3
need_program zstd

cd "$tmp"
python3 - <<'MAKE'
import json, math, random, struct

random.seed(1)
weights = [random.gauss(0, 0.02) for _ in range(64 * 512)]
row = struct.pack("<512f", *(random.gauss(0, 0.02) for _ in range(512)))
tensors = {
    "mask": ("BOOL", [1024, 1024], b"".join(b"\1" * (i + 1) + b"\0" * (1023 - i) for i in range(1024))),
    "positions": ("I64", [1, 8192], struct.pack("<8192q", *range(8192))),
    "groups": ("I32", [11008], struct.pack("<11008i", *(i // 128 for i in range(11008)))),
    "cos": ("F32", [512, 128], b"".join(2 * struct.pack("<64f", *(math.cos(p * 1e4 ** (-k / 64)) for k in range(64)))
                                        for p in range(512))),
    "padded": ("F32", [256, 512], struct.pack("<32768f", *weights) + 192 * row),
    "weights": ("F32", [64, 512], struct.pack("<32768f", *weights[::-1])),
}
head, at = {}, 0
for name, (dtype, shape, data) in tensors.items():
    head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
    at += len(data)
    open(name, "wb").write(data)
text = json.dumps(head).encode()
text += b" " * (-len(text) % 8)
with open("model.safetensors", "wb") as out:
    out.write(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))
MAKE
for profile in sd nvme; do
	pack $profile.mfs --profile $profile --frame-size 128K model.safetensors
	modelfs-check --quiet $profile.mfs
	modelfs-extract --quiet -C . -O $profile.mfs model.safetensors >out
	same model.safetensors out
done

for name in mask positions groups cos padded weights; do
	zstd --quiet -3 --no-check "$name"
done
modelfs-stat --json --tensors sd.mfs >stat.json
python3 - <<'CHECK' || fail "see above"
import json, os

stored = {t["name"]: t["stored_size"] for t in json.load(open("stat.json"))["tensors"]}
for name, size in stored.items():
    # A frame of 128 KiB has its headers, where a peer has one.
    peer = os.path.getsize(name + ".zst") + 8 * 256
    assert size <= peer, (name, size, peer)
assert stored["positions"] < 1500 and stored["padded"] < stored["weights"] * 1.3, stored
CHECK
