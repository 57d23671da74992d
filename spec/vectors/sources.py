"""Writes the files that the vectors are packed from: sources.py DIRECTORY

Their bytes come from a generator of this script's own (splitmix64), so they are
the same everywhere and for ever.
"""
import os
import struct
import sys

STRING, UINT32 = 8, 4
# name: (number in GGUF, weights of a block, bytes of a block)
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144),
         "BF16": (30, 1, 2)}


class Numbers:
    """splitmix64"""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    def noise(self, size):
        return b"".join(struct.pack("<Q", self.next()) for _ in range(size // 8 + 1))[:size]

    def bell(self, low, high):
        """An integer around the middle of [low, high]: the mean of four."""
        z = self.next()
        mean = sum(z >> 16 * i & 0xFFFF for i in range(4)) / (4 * 0x10000)
        return low + int(mean * (high - low + 1))


def weights(kind, blocks, numbers):
    """Blocks whose fields are distributed somewhat as in models."""
    out = bytearray()
    for _ in range(blocks):
        if kind == "Q8_0":
            out += struct.pack("<H", 0x1C00 + numbers.bell(0, 255))
            out += bytes(numbers.bell(-40, 40) & 255 for _ in range(32))
        elif kind == "Q4_K":
            out += struct.pack("<HH", 0x0C00 + numbers.bell(0, 63), 0x1000 + numbers.bell(0, 63))
            out += bytes(numbers.bell(24, 63) for _ in range(12))
            out += bytes(numbers.bell(0, 15) | numbers.bell(0, 15) << 4 for _ in range(128))
        elif kind == "BF16":
            out += struct.pack("<H", numbers.bell(0x3B00, 0x3D80) | (numbers.next() & 1) << 15)
        else:
            size = TYPES[kind][2]
            value = numbers.bell(0x3F000000, 0x40000000) >> (32 - 8 * size)
            out += value.to_bytes(size, "little")
    return bytes(out)


def string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf(tensors):
    """tensors: (name, type, dimensions, bytes); padding between them is zeros."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 2)
    head += string("general.architecture") + struct.pack("<I", STRING) + string("vector")
    head += string("general.alignment") + struct.pack("<II", UINT32, 32)
    body = b""
    for name, kind, dims, data in tensors:
        head += string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        head += struct.pack("<IQ", TYPES[kind][0], len(body))
        body += data + bytes(-len(data) % 32)
    return head + bytes(-len(head) % 32) + body


def tensor(name, kind, dims, seed):
    count = 1
    for dim in dims:
        count *= dim
    return name, kind, dims, weights(kind, count // TYPES[kind][1], Numbers(seed))


def sparse(path):
    """64 KiB of a pattern, then a hole of 1 MiB, then one byte."""
    with open(path, "wb") as f:
        f.write(b"zeros follow\n" * 5041)
        f.seek(65536 + (1 << 20))
        f.write(b"!")


def main(directory):
    files = {
        "hello.txt": b"Hello, flash! " * 40 + b"\n",
        "types.gguf": gguf([tensor("blk.0.attn_q.weight", "Q4_K", [512, 32], 1),
                            tensor("blk.0.attn_norm.weight", "F32", [300], 2),
                            tensor("blk.0.ffn_up.weight", "BF16", [64, 40], 3)]),
        "experts.gguf": gguf([tensor("blk.0.ffn_up_exps.weight", "Q8_0", [32, 512, 2], 4),
                              tensor("output_norm.weight", "F32", [32], 5)]),
        "zeros.gguf": gguf([("all_zero.weight", "F16", [64, 64], bytes(8192)),
                            ("half_zero.weight", "F32", [1030],
                             bytes(2060) + Numbers(6).noise(2060)),
                            tensor("last.weight", "F32", [5], 7)]),
        "noise.gguf": gguf([("noise.weight", "F16", [64, 96], Numbers(8).noise(12288)),
                            tensor("norm.weight", "F32", [64], 9)]),
        "empty": b"",
        "one-byte": b"\n",
        "ein Modell für Flash.bin": Numbers(10).noise(777),
        "many.gguf": gguf([tensor("token_embd.weight", "Q8_0", [64, 16], 11)]),
    }
    for name, data in files.items():
        with open(os.path.join(directory, name), "wb") as f:
            f.write(data)
    sparse(os.path.join(directory, "sparse.bin"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
