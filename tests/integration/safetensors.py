"""Safetensors files in NumPy, and what bitsandbytes' NF4 in them stands for, written
from the definitions alone.

safetensors.py decode FILE OUT bf16|f16 [OTHER...]   the view that modelfs has of it; the
    others are the rest of the model
safetensors.py cut FILE DIR COUNT         the same tensors as COUNT shards, cut anywhere
safetensors.py odd OUT SEED               a model with what is rare: matrices of odd shape,
    one scaled once, tensors of every width, of size 0 and of no dimensions
"""
import json
import os
import struct
import sys

import numpy as np

import merge1

KINDS = {"F32": merge1.F32, "F16": merge1.F16, "BF16": merge1.BF16}
SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
         "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
STATE = ".quant_state.bitsandbytes__nf4"
HELPERS = (".absmax", ".nested_absmax", ".nested_quant_map", ".quant_map", STATE)


class Safetensors:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        length, = struct.unpack_from("<Q", self.bytes)
        self.header = json.loads(self.bytes[8:8 + length])
        self.metadata = self.header.pop("__metadata__", None)
        self.data = 8 + length
        self.files = [self]  # of the model

    def raw(self, name):
        if name not in self.header:
            return next(f.raw(name) for f in self.files if name in f.header)
        begin, end = self.header[name]["data_offsets"]
        return self.bytes[self.data + begin:self.data + end]

    def matrices(self):
        """Names of what is stored in 4 bits, in whichever file of the model."""
        return {name[:-len(STATE)] for f in self.files for name in f.header
                if name.endswith(STATE)}

    def helpers(self):
        """Names of the tensors in this file that describe matrices."""
        return {name + end for name in self.matrices() for end in HELPERS} & set(self.header)

    def nf4(self, name):
        """The matrix as F32, and the dtype that it had."""
        state = json.loads(self.raw(name + STATE))
        absmax = self.raw(name + ".absmax")
        if "nested_blocksize" in state:
            scales = merge1.nf4_scales(
                np.frombuffer(absmax, np.uint8),
                np.frombuffer(self.raw(name + ".nested_absmax"), "<f4"),
                np.frombuffer(self.raw(name + ".nested_quant_map"), "<f4"),
                state["nested_offset"])
        else:
            scales = np.frombuffer(absmax, "<f4")
        shape = state["shape"]
        weights = merge1.decode_nf4(self.raw(name), scales, int(np.prod(shape)))
        return weights.reshape(shape), {"bfloat16": "BF16", "float16": "F16",
                                        "float32": "F32"}[state["dtype"]]

    def floats(self, name):
        """A tensor as F32 in its shape, and its dtype."""
        if name in self.matrices():
            return self.nf4(name)
        entry = self.header[name]
        return (merge1.decode(KINDS[entry["dtype"]], self.raw(name)).reshape(entry["shape"]),
                entry["dtype"])


def load(paths):
    """The files of one model."""
    files = [Safetensors(path) for path in paths]
    for file in files:
        file.files = files
    return files


def dump(tensors, metadata=None):
    """The bytes of a file with these (name, dtype, shape, bytes), in this order."""
    header, at = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, dtype, shape, raw in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(t[3] for t in tensors)


def decoded(model, change=None, dtype=None):
    """The tensors of a model without what describes NF4: `dtype` or (None) the one that
    the weights had; change(name, weights) returns other weights or None."""
    out = []
    helpers, matrices = model.helpers(), model.matrices()
    names = sorted(model.header, key=lambda n: model.header[n]["data_offsets"])
    for name in names:
        entry = model.header[name]
        if name in helpers:
            continue
        packed = name in matrices
        raw, kind, shape = model.raw(name), entry["dtype"], entry["shape"]
        weights = None
        if packed or kind in KINDS:
            floats, was = model.floats(name)
            weights = change(name, floats) if change else None
        if packed:
            kind, shape = dtype or was, floats.shape
            weights = floats if weights is None else weights
        if weights is not None:
            raw = merge1.store(KINDS[kind], weights)
        out.append((name, kind, shape, raw))
    if helpers or matrices & set(model.header):
        out.sort(key=lambda t: (-SIZES[t[1]], not t[3]))
    return out


def packed(name, shape, dtype, rng, nested=True):
    """The tensors of a matrix with any codes and constants."""
    count = int(np.prod(shape))
    blocks = -(-count // 64)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": dtype, "shape": list(shape)}
    codes = rng.integers(0, 256, -(-count // 2), np.uint8)
    out = [(name, "U8", (len(codes), 1), codes.tobytes())]
    if nested:
        groups = -(-blocks // 256)
        offset = np.float32(rng.random() * 0.05)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32",
                  "nested_offset": float(offset)}
        nested_map = np.sort(rng.standard_normal(256)).astype("<f4")
        out += [(name + ".absmax", "U8", (blocks,),
                 rng.integers(0, 256, blocks, np.uint8).tobytes()),
                (name + ".nested_absmax", "F32", (groups,),
                 (rng.random(groups) * 0.01).astype("<f4").tobytes()),
                (name + ".nested_quant_map", "F32", (256,), nested_map.tobytes())]
    else:
        out.append((name + ".absmax", "F32", (blocks,),
                    (rng.random(blocks) * 0.05).astype("<f4").tobytes()))
    text = json.dumps(state).encode()
    return out + [(name + ".quant_map", "F32", (16,), merge1.NF4_MAP.astype("<f4").tobytes()),
                  (name + STATE, "U8", (len(text),), text)]


def odd_model(seed):
    rng = np.random.default_rng(seed)
    tensors = packed("a.weight", (77, 1000), "bfloat16", rng)
    tensors += packed("b.weight", (3, 5, 7), "float16", rng)
    tensors += packed("c \u00e9\"\\.weight", (513, 1024), "float32", rng, nested=False)
    tensors += packed("d.weight", (1, 1), "bfloat16", rng)
    tensors += packed("e.weight", (300, 2048), "bfloat16", rng)
    tensors += [("empty", "BF16", (0, 3), b""), ("scalar", "F32", (), b"\0\0\0?"),
                ("empty too", "F32", (7, 0), b"")]
    for dtype, size in SIZES.items():
        tensors.append(("odd " + dtype, dtype, (3,), rng.bytes(3 * size)))
    order = rng.permutation(len(tensors))
    return dump([tensors[i] for i in order], {"format": "pt", "note": "\u00e9"})


def shard_name(i, count):
    return f"model-{i + 1:05}-of-{count:05}.safetensors"


def cut(path, directory, count):
    model = Safetensors(path)
    names = sorted(model.header, key=lambda n: model.header[n]["data_offsets"])
    for i in range(count):
        part = [(n, model.header[n]["dtype"], model.header[n]["shape"], model.raw(n))
                for n in names[i * len(names) // count:(i + 1) * len(names) // count]]
        with open(os.path.join(directory, shard_name(i, count)), "wb") as file:
            file.write(dump(part, model.metadata))


def main(command, *arguments):
    if command == "cut":
        cut(arguments[0], arguments[1], int(arguments[2]))
        return 0
    if command == "odd":
        result, out = odd_model(int(arguments[1])), arguments[0]
    else:
        path, out, dtype, *others = arguments
        model = load([path, *others])[0]
        result = dump(decoded(model, None, dtype.upper()), model.metadata)
    with open(out, "wb") as file:
        file.write(result)
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 4:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
