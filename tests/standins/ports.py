"""A pty with a program of ours behind it: the far end of a serial line."""

import os
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_END_SECONDS = 30.0

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
            if stopped.is_set():
                raise EOFError
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
        _end(thread, far)
        os.close(near)
        os.close(far)


def _end(thread: threading.Thread, far: int) -> None:
    """Wait for the device's thread, taking what it still writes: a writer may wait for room."""
    os.set_blocking(far, False)
    end = time.monotonic() + _END_SECONDS
    while thread.is_alive() and time.monotonic() < end:
        with suppress(BlockingIOError):
            os.read(far, 1 << 16)
        thread.join(0.01)
    assert not thread.is_alive(), "the device's thread goes on; its descriptors would be another's once closed"
