"""Merges adapters into a GGUF model, written from the definitions alone, to compare
merged views with. Every matrix becomes TYPE (Q8_0: F16 where rows are no multiple of
32); vectors and F32 routers stay as they are; tensors follow each other, each padded.

merged_gguf.py BASE TYPE OUT [ADAPTER SCALE]... [-- TYPE OUT [ADAPTER SCALE]...]...
"""
import struct
import sys

import numpy as np

import merge1

TYPES = {"f32": merge1.F32, "f16": merge1.F16, "bf16": merge1.BF16, "q8_0": merge1.Q8_0}
FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}
# Formats of GGUF's value types; 8 is a string, 9 an array.
VALUES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
          12: "d"}


class Gguf:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        self.at = 0
        magic, self.version, tensors, keys = self.take("<4sIQQ")
        assert magic == b"GGUF"
        self.values, self.places = {}, {}
        for _ in range(keys):
            key = self.string()
            kind, = self.take("<I")
            self.places[key] = self.at
            self.values[key] = self.value(kind)
        self.infos = self.at
        self.tensors = [self.tensor() for _ in range(tensors)]
        self.infos_end = self.at
        self.alignment = self.values.get("general.alignment", 32)
        self.data = self.pad(self.at)

    def take(self, form):
        out = struct.unpack_from(form, self.bytes, self.at)
        self.at += struct.calcsize(form)
        return out

    def string(self):
        length, = self.take("<Q")
        self.at += length
        return self.bytes[self.at - length:self.at].decode("utf-8", "replace")

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            inner, count = self.take("<IQ")
            return [self.value(inner) for _ in range(count)]
        return self.take("<" + VALUES[kind])[0]

    def tensor(self):
        name = self.string()
        dims, = self.take("<I")
        shape = self.take(f"<{dims}Q")
        place = self.at
        kind, offset = self.take("<IQ")
        return {"name": name, "shape": shape, "place": place, "type": kind, "offset": offset}

    def pad(self, at):
        return -(-at // self.alignment) * self.alignment

    def data_of(self, t):
        block, weights = merge1.BLOCKS[t["type"]]
        size = int(np.prod(t["shape"], dtype=np.int64)) // weights * block
        start = self.data + t["offset"]
        return self.bytes[start:start + size]

    def floats(self, t):
        """Rows and columns of the tensor as F32."""
        columns = t["shape"][0]
        return merge1.decode(t["type"], self.data_of(t)).reshape(-1, columns)


def adapters_of(path, user):
    """By tensor: (A, B, scale, gain) as merge1.merge() wants them."""
    adapter = Gguf(path)
    tensors = {t["name"]: t for t in adapter.tensors}
    alpha = np.float32(adapter.values.get("adapter.lora.alpha", 0))
    out = {}
    for name in tensors:
        if not name.endswith(".lora_a"):
            continue
        base = name[:-len(".lora_a")]
        a, b = adapter.floats(tensors[name]), adapter.floats(tensors[base + ".lora_b"])
        rank = np.float32(b.shape[1])
        scale = np.float32(user) * alpha / rank if alpha else np.float32(user)
        if len(tensors[name]["shape"]) == 3:
            a = a.reshape(tensors[name]["shape"][::-1])  # experts, rank, columns
        if base == "token_embd.weight":
            a, b = b.T, a
        out[base] = (a, b, scale, None)
    return out


def stays_float(name):
    """What ggml's operations want in F32, as far as the test's models have it."""
    return not name.endswith("weight") or "ffn_gate_inp" in name or "position_embd" in name


def merge_file(path, name, adapters):
    base = Gguf(path)
    head = bytearray(base.bytes[:base.infos_end])
    if "general.file_type" in base.places:
        struct.pack_into("<I", head, base.places["general.file_type"], FILE_TYPES[name])
    data = bytearray()
    for t in base.tensors:
        kind = TYPES[name]
        if len(t["shape"]) < 2 or (t["type"] == merge1.F32 and stays_float(t["name"])):
            kind = t["type"]
        elif kind == merge1.Q8_0 and t["shape"][0] % 32:
            kind = merge1.F16
        terms = [a[t["name"]] for a in adapters if t["name"] in a]
        struct.pack_into("<IQ", head, t["place"], kind, len(data))
        if kind == t["type"] and not terms:
            data += base.data_of(t)
        else:
            data += merge1.store(kind, merge1.merge(base.floats(t), terms))
        data += bytes(base.pad(len(data)) - len(data))
    return bytes(head) + bytes(base.data - len(head)) + bytes(data)


def groups_of(arguments):
    groups = [[]]
    for argument in arguments:
        if argument == "--":
            groups.append([])
        else:
            groups[-1].append(argument)
    return groups


def main(arguments):
    groups = groups_of(arguments[1:])
    if any(len(g) < 2 or len(g) % 2 or g[0] not in TYPES for g in groups):
        print(__doc__, file=sys.stderr)
        return 2
    for name, out, *adapters in groups:
        merged = [adapters_of(adapter, float(scale))
                  for adapter, scale in zip(adapters[::2], adapters[1::2])]
        with open(out, "wb") as file:
            file.write(merge_file(arguments[0], name, merged))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
