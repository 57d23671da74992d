#!/usr/bin/env python3
"""user_peers.py FILE...: compressors made for numbers, where the user has them.

Prints tab-separated lines as codec_speed -m does: compressor, file, original bytes,
stored bytes, pack MB/s, decode GB/s of the fastest and of the median round, spread,
and nothing. One that is not there prints "absent" in place of the numbers, which is
no failure; one that is there and fails, is.

  zipnn   the Python module of that name, one thread; for files of 16- and 32-bit
          floats, whose names say so (BF16, F16, F32). MFS_ZIPNN_PYTHON names
          another interpreter to look for it with
  openzl  the program zli: MFS_ZLI names it, else it is looked for in PATH. The
          whole program is measured, with starting, reading and writing

Speeds go by processor time, as codec_speed's do.
"""
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

ROUNDS = 7
ZIPNN_TYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
ZLI_PROFILES = {"bf16": "le-u16", "f16": "le-u16", "f32": "le-u32"}


def type_of(path):
    """The type that the name of the file begins with, in lower case."""
    return path.name.lower().replace(".", " ").split()[0].removesuffix("b")


def line(peer, path, size, stored, pack, decode):
    decode = sorted(decode)
    median = decode[len(decode) // 2]
    print(peer, path, size, stored, f"{size / pack / 1e6:.1f}", f"{size / decode[0] / 1e9:.3f}",
          f"{size / median / 1e9:.3f}", f"{(decode[-1] - decode[0]) / median:.3f}", "",
          sep="\t", flush=True)


def clocked(clock, work):
    start = clock()
    result = work()
    return result, max(clock() - start, 1e-9)


def zipnn_measure(path):
    """In the interpreter that has the module."""
    import zipnn

    data = path.read_bytes()
    coder = zipnn.ZipNN(input_format="byte", bytearray_dtype=ZIPNN_TYPES[type_of(path)],
                        threads=1)
    coded, pack = clocked(time.process_time, lambda: coder.compress(bytearray(data)))
    rounds = [clocked(time.process_time, lambda: coder.decompress(coded))
              for _ in range(ROUNDS)]
    if any(bytes(back) != data for back, _ in rounds):
        sys.exit(f"user_peers: zipnn: {path}: other bytes came back")
    line("zipnn", path, len(data), len(coded), pack, [seconds for _, seconds in rounds])


def zipnn_python():
    """An interpreter that can import zipnn, or None."""
    python = os.environ.get("MFS_ZIPNN_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import zipnn"], capture_output=True, check=False)
    return python if found.returncode == 0 else None


def children_time():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def openzl_measure(zli, path, directory):
    coded, back = directory / "coded", directory / "back"
    profile = ZLI_PROFILES.get(type_of(path), "serial")

    def run(*words):
        subprocess.run([zli, *map(str, words), "-f"], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE)

    _, pack = clocked(children_time,
                      lambda: run("compress", path, "--profile", profile, "-o", coded))
    rounds = []
    for _ in range(ROUNDS):
        rounds.append(clocked(children_time, lambda: run("decompress", coded, "-o", back))[1])
        if back.read_bytes() != path.read_bytes():
            sys.exit(f"user_peers: openzl: {path}: other bytes came back")
    line("openzl", path, path.stat().st_size, coded.stat().st_size, pack, rounds)


def main():
    if sys.argv[1:2] == ["--zipnn"]:
        for name in sys.argv[2:]:
            zipnn_measure(pathlib.Path(name))
        return
    paths = [pathlib.Path(name) for name in sys.argv[1:]]
    floats = [path for path in paths if type_of(path) in ZIPNN_TYPES]
    python, zli = zipnn_python(), os.environ.get("MFS_ZLI") or shutil.which("zli")
    if python and floats:
        subprocess.run([python, __file__, "--zipnn", *floats], check=True)
    for path in [] if python else floats:
        print(f"zipnn\t{path}\tabsent", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for path in paths:
            if zli:
                openzl_measure(zli, path, pathlib.Path(directory))
            else:
                print(f"openzl\t{path}\tabsent")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"user_peers: {error} {(error.stderr or b'').decode(errors='replace')}")
