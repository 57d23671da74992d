"""Runs a program on a terminal of its own and keeps what it writes.

terminal.py COLUMNS ROWS OUTPUT PROGRAM [ARGUMENT...]; ends with its status.
"""
import fcntl
import os
import pty
import struct
import sys
import termios

columns, rows, output = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.execvp(sys.argv[4], sys.argv[4:])
with open(output, "wb", buffering=0) as out:
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # how a terminal says that nobody writes any more
            break
        if not data:
            break
        out.write(data)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
