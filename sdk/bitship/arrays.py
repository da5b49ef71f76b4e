"""Arrays on disk."""

import threading
from pathlib import Path

import numpy as np

from bitship.graph.base import Array

_READING = threading.Lock()


def load_npz(path: Path) -> dict[str, Array]:
    """Return the arrays of an .npz by name, in the file's order; OSError or ValueError where it is none.

    One thread at a time: NumPy parses the header of every array with ``ast``, which under Python 3.11 may fail with a
    SystemError where two threads are at it (CPython issue 106905).
    """
    with _READING:
        data = np.load(path, allow_pickle=False)
        if not isinstance(data, np.lib.npyio.NpzFile):
            raise ValueError("one array, not an .npz of named ones")
        with data:
            return {name: data[name] for name in data.files}
