"""Writes GGUF files of unusual shape: odd_gguf.py KIND FILE

no-tensors     key-values only
small-tensors  10,000 tensors of a few blocks each, of several types
experts        stacked experts: three dimensions, Q4_K, Q8_0 and F16, odd padding
"""
import random
import struct
import sys

ALIGNMENT = 32
STRING, U32 = 8, 4
# name: (number of the type, weights of a block, bytes of a block)
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q8_0": (8, 32, 34),
         "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210)}


def string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def key_values():
    return [string("general.architecture") + struct.pack("<I", STRING) + string("test"),
            string("general.alignment") + struct.pack("<II", U32, ALIGNMENT)]


def tensor_bytes(kind, dims):
    _, weights, size = TYPES[kind]
    count = 1
    for dim in dims:
        count *= dim
    return count // weights * size


def padded(size):
    return -size % ALIGNMENT


def write(path, tensors):
    """tensors: (name, type, dims); their bytes are random but repeatable."""
    rng = random.Random(1)
    infos, offset = [], 0
    for name, kind, dims in tensors:
        infos.append(string(name) + struct.pack("<I", len(dims)) +
                     struct.pack(f"<{len(dims)}Q", *dims) +
                     struct.pack("<IQ", TYPES[kind][0], offset))
        size = tensor_bytes(kind, dims)
        offset += size + padded(size)
    pairs = key_values()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    head += b"".join(pairs) + b"".join(infos)
    with open(path, "wb") as out:
        out.write(head)
        if tensors:
            out.write(bytes(padded(len(head))))
        for _, kind, dims in tensors:
            size = tensor_bytes(kind, dims)
            out.write(rng.randbytes(size) + bytes(padded(size)))


def small_tensors():
    shapes = [("F32", [7]), ("F16", [3, 5]), ("Q4_0", [32, 2]), ("Q8_0", [64]), ("F32", [1, 1, 1]),
              ("Q4_K", [256]), ("Q6_K", [256])]
    return [(f"blk.{i}.\u00e9 t", *shapes[i % len(shapes)]) for i in range(10000)]


def experts():
    return [("blk.0.ffn_up_exps.weight", "Q4_K", [512, 96, 8]),
            ("blk.0.ffn_down_exps.weight", "Q8_0", [96, 512, 8]),
            ("blk.0.ffn_gate_exps.weight", "F16", [517, 95, 8]),
            ("blk.0.norm.weight", "F32", [517])]


KINDS = {"no-tensors": list, "small-tensors": small_tensors, "experts": experts}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in KINDS:
        sys.exit(__doc__)
    write(sys.argv[2], KINDS[sys.argv[1]]())
