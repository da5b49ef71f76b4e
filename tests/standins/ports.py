"""A pty with a program of ours behind it: the far end of a serial line."""

import os
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Read = Callable[[int], bytes]  # exactly so many bytes; EOFError when the line closes
Write = Callable[[bytes], None]


@contextmanager
def serve(device: Callable[[Read, Write], None]) -> Iterator[str]:
    """Run ``device`` in a thread on one end of a pty; yield the path of the other end."""
    near, far = os.openpty()
    tty.setraw(far)
    path = os.ttyname(far)
    stopped = threading.Event()

    def read(count: int) -> bytes:
        data = b""
        while len(data) < count:
            if stopped.is_set():
                raise EOFError
            try:
                data += os.read(near, count - len(data))
            except OSError:
                raise EOFError from None
        return data

    def write(data: bytes) -> None:
        while data:
            data = data[os.write(near, data) :]

    def run() -> None:
        try:
            device(read, write)
        except (EOFError, OSError):
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield path
    finally:
        stopped.set()
        os.write(far, b"\x00")  # wakes the reader
        thread.join(2.0)
        os.close(near)
        os.close(far)
