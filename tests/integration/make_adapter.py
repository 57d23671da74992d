"""Writes a GGUF file with keys and F32 tensors as they are asked for, so also
adapters that are wrong.

make_adapter.py OUT [KEY=VALUE | NAME:DIMxDIM...]...

Keys: values that are numbers become F32, others strings; those of an adapter for
llama are there already, KEY= removes one. Tensors hold random numbers.
"""
import random
import struct
import sys


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def number(value):
    try:
        return struct.pack("<If", 6, float(value))
    except ValueError:
        return struct.pack("<I", 8) + text(value)


def main(out, arguments):
    keys = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama",
            "adapter.lora.alpha": "8"}
    infos, data = [], b""
    rng = random.Random(1)
    for argument in arguments:
        if "=" in argument:
            key, value = argument.split("=", 1)
            keys[key] = value
            continue
        name, shape = argument.rsplit(":", 1)
        dims = [int(d) for d in shape.split("x")]
        infos.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, len(data)))
        count = 1
        for d in dims:
            count *= d
        data += struct.pack(f"<{count}f", *(rng.gauss(0, 0.05) for _ in range(count)))
        data += bytes(-len(data) % 32)
    keys = {key: value for key, value in keys.items() if value}
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(keys))
    head += b"".join(text(key) + number(value) for key, value in keys.items()) + b"".join(infos)
    with open(out, "wb") as file:
        file.write(head + bytes(-len(head) % 32) + data)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    main(sys.argv[1], sys.argv[2:])
