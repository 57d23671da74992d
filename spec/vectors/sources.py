"""Writes the files that the vectors are packed from: sources.py DIRECTORY

Their bytes come from a generator of this script's own (splitmix64), so they are
the same everywhere and for ever.
"""
import json
import os
import struct
import sys

STRING, UINT32 = 8, 4
# name: (number in GGUF, weights of a block, bytes of a block)
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q5_0": (6, 32, 22), "Q8_0": (8, 32, 34),
         "Q4_1": (3, 32, 20), "Q2_K": (10, 256, 84), "IQ4_XS": (23, 256, 136), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
         "Q6_K": (14, 256, 210), "BF16": (30, 1, 2), "MXFP4": (39, 32, 17)}


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


def packed(values, bits, run):
    """Values of some bits in bytes: a byte holds value i, i + run, i + 2 run ..."""
    per_byte, out = 8 // bits, bytearray()
    for first in range(0, len(values), run * per_byte):
        for i in range(first, first + run):
            out.append(sum((values[i + k * run] & (1 << bits) - 1) << k * bits
                           for k in range(per_byte)))
    return bytes(out)


def spread(level, bits, low_bits, weights, numbers):
    """Weights of `bits` bits, the wider apart the higher the level (0 to 2). The lower
    `low_bits` are noise."""
    middle = 1 << (bits - low_bits - 1)
    reach = (middle // 8, middle // 3, middle - 1)[level]
    return [numbers.bell(middle - reach, middle + reach) << low_bits |
            numbers.next() & (1 << low_bits) - 1 for _ in range(weights)]


def half(exponent, numbers):
    return struct.pack("<H", exponent << 10 | numbers.bell(0, 255))


def k_scales(scales, minimums):
    """Eight scales and minimums of six bits."""
    return bytes([s & 63 | (t >> 4) << 6 for s, t in zip(scales[:4], scales[4:])] +
                 [m & 63 | (n >> 4) << 6 for m, n in zip(minimums[:4], minimums[4:])] +
                 [t & 15 | (n & 15) << 4 for t, n in zip(scales[4:], minimums[4:])])


def block_with_context(kind, row, numbers):
    """A block whose constants tell how far apart its weights are, in its row."""
    if kind in ("Q8_0", "Q5_0", "MXFP4"):
        level = numbers.next() % 3
        if kind == "MXFP4":
            return (bytes([100 + row + level]) +
                    packed(spread(level, 4, 0, 32, numbers), 4, 16))
        d = half(4 + row + level, numbers)
        if kind == "Q8_0":
            return d + bytes((q - 128) & 255 for q in spread(level, 8, 0, 32, numbers))
        q = spread(level, 5, 1, 32, numbers)
        return d + packed([x >> 4 for x in q], 1, 1) + packed(q, 4, 16)
    if kind == "Q4_1":
        level = numbers.next() % 3
        return (half(5, numbers) + half(5 + level, numbers) +
                packed(spread(level, 4, 0, 32, numbers), 4, 16))
    if kind == "Q2_K":
        levels = [numbers.next() % 3 for _ in range(16)]
        q = [numbers.bell(0, (0, 2, 3)[level]) for level in levels for _ in range(16)]
        return (bytes((numbers.next() & 1) + 6 | (15, 7, 2)[level] << 4 for level in levels) +
                packed(q, 2, 32) + half(5, numbers) + half(5, numbers))
    if kind == "IQ4_XS":
        levels = [numbers.next() % 3 for _ in range(8)]
        q = [x for level in levels for x in spread(level, 4, 0, 32, numbers)]
        codes = [32 + (1 - (numbers.next() & 2)) * (7 << level) for level in levels]
        return (half(5 + row, numbers) + bytes(packed([c >> 4 for c in codes], 2, 1)) +
                packed(codes, 4, 1) + packed(q, 4, 16))
    if kind in ("Q4_K", "Q5_K"):
        bits = 4 if kind == "Q4_K" else 5
        levels = [numbers.next() % 3 for _ in range(8)]
        q = [x for level in levels for x in spread(level, bits, bits - 4, 32, numbers)]
        out = half(5, numbers) + half(5, numbers)
        out += k_scales([numbers.bell(30, 40) for _ in levels],
                        [(5, 20, 60)[level] + (numbers.next() & 3) for level in levels])
        return out + (packed([x >> 4 for x in q], 1, 32) if bits == 5 else b"") + packed(q, 4, 32)
    if kind == "Q6_K":
        levels = [numbers.next() % 3 for _ in range(16)]
        q = [x for level in levels for x in spread(level, 6, 2, 16, numbers)]
        sign = [-1 if numbers.next() & 1 else 1 for _ in levels]
        scales = [s * (20 << level) + numbers.bell(0, 5) for s, level in zip(sign, levels)]
        return (packed(q, 4, 64) + packed([x >> 4 for x in q], 2, 32) +
                struct.pack("<16b", *scales) + half(5 + row, numbers))
    q = [numbers.bell(0, 7) for _ in range(256)]
    return (packed([x >> 2 for x in q], 1, 32) + packed(q, 2, 32) + numbers.noise(12) +
            half(5, numbers))


def context_tensor(name, kind, dims, seed):
    numbers = Numbers(seed)
    _, weights_of_block, _ = TYPES[kind]
    data = b"".join(block_with_context(kind, row % 16, numbers) for row in range(dims[1])
                    for _ in range(dims[0] // weights_of_block))
    return name, kind, dims, data


def pruned(name, dims, seed):
    """A tensor of BF16, of which three in four weights are zero."""
    numbers = Numbers(seed)
    data = weights("BF16", dims[0] * dims[1], numbers)
    data = b"".join(data[i:i + 2] if numbers.next() % 4 == 0 else b"\0\0"
                    for i in range(0, len(data), 2))
    return name, "BF16", dims, data


def with_zeros(tensor_of_bf16, places):
    """The same with some weights of zero: exceptions in a packed stream."""
    name, kind, dims, data = tensor_of_bf16
    data = bytearray(data)
    for i in places:
        data[2 * i:2 * i + 2] = b"\0\0"
    return name, kind, dims, bytes(data)


def string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf(tensors, texts=()):
    """tensors: (name, type, dimensions, bytes); padding between them is zeros."""
    texts = [("general.architecture", "vector"), *texts]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(texts) + 1)
    for key, text in texts:
        head += string(key) + struct.pack("<I", STRING) + string(text)
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


# ---- models with adapters, of which there are views ----

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1}


def numbers_of(kind, count, seed):
    """Numbers of ordinary size, a multiple of 1/64."""
    numbers = Numbers(seed)
    out = b""
    for _ in range(count):
        bits = struct.pack("<f", numbers.bell(-127, 127) / 64)
        half_bits = struct.pack("<e", struct.unpack("<f", bits)[0])
        out += {"F32": bits, "F16": half_bits, "BF16": bits[2:]}[kind]
    return out


def safetensors(tensors):
    """tensors: (name, dtype, shape, bytes)"""
    header, body = {}, b""
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def matrix(name, dtype, shape, seed):
    return name, dtype, shape, numbers_of(dtype, shape[0] * shape[1], seed)


def bitsandbytes(name, rows, columns, seed):
    """A matrix of NF4 with double quantization, and what describes it."""
    numbers, blocks = Numbers(seed), rows * columns // 64
    nf4 = (-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
           -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
           0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
           0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1)
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16",
                        "shape": [rows, columns], "nested_blocksize": 256,
                        "nested_dtype": "float32", "nested_offset": 0.5}).encode()
    return [(name, "U8", [rows * columns // 2, 1], numbers.noise(rows * columns // 2)),
            (name + ".absmax", "U8", [blocks], numbers.noise(blocks)),
            (name + ".nested_absmax", "F32", [-(-blocks // 256)],
             numbers_of("F32", -(-blocks // 256), seed + 1)),
            (name + ".nested_quant_map", "F32", [256],
             struct.pack("<256f", *((i - 128) / 512 for i in range(256)))),
            (name + ".quant_map", "F32", [16], struct.pack("<16f", *nf4)),
            (name + ".quant_state.bitsandbytes__nf4", "U8", [len(state)], state)]


def marked(count, seed):
    """Codes of 4 bits in blocks of 32 bytes, of which one in four is narrow; so are
    blocks of 16 of the bytes that are their constants, in runs."""
    numbers, codes, constants = Numbers(seed), b"", b""
    for i in range(count):
        low, high = (0, 15) if numbers.bell(0, 100) < 42 else (5, 10)
        codes += bytes(numbers.bell(low, high) | numbers.bell(low, high) << 4
                       for _ in range(32))
    for i in range(count // 4):
        low = 40 * (i // 3 % 4)
        constants += bytes(numbers.bell(low, low + 60) for _ in range(16))
    return [("a.weight", "U8", [len(codes) + 20, 1], codes + numbers.noise(20)),
            ("a.weight.absmax", "U8", [len(constants)], constants)]


VIEW_MODULES = {"model.embed_tokens": (20, 64), "model.layers.0.q": (16, 64),
                "model.layers.0.k": (12, 64)}


def views_model():
    tensors = [matrix("model.embed_tokens.weight", "F32", [20, 64], 60),
               matrix("lm_head.weight", "F16", [20, 64], 61)]
    tensors += bitsandbytes("model.layers.0.q.weight", 16, 64, 62)
    return safetensors(tensors + [matrix("model.layers.0.k.weight", "BF16", [12, 64], 64)])


def vocabulary(rows):
    """A model with a vocabulary of so many words: a longer one begins like a shorter one.
    Its embedding has few different values, so that little of it has to be stored."""
    numbers = Numbers(97)
    words = b"".join(struct.pack("<H", 0x3C00 + (numbers.bell(0, 7) << 7))
                     for _ in range(rows * 128))
    return safetensors([("model.embed_tokens.weight", "BF16", [rows, 128], words),
                        matrix("model.norm.weight", "F32", [1, 128], rows)])


def write_peft(directory, dora, seed):
    """An adapter of rank 3; a DoRA leaves the embedding out."""
    os.makedirs(directory)
    with open(os.path.join(directory, "adapter_config.json"), "w", encoding="utf-8") as f:
        json.dump({"peft_type": "LORA", "r": 3, "lora_alpha": 2, "use_dora": dora}, f)
    tensors = []
    for i, (module, (rows, columns)) in enumerate(VIEW_MODULES.items()):
        embedding, name = module.endswith("tokens"), "base_model.model." + module
        if dora and embedding:
            continue
        a, b = ([3, rows], [columns, 3]) if embedding else ([3, columns], [rows, 3])
        ends = ("lora_embedding_A", "lora_embedding_B") if embedding else (
            "lora_A.weight", "lora_B.weight")
        tensors.append(matrix(f"{name}.{ends[0]}", "BF16", a, seed + 3 * i))
        tensors.append(matrix(f"{name}.{ends[1]}", "F32", b, seed + 3 * i + 1))
        if dora:
            tensors.append((name + ".lora_magnitude_vector", "F32", [rows],
                            numbers_of("F32", rows, seed + 3 * i + 2)))
    with open(os.path.join(directory, "adapter_model.safetensors"), "wb") as f:
        f.write(safetensors(tensors))


def gguf_matrix(name, dims, seed):
    count = 1
    for dim in dims:
        count *= dim
    return name, "F32", dims, numbers_of("F32", count, seed)


def moe_adapter():
    """A and B for each expert; A of the embedding is transposed."""
    return gguf([gguf_matrix("blk.0.ffn_up_exps.weight.lora_a", [32, 2, 3], 90),
                 gguf_matrix("blk.0.ffn_up_exps.weight.lora_b", [2, 4, 3], 91),
                 gguf_matrix("token_embd.weight.lora_a", [2, 20], 92),
                 gguf_matrix("token_embd.weight.lora_b", [2, 32], 93)],
                [("general.type", "adapter"), ("adapter.type", "lora")])


def sparse(path):
    """64 KiB of a pattern, then a hole of 1 MiB, then one byte."""
    with open(path, "wb") as f:
        f.write(b"zeros follow\n" * 5041)
        f.seek(65536 + (1 << 20))
        f.write(b"!")


def tuned_tensors():
    return (("blk.0.attn_q.weight", "BF16", [64, 40], 30), ("blk.0.attn_k.weight", "Q8_0", [64, 40], 31),
            ("blk.0.attn_v.weight", "Q4_K", [512, 10], 32), ("blk.0.ffn_up.weight", "F32", [64, 20], 33),
            ("output_norm.weight", "F32", [64], 34), ("output.weight", "F16", [64, 20], 35))


def step(tensor, seed):
    """The tensor after some training: every ninth byte is one more or less. Norms stay."""
    name, kind, dims, data = tensor
    numbers = Numbers(seed)
    if len(dims) == 1:
        return tensor
    out = bytearray(data)
    for i in range(0, len(out), 9):
        out[i] = (out[i] + numbers.next() % 3 - 1) % 256
    return name, kind, dims, bytes(out)


def layers_tensors():
    """Many small tensors: a large root."""
    kinds = (("attn_q.weight", "Q8_0", [32, 8]), ("attn_norm.weight", "F32", [32]),
             ("ffn_up.weight", "BF16", [32, 12]))
    return [tensor(f"blk.{i}.{name}", kind, dims, 100 + 3 * i + k)
            for i in range(14) for k, (name, kind, dims) in enumerate(kinds)]


def main(directory):
    files = {
        "hello.txt": b"Hello, flash! " * 40 + b"\n",
        "types.gguf": gguf([tensor("blk.0.attn_q.weight", "Q4_K", [512, 32], 1),
                            tensor("blk.0.attn_norm.weight", "F32", [300], 2),
                            with_zeros(tensor("blk.0.ffn_up.weight", "BF16", [64, 40], 3),
                                       [0, 77, 1500, 2559])]),
        "experts.gguf": gguf([tensor("blk.0.ffn_up_exps.weight", "Q8_0", [32, 512, 2], 4),
                              tensor("output_norm.weight", "F32", [32], 5)]),
        "zeros.gguf": gguf([("all_zero.weight", "F16", [64, 64], bytes(8192)),
                            ("half_zero.weight", "F32", [1030],
                             bytes(2060) + Numbers(6).noise(2060)),
                            tensor("last.weight", "F32", [5], 7),
                            pruned("pruned.weight", [64, 40], 19)]),
        "buckets.gguf": gguf([context_tensor("half", "Q5_0", [512, 30], 12),
                              context_tensor("half_and_bytes", "Q6_K", [1024, 12], 13),
                              context_tensor("exponent", "MXFP4", [512, 30], 14),
                              context_tensor("ratio", "Q4_K", [1024, 14], 15),
                              context_tensor("ratio_extended", "Q5_K", [1024, 12], 16),
                              context_tensor("none", "Q3_K", [1024, 12], 17),
                              context_tensor("bytes", "Q8_0", [512, 16], 18),
                              context_tensor("half_and_six_bits", "IQ4_XS", [1024, 14], 20),
                              context_tensor("ratio_of_nibbles", "Q2_K", [1024, 20], 21),
                              context_tensor("ratio_of_halves", "Q4_1", [512, 30], 22)]),
        "noise.gguf": gguf([("noise.weight", "F16", [64, 96], Numbers(8).noise(12288)),
                            tensor("norm.weight", "F32", [64], 9)]),
        "base.gguf": gguf([tensor(*t) for t in tuned_tensors()]),
        "tuned.gguf": gguf([step(tensor(*t), 40 + i) for i, t in enumerate(tuned_tensors())]),
        "tiny.safetensors": views_model(),
        "short.safetensors": vocabulary(260),
        "long.safetensors": vocabulary(290),
        "marked.safetensors": safetensors(marked(800, 96)),
        "moe.gguf": gguf([tensor("blk.0.ffn_up_exps.weight", "Q8_0", [32, 4, 3], 94),
                          tensor("token_embd.weight", "F16", [32, 20], 95)]),
        "moe-lora.gguf": moe_adapter(),
        "layers.gguf": gguf(layers_tensors()),
        "empty": b"",
        "one-byte": b"\n",
        "ein Modell für Flash.bin": Numbers(10).noise(777),
        "many.gguf": gguf([tensor("token_embd.weight", "Q8_0", [64, 16], 11)]),
    }
    for name, data in files.items():
        with open(os.path.join(directory, name), "wb") as f:
            f.write(data)
    write_peft(os.path.join(directory, "peft"), False, 70)
    write_peft(os.path.join(directory, "dora"), True, 80)
    sparse(os.path.join(directory, "sparse.bin"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
