"""Flips one bit of a file in place: flip.py FILE BYTE BIT"""
import sys

with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2]))
    byte = f.read(1)[0]
    f.seek(int(sys.argv[2]))
    f.write(bytes([byte ^ (1 << int(sys.argv[3]))]))
