"""Checks what modelfs-stat --json says against the rules of the layout.

layout_rules.py CONTAINER JSON [unbounded | smaller-than BYTES]

Every chunk on a page boundary, no two overlapping; everything adds up to the
container's size exactly; everything but frames and tables within its bound
(unbounded: for containers of odds and ends or with odd pages, not that one);
smaller-than: frames and tables together below BYTES.
"""
import json
import os
import sys

KIB, MIB = 1024, 1024 * 1024


def main(container, stat_path, bounded=True, smaller_than=None):
    with open(stat_path, encoding="utf-8") as f:
        stat = json.load(f)
    size = os.path.getsize(container)
    page = stat["page_size"]
    chunks = sorted(stat["chunks"], key=lambda c: c["offset"])
    totals = stat["totals"]
    over = totals["overhead"]

    for c in chunks:
        assert c["offset"] % page == 0, f"chunk at {c['offset']} is not on a page boundary"
        assert c["class"] in ("weights", "constants", "adapter", "plain", "metadata"), c
        assert c["frames"] > 0 and c["stored_size"] >= 0, c
    for a, b in zip(chunks, chunks[1:]):
        assert a["offset"] + a["stored_size"] <= b["offset"], f"chunks overlap: {a} {b}"

    stored = sum(c["stored_size"] for c in chunks)
    overhead = over["superblock"] + over["index"] + over["padding"]
    assert totals["stored_size"] == size, f"stored_size {totals['stored_size']}, size {size}"
    assert stored + overhead == size, f"{stored} + {overhead} is not {size}"
    assert totals["original_size"] == sum(f["size"] for f in stat["files"])
    shared = totals["shared_size"]
    assert sum(f["stored_size"] for f in stat["files"]) == stored + shared, \
        f"files add up to {sum(f['stored_size'] for f in stat['files'])}, chunks to {stored}, " \
        f"{shared} shared"
    for f in stat["files"]:
        mine = [t for t in stat["tensors"] if t["file"] == f["name"]]
        assert sum(t["size"] for t in mine) <= f["size"], f
        assert sum(t["stored_size"] for t in mine) <= f["stored_size"], f

    bound = size * 0.004 if size > 64 * MIB else size * 0.003 + 96 * KIB
    text = f"{os.path.basename(container)}: page {page}, {size} bytes, {len(chunks)} chunks, " \
           f"frames and tables {stored}, the rest {overhead}"
    if bounded:
        assert overhead <= bound, f"{text}: more than {bound:.0f}"
        text += f" (bound {bound:.0f})"
    if smaller_than is not None:
        assert stored < smaller_than, f"{text}: zstd -19 needs {smaller_than}"
        text += f", zstd -19 {smaller_than}"
    print(text)


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[3] == "smaller-than":
        main(sys.argv[1], sys.argv[2], smaller_than=int(sys.argv[4]))
    elif len(sys.argv) == 4 and sys.argv[3] == "unbounded":
        main(sys.argv[1], sys.argv[2], bounded=False)
    elif len(sys.argv) == 3:
        main(sys.argv[1], sys.argv[2])
    else:
        sys.exit(__doc__)
