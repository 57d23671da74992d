"""Prints the bytes of a small container with their names and values.

annotate.py CONTAINER                prints a dump
annotate.py --check CONTAINER        compares it with the one in the specification
annotate.py --update CONTAINER       puts it there
annotate.py --header                 prints a C program that compiles only if the
                                     tables of the specification fit mfs_disk.h

Of a root in columns it shows the header only, and nothing that needs the rest.
The structures are read from the tables of modelfs-format.md, so the dump shows
whether these are true.
"""
import os
import re
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SPECIFICATION = os.path.join(HERE, "..", "modelfs-format.md")
SECTIONS = ("layout", "field", "file", "extent", "tensor", "dim", "term", "tables", "segment", "name")
COLUMNS = 1  # feature_incompat
HEX = {"magic", "feature_compat", "feature_incompat", "flags", "place", "tables", "base",
       "own_offset", "root_offset[0]", "root_offset[1]", "offset[0]", "offset[1]", "container_size"}


def read(path):
    with open(path, "rb") as f:
        return f.read()


def structures():
    """name of the structure: list of (offset, size, field)"""
    found, current = {}, None
    for line in read(SPECIFICATION).decode().split("\n"):
        begin = re.fullmatch(r"<!-- struct mfs_disk_(\w+) -->", line)
        row = re.match(r"\| (\d+) \| (\d+) \| `([\w\[\]]+)` \|", line)
        if begin:
            current = found.setdefault(begin[1], [])
        elif row and current is not None:
            current.append((int(row[1]), int(row[2]), row[3]))
        elif not line.startswith("|"):
            current = None
    return found


class Dump:
    def __init__(self, data):
        self.data = data
        self.structures = structures()
        self.lines = []

    def say(self, line=""):
        self.lines.append(line.rstrip())

    def title(self, text):
        self.say()
        self.say(text)

    def bytes(self, at, size, text):
        """Sixteen bytes a line; the first line carries the text."""
        for i in range(0, size, 16):
            part = self.data[at + i:at + min(size, i + 16)]
            self.say(f"{at + i:06x}  {part.hex(' '):<47}  {text if i == 0 else ''}")

    def structure(self, kind, at):
        values = {}
        for offset, size, name in self.structures[kind]:
            raw = self.data[at + offset:at + offset + size]
            if name == "unused":
                assert not any(raw)
                self.say(f"{at + offset:06x}  {'00 ...':<47}  {name}, {size} bytes")
                continue
            value = int.from_bytes(raw, "little")
            values[name] = value if size <= 8 else raw
            text = name
            if (kind, name[:4]) in (("root", "sect"), ("tensor", "slot")):
                continue
            if name == "hash" or size > 8:
                pass
            elif name in HEX:
                text = f"{name} {value:#x}"
            else:
                text = f"{name} {value}"
            self.bytes(at + offset, size, text)
        return values

    def size(self, kind):
        offset, size, _ = self.structures[kind][-1]
        return offset + size


def dump_root(d, root, sb):
    d.title(f"root, copy 1, at {root:#x}: header")
    d.structure("root", root)
    sections = []
    for i, (offset, _, name) in enumerate(d.structures["root"][-len(SECTIONS):]):
        at, count = struct.unpack_from("<II", d.data, root + offset)
        sections.append((at, count))
        d.bytes(root + offset, 8, f"{name} {SECTIONS[i]}: offset {at:#x}, count {count}")
    if sb["feature_incompat"] & COLUMNS:
        d.title("columns of all sections: a zstd frame")
        d.bytes(root + d.size("root"), sb["root_size"] - d.size("root"), "")
        return None
    records = {}
    for name, (at, count) in zip(SECTIONS[:-1], sections):
        records[name] = []
        for i in range(count):
            if name == "dim":
                where = root + at + 8 * i
                value = struct.unpack_from("<Q", d.data, where)[0]
                d.bytes(where, 8, f"dim {i}: {value}")
                continue
            where = root + at + d.size(name) * i
            d.title(f"{name} {i}")
            record = d.structure(name, where)
            if name == "tensor":
                for s in range(2):
                    offset = next(o for o, _, n in d.structures[name] if n == f"slot[{s}]")
                    d.say(f"        slot[{s}]:")
                    record[s] = d.structure("frames", where + offset)
            records[name].append(record)
    at, count = sections[-1]
    d.title("names")
    text = d.data[root + at:root + at + count].decode()
    d.bytes(root + at, count, f'"{text}"')
    assert at + count <= sb["root_size"]
    return records


def dump_segments(d, records):
    frames = []
    for i, segment in enumerate(records["segment"]):
        kind = ("frame", "chunk")[segment["kind"]]
        d.title(f"segment {i}, copy 1, at {segment['offset[0]']:#x}: {kind} table")
        for k in range(segment["size"] // d.size(kind)):
            record = d.structure(kind, segment["offset[0]"] + k * d.size(kind))
            if kind == "frame":
                frames.append(record)
    return frames


def dump_frames(d, records, frames):
    for i, tensor in enumerate(records["tensor"]):
        layout = records["layout"][tensor["layout"]]
        blocks = tensor["size"] // layout["block_bytes"]
        for s in range(2):
            if s == 1 and tensor[s]["base"] == 0:
                continue
            per_slice = -(-tensor["slice_blocks"] // tensor["span_blocks"])
            for k in range(blocks // tensor["slice_blocks"] * per_slice):
                number = tensor[s]["first"] + k
                place = frames[number]["place"]
                at, size = tensor[s]["base"] + place % (1 << 40), place >> 40
                d.title(f"frame {number} (tensor {i}, slot {s}, span {k}), at {at:#x}, "
                        f"{size} bytes")
                d.bytes(at, size, "stored bytes")


def dump(path):
    d = Dump(read(path))
    d.say("superblock, slot 0")
    sb = d.structure("superblock", 0)
    slot1 = 4096 if sb["profile"] == 6 else 65536
    d.title("superblock, slot 1 and tail: as slot 0 but for")
    for at in (slot1, sb["container_size"] - 4096):
        d.bytes(at + 8, 8, f"own_offset {at:#x}")
        d.bytes(at + 4088, 8, "hash")
    records = dump_root(d, sb["root_offset[0]"], sb)
    if records:
        dump_frames(d, records, dump_segments(d, records))
    return "\n".join(d.lines) + "\n"


def in_specification(path, update):
    name = os.path.basename(path)
    text = read(SPECIFICATION).decode()
    begin, end = (f"<!-- {word} annotate.py {name} -->\n" for word in ("begin", "end"))
    before, rest = text.split(begin)
    old, after = rest.split(end)
    new = f"```\n{dump(path)}```\n"
    if update:
        with open(SPECIFICATION, "w", encoding="utf-8") as f:
            f.write(before + begin + new + end + after)
    elif old != new:
        sys.exit(f"{path} is not what the specification shows: run annotate.py --update")


def header():
    print('#include <stddef.h>\n#include "mfs_disk.h"')
    for kind, fields in structures().items():
        name = f"struct mfs_disk_{kind}"
        for offset, size, field in fields:
            print(f'static_assert(offsetof({name}, {field}) == {offset}, "{kind} {field}");')
            print(f'static_assert(sizeof((({name} *)0)->{field}) == {size}, "{kind} {field}");')
        print(f'static_assert(sizeof({name}) == {fields[-1][0] + fields[-1][1]}, "{kind}");')


if __name__ == "__main__":
    if sys.argv[1:] == ["--header"]:
        header()
    elif len(sys.argv) == 3 and sys.argv[1] in ("--check", "--update"):
        in_specification(sys.argv[2], sys.argv[1] == "--update")
    elif len(sys.argv) == 2:
        print(dump(sys.argv[1]), end="")
    else:
        sys.exit(__doc__)
