"""Reads a mounted file that may be damaged: read_or_error.py MOUNTED SOURCE

Prints how many pieces answer with an I/O error; fails on a wrong byte, or when a
mapping of a piece that cannot be read does anything but raise SIGBUS.
"""
import errno
import mmap
import os
import signal
import sys

PIECE = 4096


def read_piece(fd, offset):
    try:
        return os.pread(fd, PIECE, offset)
    except OSError as e:
        if e.errno != errno.EIO:
            raise
        return None


def touch_raises_sigbus(fd, size, offset):
    pid = os.fork()
    if pid == 0:
        with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as m:
            os._exit(m[offset] * 0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS


def main(mounted, source):
    fd = os.open(mounted, os.O_RDONLY)
    with open(source, "rb") as f:
        want = f.read()
    if os.fstat(fd).st_size != len(want):
        sys.exit("the size is wrong")
    errors = 0
    for offset in range(0, len(want), PIECE):
        got = read_piece(fd, offset)
        if got is None:
            errors += 1
            if errors <= 2 and not touch_raises_sigbus(fd, len(want), offset):
                sys.exit(f"byte {offset}: read refuses it, a mapping does not")
        elif got != want[offset:offset + PIECE]:
            sys.exit(f"a WRONG BYTE within {PIECE} of {offset}")
    print(errors)


main(sys.argv[1], sys.argv[2])
