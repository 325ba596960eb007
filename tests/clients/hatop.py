"""Drives HATop on a terminal of its own: shows what it shows, and lets it drain by its own keys.

usage: hatop.py SOCKET COMMAND...   commands are typed into its console (key 5)
"""
import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time


def main(socket, commands):
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execvp("hatop", ["hatop", "-s", socket])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 45, 170, 0, 0))
    seen = b""

    def read(until, seconds=20):
        """Reads until this was shown since the last call, or for so long."""
        nonlocal seen
        begun, deadline = len(seen), time.monotonic() + seconds
        while until not in plain(seen[begun:]) and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    seen += os.read(terminal, 65536)
                except OSError:
                    return False
        return until in plain(seen[begun:])

    shown = read("BACKEND")
    os.write(terminal, b"5")
    for command in commands:
        os.write(terminal, command.encode())
        read(command.split()[-1], 5)
        os.write(terminal, b"\r")
        read("\0never", 1)
    os.write(terminal, b"\x04q")
    read("\0never", 1)
    os.kill(pid, 9)
    print(plain(seen))
    return 0 if shown else 1


def plain(octets):
    return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]", b" ", octets).decode("latin1")


sys.exit(main(sys.argv[1], sys.argv[2:]))
