"""A package built for this machine, opened in this process."""

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import cffi
import numpy as np

from bitship.errors import PackageError
from bitship.graph import Graph
from bitship.graph.base import Array

_RUN = "int model_run(void);"
_RUN_ROWS = """
typedef int (*model_read_rows)(void *context, int32_t first, int32_t rows, void *to);
int model_run_rows(model_read_rows read, void *context);
"""
_API = """
void *model_input(int i);
const void *model_output(int i);
int32_t model_input_bytes(int i);
int32_t model_output_bytes(int i);
extern const char model_digest[65];
"""


class FirmwareSession:
    """A loaded libmodel.so; a private copy, because its memory is static. One run at a time."""

    def __init__(self, library: Path, graph: Graph) -> None:
        self._graph = graph
        self._lock = threading.Lock()
        self._ffi: Any = cffi.FFI()
        self._ffi.cdef(_API)
        self._streamed = b"model_run_rows" in library.read_bytes()
        self._ffi.cdef(_RUN_ROWS if self._streamed else _RUN)
        self._lib: Any = None
        with tempfile.TemporaryDirectory(prefix="bitship-") as folder:
            copy = shutil.copy(library, folder)
            try:
                self._lib = self._ffi.dlopen(copy)
                digest = bytes(self._ffi.buffer(self._lib.model_digest, 64)).decode("ascii")
            except (OSError, AttributeError) as e:
                raise PackageError(
                    f"{library}: not a firmware library of this machine ({e}); export it again"
                ) from None
        if digest != graph.digest:
            raise PackageError(f"{library}: built from graph {digest[:12]}, {graph.digest[:12]} is expected")

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes; GraphError otherwise."""
        self._graph.check_inputs(inputs)
        with self._lock:
            error = self._run_rows(inputs[0]) if self._streamed else self._run_whole(inputs)
            if error != 0:
                raise PackageError(f"{self._graph.name}: model_run failed with error {error}; export it again")
            return tuple(self._output(i) for i in range(len(self._graph.outputs)))

    def _run_whole(self, inputs: tuple[Array, ...]) -> int:
        for i, array in enumerate(inputs):
            self._ffi.memmove(self._lib.model_input(i), np.ascontiguousarray(array), array.nbytes)
        return int(self._lib.model_run())

    def _run_rows(self, image: Array) -> int:
        """Hand over the image by rows as the library asks for them: each once, in order."""
        rows, asked = np.ascontiguousarray(image)[0], 0

        @self._ffi.callback("model_read_rows")  # type: ignore[untyped-decorator]
        def read(_: Any, first: int, count: int, to: Any) -> int:
            nonlocal asked
            if first != asked or count < 1 or first + count > len(rows):
                return -1
            asked += count
            part = rows[first : first + count]
            self._ffi.memmove(to, part, part.nbytes)
            return 0

        return int(self._lib.model_run_rows(read, self._ffi.NULL))

    def _output(self, i: int) -> Array:
        t = self._graph.outputs[i].type
        out = np.empty(t.shape, t.dtype.numpy)
        self._ffi.memmove(self._ffi.from_buffer(out, require_writable=True), self._lib.model_output(i), t.nbytes)
        return out

    def close(self) -> None:
        """Unload the library."""
        if self._lib is not None:
            self._ffi.dlclose(self._lib)
            self._lib = None


def open_session(path: Path, graph: Graph) -> FirmwareSession:
    """Load a package's libmodel.so; PackageError when it is not one, or not this graph's."""
    return FirmwareSession(path, graph)
