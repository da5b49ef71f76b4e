"""Processes of a program under test, found by a mark in their environment, and the addresses they listen at."""

import os
import signal
import socket
import struct
import time
from pathlib import Path

PROC = Path("/proc")
_LISTEN = "0A"


def marked(mark: str) -> dict[int, str]:
    """Return the processes that have ``mark`` in their environment, by their number: their command lines."""
    found: dict[int, str] = {}
    for folder in PROC.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue  # it ended, or it is another user's
    return {number: words for number, words in found.items() if words}  # a zombie has no words


def wait_gone(mark: str, seconds: float) -> dict[int, str]:
    """Wait until there are no such processes; returns those that are left, after they were killed."""
    until = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    for number in left:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return left


def listening(mark: str) -> set[str]:
    """Return the addresses at which such processes listen for TCP, without their ports."""
    inodes = set()
    for number in marked(mark):
        try:
            links = [os.readlink(fd) for fd in (PROC / str(number) / "fd").iterdir()]
        except OSError:
            continue
        inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in (PROC / "net" / table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == _LISTEN and words[9] in inodes:
                found.add(_address(words[1].split(":")[0], family))
    return found


def _address(text: str, family: socket.AddressFamily) -> str:
    """Return an address of the kernel's table: words of 32 bits in this machine's order, in hexadecimal."""
    words = (int(text[i : i + 8], 16) for i in range(0, len(text), 8))
    return socket.inet_ntop(family, b"".join(struct.pack("=I", w) for w in words)).removeprefix("::ffff:")
