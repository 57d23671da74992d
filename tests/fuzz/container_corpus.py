"""Makes inputs of fuzz_container out of containers of profile nor.

container_corpus.py DIRECTORY CONTAINER...

An input is a control byte, the fields of the superblock, and what lies between
slot 1 and the tail without the zeros at its end. A root that is stored as it is
gives a second input, NAME-columns, with the bit that has it stored in columns.
"""
import os
import sys

SB_FIELDS, BODY, SUPERBLOCK = 104, 8192, 4096
COLUMNS = 128  # control


def main(directory, containers):
    for path in containers:
        with open(path, "rb") as f:
            data = f.read()
        assert data[18] == 6, f"{path}: not of profile nor"
        body = data[BODY:-SUPERBLOCK].rstrip(b"\0")
        name = os.path.basename(path).removesuffix(".mfs")
        in_columns = data[28] & 1
        for control, ending in ((0, ""),) if in_columns else ((0, ""), (COLUMNS, "-columns")):
            with open(os.path.join(directory, name + ending), "wb") as f:
                f.write(bytes([control]) + data[:SB_FIELDS] + body)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
