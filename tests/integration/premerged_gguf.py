"""What premerging makes of a quantized model, written from the definitions alone: its
base, but the tensors that adapters change are merged in F32 from the unquantized model,
then quantized to the type that they have in the base (F32, F16, BF16, Q8_0, Q4_0).

premerged_gguf.py BASE SOURCE OUT [ADAPTER SCALE]...
"""
import sys

import numpy as np

import merge1
from merged_gguf import Gguf, adapters_of


def store_q4_0(values):
    blocks = values.reshape(-1, 32)
    largest = np.abs(blocks).argmax(axis=1)  # the first of them
    scale = blocks[np.arange(len(blocks)), largest] / np.float32(-8)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    quants = np.minimum(15, (blocks * inverse[:, None] + np.float32(8.5)).astype(np.int8))
    out = np.empty((len(blocks), 18), np.uint8)
    out[:, :2] = scale.astype("<f2")[:, None].view(np.uint8)
    out[:, 2:] = quants[:, :16] | quants[:, 16:] << 4
    return out.tobytes()


def quantize(kind, values):
    values = np.ascontiguousarray(values, np.float32)
    return store_q4_0(values) if kind == merge1.Q4_0 else merge1.store(kind, values)


def main(arguments):
    if len(arguments) < 5 or len(arguments) % 2 == 0:
        print(__doc__, file=sys.stderr)
        return 2
    base, source, out = Gguf(arguments[0]), Gguf(arguments[1]), arguments[2]
    adapters = [adapters_of(arguments[i], float(arguments[i + 1]))
                for i in range(3, len(arguments), 2)]
    unquantized = {t["name"]: t for t in source.tensors}
    data = bytearray(base.bytes)
    for t in base.tensors:
        terms = [a[t["name"]] for a in adapters if t["name"] in a]
        if not terms:
            continue
        blocks = quantize(t["type"],
                          merge1.merge(source.floats(unquantized[t["name"]]), terms))
        start = base.data + t["offset"]
        data[start:start + len(blocks)] = blocks
    with open(out, "wb") as file:
        file.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
