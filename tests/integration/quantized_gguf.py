"""The GGUF model that quantizing another one makes, in plain Python, written from the
definitions of ggml's Q8_0 and Q4_0 and of pruning alone:

quantized_gguf.py MODEL OUT [--quantize q8_0|q4_0] [--prune SHARE|2:4]
"""
import argparse
import array
import struct

F32, F16, Q4_0, Q8_0, BF16 = 0, 1, 2, 8, 30
FILE_TYPE = {Q4_0: 2, Q8_0: 7}
BLOCK = {F32: (4, 1), F16: (2, 1), BF16: (2, 1), Q4_0: (18, 32), Q8_0: (34, 32)}
VALUE = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8]


def f32(values):
    """Rounded to F32. (A product, quotient or sum of two F32 numbers in binary64,
    rounded again, is what F32 arithmetic gives.)"""
    return array.array("f", values)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, size):
        return int.from_bytes(self.take(size), "little")

    def string(self):
        return self.take(self.number(8))

    def value(self, kind):
        if kind == 9:
            kind, count = self.number(4), self.number(8)
            for _ in range(count):
                self.value(kind)
        elif kind == 8:
            self.string()
        else:
            self.take(VALUE[kind])


def decode(kind, data):
    if kind == F32:
        return f32(struct.unpack("<%df" % (len(data) // 4), data))
    if kind == F16:
        return f32(struct.unpack("<%de" % (len(data) // 2), data))
    words = struct.unpack("<%dH" % (len(data) // 2), data)
    return f32(struct.unpack("<%df" % len(words), struct.pack("<%dI" % len(words),
                                                              *(w << 16 for w in words))))


def inverse(d):
    return f32([1 / d])[0] if d else 0.0


def q8_0(x):
    d = f32([max(map(abs, x)) / 127])[0]
    scaled = f32([v * inverse(d) for v in x])
    # Halves are rounded away from zero.
    quants = [int(abs(v) + 0.5) * (1 if v > 0 else -1) for v in scaled]
    return struct.pack("<e32b", d, *quants)


def q4_0(x):
    d = f32([max(x, key=abs) / -8])[0]  # the first of the largest
    scaled = f32([v + 8.5 for v in f32([v * inverse(d) for v in x])])
    quants = [min(15, int(v)) for v in scaled]
    return struct.pack("<e16B", d, *(quants[i] | quants[i + 16] << 4 for i in range(16)))


def pruned(x, prune):
    """The places of the weights that become 0."""
    if prune == "2:4":
        places = []
        for i in range(0, len(x), 4):
            places += sorted(range(i, i + 4), key=lambda j: (-abs(x[j]), j))[2:]
        return places
    return sorted(range(len(x)), key=lambda j: (abs(x[j]), j))[:int(len(x) * float(prune))]


def change(kind, data, to, prune):
    x = decode(kind, data)
    if prune:
        size = BLOCK[kind][0]
        data = bytearray(data)
        for j in pruned(x, prune):
            if x[j]:
                data[j * size:(j + 1) * size] = bytes(size)
            x[j] = 0.0
    if to == kind:
        return bytes(data)
    quantize = q8_0 if to == Q8_0 else q4_0
    return b"".join(quantize(x[i:i + 32]) for i in range(0, len(x), 32))


def is_weight(name, dims):
    return name.endswith(b"weight") and b"_norm." not in name and len(dims) > 1


def padded(data, alignment):
    return data + bytes(-len(data) % alignment)


def run(args):
    with open(args.model, "rb") as f:
        r = Reader(f.read())
    to = {"q8_0": Q8_0, "q4_0": Q4_0, None: None}[args.quantize]
    magic, tensors, keys = r.take(8), r.number(8), r.number(8)
    wanted = {} if to is None else {b"general.file_type": FILE_TYPE[to],
                                    b"general.quantization_version": 2}
    head, alignment = b"", 32
    for _ in range(keys):
        start = r.at
        key, kind = r.string(), r.number(4)
        value = r.at
        r.value(kind)
        if key == b"general.alignment":
            alignment = int.from_bytes(r.data[value:r.at], "little")
        if key in wanted:
            head += r.data[start:value] + struct.pack("<I", wanted.pop(key))
        else:
            head += r.data[start:r.at]
    for key, value in wanted.items():
        head += struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, value)
        keys += 1
    infos = []
    for _ in range(tensors):
        name = r.string()
        dims = [r.number(8) for _ in range(r.number(4))]
        infos.append((name, dims, r.number(4), r.number(8)))
    data = r.at + -r.at % alignment
    body = b""
    for name, dims, kind, offset in infos:
        count, size, new = 1, BLOCK[kind][0], kind
        for n in dims:
            count *= n
        raw = r.data[data + offset:data + offset + count * size]
        if to is not None and is_weight(name, dims) and dims[0] % 32 == 0:
            new = to
        prune = args.prune if is_weight(name, dims) else None
        if prune == "2:4" and dims[0] % 4:
            prune = None
        head += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dims))
        head += struct.pack("<%dQ" % len(dims), *dims) + struct.pack("<IQ", new, len(body))
        body += padded(change(kind, raw, new, prune) if new != kind or prune else raw, alignment)
    with open(args.out, "wb") as f:
        f.write(padded(magic + struct.pack("<QQ", tensors, keys) + head, alignment) + body)


parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("out")
parser.add_argument("--quantize")
parser.add_argument("--prune")
run(parser.parse_args())
