"""A converted graph on this machine: the shared library through ctypes."""

import _ctypes
import ctypes
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bitship.errors import FormatError, PackageError
from bitship.graph import Graph
from bitship.graph.base import Array


class TvmSession:
    """Calls ``bitship_run`` of one library; the workspace is the library's own, so one run at a time.

    threads  how many the library runs on
    """

    _library: Any
    _run: Any

    def __init__(self, path: Path, graph: Graph, threads: int = 1) -> None:
        self._graph = graph
        self.threads = 1
        try:
            self._library = _load(path)
            self._run = self._library.bitship_run
        except (OSError, AttributeError) as e:
            raise FormatError(f"{path}: not a bitship library for this machine: {e}") from None
        for what, ports in (("input", graph.inputs), ("output", graph.outputs)):
            count = ctypes.c_uint32.in_dll(self._library, f"bitship_{what}s").value
            sizes = (ctypes.c_uint32 * max(count, 1)).in_dll(self._library, f"bitship_{what}_bytes")
            found, needed = list(sizes)[:count], [p.type.nbytes for p in ports]
            if found != needed:
                raise PackageError(f"{path}: {what}s have {found} bytes, the graph's have {needed}")
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        if threads != 1:
            self.set_threads(threads)
        self._in = (ctypes.c_void_p * max(len(graph.inputs), 1))()
        self._out = (ctypes.c_void_p * max(len(graph.outputs), 1))()

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes."""
        if self._run is None:
            raise PackageError(f"{self._graph.name}: the session is closed; open another")
        self._graph.check_inputs(inputs)
        held = [np.ascontiguousarray(a) for a in inputs]
        outputs = tuple(np.empty(p.type.shape, p.type.dtype.numpy) for p in self._graph.outputs)
        for i, a in enumerate(held):
            self._in[i] = a.ctypes.data
        for i, a in enumerate(outputs):
            self._out[i] = a.ctypes.data
        self._run(self._in, self._out)
        return outputs

    def set_threads(self, threads: int) -> None:
        """Run on this many threads from now on, this one among them; PackageError when the system makes fewer."""
        if threads < 1:
            raise PackageError(f"{self._graph.name}: {threads} threads; at least 1 is needed")
        self.threads = int(self._library.bitship_set_threads(threads))
        if self.threads != threads:
            raise PackageError(f"{self._graph.name}: {threads} threads were asked for, there are {self.threads}")

    def close(self) -> None:
        """Unload the library; the session cannot run any more."""
        if self._library is not None:
            self._library.bitship_set_threads(1)
            _ctypes.dlclose(self._library._handle)
        self._library = self._run = None


def _load(path: Path) -> ctypes.CDLL:
    """Load a private copy: the loader knows libraries by path and would hand back one that was since replaced."""
    try:
        data = path.read_bytes()
        with tempfile.NamedTemporaryFile(prefix="bitship-", suffix=".so") as copy:
            copy.write(data)
            copy.flush()
            return ctypes.CDLL(copy.name)
    except OSError:
        return ctypes.CDLL(str(path.resolve()))  # a temporary folder that forbids executing


def open_session(path: Path, graph: Graph, threads: int = 1) -> TvmSession:
    """Load a library, or the one library in a folder, for a number of threads; PackageError when there is none.

    A plan of launches opens on this machine's OpenCL device.
    """
    from bitship.converters.tvm.gpu import PLAN

    if path.name == PLAN or (path / PLAN).is_file():
        from bitship.converters.tvm.opencl import OpenClSession

        return OpenClSession(path if path.name == PLAN else path / PLAN, graph, threads)
    if path.is_dir():
        found = sorted(path.glob("lib*.so"))
        if len(found) != 1:
            raise PackageError(f"{path}: {len(found)} libraries named lib*.so, exactly one is needed")
        path = found[0]
    return TvmSession(path, graph, threads)
