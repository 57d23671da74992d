"""Makes inputs of fuzz_frame out of spans of containers.

frame_corpus.py DIRECTORY CONTAINER...

Of each tensor type: the first span of its first tensor, named after container and
type, and the input's layout row from format/layout_ggml.c.
"""
import os
import re
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "integration"))
from second_reader import NO_TABLES, PLAIN, Container  # noqa: E402


def rows():
    """Type name: its row, counted from 1; 0 is that of plain bytes."""
    with open(os.path.join(HERE, "..", "..", "format", "layout_ggml.c"), encoding="utf-8") as f:
        names = re.findall(r'^\t\{"(\w+)", \d+,', f.read(), re.MULTILINE)
    known = {name: i for i, name in enumerate(["bytes"] + names)}
    known["U8"] = known["bytes"]  # cut alike
    return known


def first_span(container, t):
    """Tables and frames of both slots."""
    tables, frames = [b"", b""], [b"", b""]
    cut = container.root.cuts[t.layout]
    blocks = container.root.span_blocks(t, 0)
    for s, slot in enumerate(t.slots):
        if not cut.streams[s]:
            continue
        frames[s] = container.frame(slot, 0, blocks * cut.slot_bytes(s))
        if slot.tables != NO_TABLES:
            about = container.root.tables[slot.tables]
            tables[s] = container.stored(about.offset, about.size)
    size = len(frames[0])
    header = struct.pack("<HHHHB", blocks - 1, len(tables[0]), len(tables[1]), size & 65535,
                         size >> 16)
    return header + b"".join(tables + frames)


def main(directory, containers):
    known = rows()
    for path in containers:
        container = Container(path)
        done = set()
        for t in container.root.tensors:
            kind = container.root.cuts[t.layout].name
            if kind not in known or kind in done or t.cls == PLAIN:
                continue
            done.add(kind)
            name = f"{os.path.basename(path).removesuffix('.mfs')}-{kind.lower()}"
            with open(os.path.join(directory, name), "wb") as f:
                f.write(bytes([known[kind]]) + first_span(container, t))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
