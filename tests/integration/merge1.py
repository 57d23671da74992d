"""MERGE-1 in NumPy, written from its definition alone (format/merge.h), to compare
views with: decode the base to F32, add what adapters add, write the result.

As a module: decode(), merge(), store(), decode_nf4(). As a program:

merge1.py PROGRAM SEED    has PROGRAM (mergecheck) merge random matrices on bases
                          of many types and compares its bytes; 1 if any differ
"""
import os
import subprocess
import sys
import tempfile

import numpy as np

F32, F16, Q4_0, Q8_0, Q4_K, Q6_K, BF16 = 0, 1, 2, 8, 12, 14, 30
NF4 = "nf4"
NAMES = {F32: "F32", F16: "F16", Q4_0: "Q4_0", Q8_0: "Q8_0", Q4_K: "Q4_K", Q6_K: "Q6_K",
         BF16: "BF16", NF4: "NF4"}
# Bytes and weights of a block.
BLOCKS = {F32: (4, 1), F16: (2, 1), BF16: (2, 1), Q4_0: (18, 32), Q8_0: (34, 32),
          Q4_K: (144, 256), Q6_K: (210, 256)}
NF4_MAP = np.array([
    -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1], np.float32)


# ---- decoding: arrays of blocks to arrays of blocks' weights ----

def halves(blocks, at):
    """The 16-bit float at a byte of every block, as a column of F32."""
    return blocks[:, at:at + 2].copy().view("<f2").astype(np.float32)


def nibbles(part):
    return np.concatenate([part & 15, part >> 4], axis=1)


def decode_q4_0(b):
    return (nibbles(b[:, 2:18]).astype(np.float32) - np.float32(8)) * halves(b, 0)


def decode_q8_0(b):
    return b[:, 2:34].copy().view(np.int8).astype(np.float32) * halves(b, 0)


def decode_q4_k(b):
    d, dmin, packed = halves(b, 0), halves(b, 2), b[:, 4:16]
    scale, least = [], []
    for group in range(8):
        if group < 4:
            scale.append(packed[:, group] & 63)
            least.append(packed[:, group + 4] & 63)
        else:
            scale.append(packed[:, group + 4] & 15 | packed[:, group - 4] >> 6 << 4)
            least.append(packed[:, group + 4] >> 4 | packed[:, group] >> 6 << 4)
    out = []
    for group in range(8):
        quants = b[:, 16 + group // 2 * 32:48 + group // 2 * 32] >> group % 2 * 4 & 15
        step = d * scale[group].astype(np.float32)[:, None]
        out.append(step * quants.astype(np.float32)
                   - dmin * least[group].astype(np.float32)[:, None])
    return np.concatenate(out, axis=1)


def decode_q6_k(b):
    low, high, scales = b[:, :128], b[:, 128:192], b[:, 192:208].copy().view(np.int8)
    d = halves(b, 208)
    weight = np.arange(256)
    half, quarter, place = weight // 128, weight % 128 // 32, weight % 32
    quants = (low[:, 64 * half + 32 * (quarter % 2) + place] >> quarter // 2 * 4 & 15
              | (high[:, 32 * half + place] >> 2 * quarter & 3) << 4)
    steps = (d * scales.astype(np.float32))[:, weight // 16]
    return steps * (quants.astype(np.float32) - np.float32(32))


def decode(kind, data):
    """The bytes of a tensor of ggml's type `kind` as F32."""
    data = np.frombuffer(data, np.uint8)
    if kind == F32:
        return data.view("<f4").astype(np.float32)
    if kind == F16:
        return data.view("<f2").astype(np.float32)
    if kind == BF16:
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    blocks = data.reshape(-1, BLOCKS[kind][0])
    return {Q4_0: decode_q4_0, Q8_0: decode_q8_0, Q4_K: decode_q4_k,
            Q6_K: decode_q6_k}[kind](blocks).reshape(-1)


def nf4_scales(absmax, nested, nested_map, offset):
    """Double quantization: the scale of each block of 64."""
    constants = np.repeat(nested, 256)[:len(absmax)]
    return nested_map[absmax] * constants + np.float32(offset)


def decode_nf4(codes, scales, count):
    codes = np.frombuffer(codes, np.uint8)
    both = np.stack([codes >> 4, codes & 15], axis=1).reshape(-1)[:count]
    return NF4_MAP[both] * np.repeat(scales, 64)[:count]


# ---- merging ----

def merge(weights, adapters):
    """Adds to F32 weights of shape (rows, columns) adapters of (A, B, scale, gain):
    A (rank, columns), or (experts, rank, columns) where as many parts of the rows
    have one each, B (rows, rank), gain (rows) or None."""
    f = weights.copy()
    for a, b, scale, gain in adapters:
        total = np.zeros_like(f)
        experts = a.reshape(-1, *a.shape[-2:])
        part = len(f) // len(experts)
        for e, matrix in enumerate(experts):
            rows = slice(e * part, (e + 1) * part)
            for k in range(matrix.shape[0]):
                total[rows] = total[rows] + matrix[k][None, :] * b[rows, k][:, None]
        f = total * np.float32(scale) + f
        if gain is not None:
            f = f * gain[:, None]
    return f


# ---- writing ----

def store_bf16(values):
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2").tobytes()


def store_q8_0(values):
    blocks = values.reshape(-1, 32)
    most = np.abs(blocks).max(axis=1)
    scale = most / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = (blocks * inverse[:, None]).astype(np.float64)
    quants = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled).astype(np.int8)
    out = np.empty((len(blocks), 34), np.uint8)
    out[:, :2] = scale.astype("<f2")[:, None].view(np.uint8)
    out[:, 2:] = quants.view(np.uint8)
    return out.tobytes()


def store(kind, values):
    """F32 values as the bytes of ggml's type `kind`; every NaN is one value."""
    values = np.ascontiguousarray(values, np.float32).reshape(-1)
    if kind == F32:
        return np.where(np.isnan(values), np.uint32(0x7FC00000),
                        values.view(np.uint32)).astype("<u4").tobytes()
    if kind == F16:
        with np.errstate(over="ignore"):
            half = values.astype("<f2").view("<u2")
        return np.where(np.isnan(values), 0x7E00, half).astype("<u2").tobytes()
    return store_bf16(values) if kind == BF16 else store_q8_0(values)


# ---- comparing ----

def random_base(kind, rows, columns, rng):
    """Bytes of a tensor, and what they mean. Scales of quantized types are halves
    of ordinary size; all else is any bits."""
    weights = (rng.standard_normal((rows, columns)) * 0.02).astype(np.float32)
    if kind in (F32, F16, BF16):
        data = store(kind, weights)
        return data, decode(kind, data).reshape(rows, columns)
    if kind == NF4:
        blocks = -(-rows * columns // 64)
        codes = rng.integers(0, 256, rows * columns // 2, np.uint8).tobytes()
        scales = np.abs(rng.standard_normal(blocks)).astype(np.float32)
        return (codes + scales.astype("<f4").tobytes(),
                decode_nf4(codes, scales, rows * columns).reshape(rows, columns))
    size, block = BLOCKS[kind]
    data = rng.integers(0, 256, (rows * columns // block, size), np.uint8)
    for at in {Q4_0: [0], Q8_0: [0], Q4_K: [0, 2], Q6_K: [208]}[kind]:
        scale = (rng.standard_normal((len(data), 1)) * 0.01).astype("<f2")
        data[:, at:at + 2] = scale.view(np.uint8)
    data = data.tobytes()
    return data, decode(kind, data).reshape(rows, columns)


def random_adapters(rows, columns, rng):
    adapters = []
    for _ in range(rng.integers(0, 3)):
        rank = int(rng.integers(1, 40))
        a, b = (rng.standard_normal(shape).astype(np.float32) * np.float32(0.05)
                for shape in ((rank, columns), (rows, rank)))
        gain = rng.random(rows, np.float32) if rng.integers(0, 2) else None
        adapters.append((a, b, float(np.float32(rng.standard_normal())), gain))
    return adapters


def merged_by(program, base, data, kind, shape, adapters, directory):
    """What the program makes of the same numbers."""
    def write(name, numbers):
        with open(os.path.join(directory, name), "wb") as file:
            file.write(numbers)
        return os.path.join(directory, name)

    arguments = [program, str(base), str(kind), str(shape[0]), str(shape[1]),
                 write("base", data), os.path.join(directory, "out")]
    for i, (a, b, scale, gain) in enumerate(adapters):
        arguments += [str(a.shape[0]), float.hex(scale), write(f"a{i}", a.astype("<f4").tobytes()),
                      write(f"b{i}", b.astype("<f4").tobytes()),
                      "-" if gain is None else write(f"gain{i}", gain.astype("<f4").tobytes())]
    subprocess.run(arguments, check=True)
    with open(os.path.join(directory, "out"), "rb") as file:
        return file.read()


def main(program, seed):
    rng = np.random.default_rng(seed)
    compared = wrong = 0
    with tempfile.TemporaryDirectory() as directory:
        for base in NAMES:
            for kind in (F32, F16, BF16, Q8_0):
                # Rows of odd length where no block forbids it.
                whole = BLOCKS[Q8_0][1] if kind == Q8_0 or base in (Q4_0, Q8_0) else 1
                whole = 256 if base in (Q4_K, Q6_K) else whole
                rows = 2 * int(rng.integers(1, 12))
                columns = whole * int(rng.integers(1, 600 // whole + 2))
                data, weights = random_base(base, rows, columns, rng)
                adapters = random_adapters(rows, columns, rng)
                expected = store(kind, merge(weights, adapters))
                got = merged_by(program, base, data, kind, (rows, columns), adapters, directory)
                compared += 1
                if got != expected:
                    wrong += 1
                    print(f"seed {seed}: {NAMES[base]} -> {NAMES[kind]}, {rows} x {columns}, "
                          f"{len(adapters)} adapters: bytes differ")
    print(f"{compared} merged tensors compared, {wrong} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
