"""Prints what a vector holds, as JSON: describe.py CONTAINER STAT SOURCE...

Files are described by their sources, everything else is taken from STAT, the
output of modelfs-stat --json.
"""
import hashlib
import json
import os
import sys

import xxhash


def hashes(data):
    return {"sha256": hashlib.sha256(data).hexdigest(), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}


def read(path):
    with open(path, "rb") as f:
        return f.read()


def describe_file(name, source, container_file):
    data = read(source)
    assert len(data) == container_file["size"], name
    about = {"name": name, "format": container_file["format"], "size": len(data)} | hashes(data)
    if len(data) <= 64:
        about["bytes"] = data.hex()
    return about


def pick(record, keys):
    return {key: record[key] for key in keys}


def describe_tensor(tensor, source):
    data = read(source)[tensor["offset"]:tensor["offset"] + tensor["size"]]
    return pick(tensor, ("name", "file", "type", "class", "shape", "offset", "size",
                         "stored_size")) | hashes(data)


def main(container, stat_path, sources):
    stat = json.loads(read(stat_path))
    by_name = {}
    for source in sources:
        name, _, path = source.rpartition("=")
        by_name[name or os.path.basename(path)] = path
    whole = read(container)
    json.dump({
        "container": {"size": len(whole), "sha256": hashlib.sha256(whole).hexdigest()} |
        pick(stat, ("version", "generation", "profile", "page_size", "frame_size", "uuid")),
        "files": [describe_file(f["name"], by_name[f["name"]], f) for f in stat["files"]],
        "tensors": [describe_tensor(t, by_name[t["file"]]) for t in stat["tensors"]],
        "chunks": [pick(c, ("offset", "stored_size", "decoded_size", "class", "codec", "frames"))
                   for c in stat["chunks"]],
    }, sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
