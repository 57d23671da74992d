"""The GGUF model that quantizing another one makes, in plain Python, written from the
definitions of ggml's Q8_0 and Q4_0 and of pruning alone:

quantized_gguf.py MODEL OUT [--quantize q8_0|q4_0] [--prune SHARE|2:4]
quantized_gguf.py MODEL OUT --nf4 bf16|f16|f32 [--prune SHARE|2:4]

The second is the view of the model in NF4 with double quantization, as bitsandbytes
defines it; f32 is what that is rounded from.
"""
import argparse
import array
import bisect
import struct

F32, F16, Q4_0, Q8_0, BF16 = 0, 1, 2, 8, 30
FILE_TYPE = {Q4_0: 2, Q8_0: 7, F16: 1, BF16: 32, F32: 0}
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


NF4 = f32([
    -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1])


def dynamic_map():
    """8 bits: seven decades, each cut into twice the parts of the one below."""
    values = [0.0, 1.0]
    for e in range(7):
        bounds = f32([0.1 + 0.9 / 2 ** e * i for i in range(2 ** e + 1)])
        for low, high in zip(bounds, bounds[1:]):
            values += [10.0 ** (e - 6) * (low + high) / 2, -10.0 ** (e - 6) * (low + high) / 2]
    return f32(sorted(f32(values)))


def nearest(values, x):
    i = min(max(bisect.bisect_right(values, x) - 1, 0), len(values) - 2)
    up, down = f32([values[i + 1] - x, x - values[i]])
    return i + (up < down)


def scaled(x, most):
    return [max(-1.0, min(1.0, v)) for v in f32([v * inverse(most) for v in x])]


def nf4(x):
    """The weights that the codes of x stand for."""
    blocks = [x[i:i + 64] for i in range(0, len(x), 64)]
    absmax = [max(map(abs, b)) for b in blocks]
    mean = 0.0
    for a in absmax:
        mean += a
    mean = f32([mean / len(absmax)])[0]
    scales = []
    for i in range(0, len(absmax), 256):
        off = f32([a - mean for a in absmax[i:i + 256]])
        most = max(map(abs, off))
        codes = [nearest(NESTED, v) for v in scaled(off, most)]
        scales += f32([v + mean for v in f32([NESTED[c] * most for c in codes])])
    out = f32([])
    for block, most, scale in zip(blocks, absmax, scales):
        out += f32([NF4[nearest(NF4, v)] * scale for v in scaled(block, most)])
    return out


NESTED = dynamic_map()


def encode(kind, x):
    if kind == F32:
        return struct.pack("<%df" % len(x), *x)
    if kind == F16:
        return struct.pack("<%de" % len(x), *x)
    words = struct.unpack("<%dI" % len(x), struct.pack("<%df" % len(x), *x))
    return struct.pack("<%dH" % len(x), *(w + 0x7fff + (w >> 16 & 1) >> 16 for w in words))


def pruned(x, prune):
    """The places of the weights that become 0."""
    if prune == "2:4":
        places = []
        for i in range(0, len(x), 4):
            places += sorted(range(i, i + 4), key=lambda j: (-abs(x[j]), j))[2:]
        return places
    return sorted(range(len(x)), key=lambda j: (abs(x[j]), j))[:int(len(x) * float(prune))]


def change(kind, data, to, prune, as_nf4):
    x = decode(kind, data)
    if prune:
        size = BLOCK[kind][0]
        data = bytearray(data)
        for j in pruned(x, prune):
            if x[j]:
                data[j * size:(j + 1) * size] = bytes(size)
            x[j] = 0.0
    if as_nf4:
        return encode(to, nf4(x))
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
    if args.nf4:
        to = {"bf16": BF16, "f16": F16, "f32": F32}[args.nf4]
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
        if args.nf4:
            wanted.pop(b"general.quantization_version", None)
        if key in wanted:
            head += r.data[start:value] + struct.pack("<I", wanted.pop(key))
        else:
            head += r.data[start:r.at]
    for key, value in [] if args.nf4 else wanted.items():
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
        if to is not None and is_weight(name, dims) and (args.nf4 or dims[0] % 32 == 0):
            new = to
        prune = args.prune if is_weight(name, dims) else None
        if prune == "2:4" and dims[0] % 4:
            prune = None
        head += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dims))
        head += struct.pack("<%dQ" % len(dims), *dims) + struct.pack("<IQ", new, len(body))
        nf4_here = args.nf4 and is_weight(name, dims)
        if nf4_here or new != kind or prune:
            raw = change(kind, raw, new, prune, nf4_here)
        body += padded(raw, alignment)
    with open(args.out, "wb") as f:
        f.write(padded(magic + struct.pack("<QQ", tensors, keys) + head, alignment) + body)


parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("out")
parser.add_argument("--quantize")
parser.add_argument("--nf4")
parser.add_argument("--prune")
run(parser.parse_args())
