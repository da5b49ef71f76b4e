"""The C kernels as a shared library of this machine: found, loaded, and declared by the headers beside it."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cffi

from bitship.errors import MissingDependencyError

LIBRARY = "libbitship_kernels.so"
HEADER = "kernels.h"
MORE_HEADERS = ("rans.h", "frame.h")  # declared where they lie beside the library
OVERRIDE = "BITSHIP_KERNELS"
_BLOCK = re.compile(r"/\* cffi: begin \*/(.*)/\* cffi: end \*/", re.DOTALL)


class Kernels(NamedTuple):
    """The loaded library: ``ffi`` makes its structs, ``lib`` has its functions."""

    ffi: Any
    lib: Any


def _candidates() -> list[Path]:
    """Return the folders that may hold the library: beside the installed package, then a developer's build."""
    import bitship

    # An editable install has two folders: where the sources are, and where the library was installed.
    folders = [Path(p) for p in bitship.__path__]
    if bitship.__spec__ is not None:
        folders += [Path(p) for p in bitship.__spec__.submodule_search_locations or ()]
    folders.append(Path(__file__).resolve().parents[2] / "build" / "dev" / "firmware")
    return list(dict.fromkeys(folders))


def find() -> Path:
    """Return the library's file: $BITSHIP_KERNELS, the installed one, or build/dev of a checkout, in this order.

    MissingDependencyError when there is none.
    """
    override = os.environ.get(OVERRIDE)
    tried = [Path(override)] if override else [folder / LIBRARY for folder in _candidates()]
    for path in tried:
        if path.is_file() and path.with_name(HEADER).is_file():
            return path
    raise MissingDependencyError(
        f"{LIBRARY}: not found in {', '.join(str(p.parent) for p in tried)}; the C kernels are not built: run "
        f"'pip install -e .', or 'cmake -S . -B build/dev && cmake --build build/dev', or set {OVERRIDE} to the file"
    )


@cache
def load() -> Kernels:
    """Load the library once; MissingDependencyError when it is absent or cannot be loaded."""
    path = find()
    ffi = cffi.FFI()
    for header in (path.with_name(HEADER), *filter(Path.is_file, map(path.with_name, MORE_HEADERS))):
        block = _BLOCK.search(header.read_text())
        if block is None:
            raise MissingDependencyError(f"{header}: no cffi block; reinstall bitship")
        ffi.cdef(block.group(1))
    try:
        return Kernels(ffi, ffi.dlopen(str(path)))
    except OSError as e:
        raise MissingDependencyError(
            f"{path}: cannot be loaded ({e}); rebuild the C kernels for this machine"
        ) from None
