"""Run a ``.pte`` on this machine through ExecuTorch's own runtime, with one thread."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bitship.converters.executorch.program import require
from bitship.errors import FormatError
from bitship.graph import Graph
from bitship.graph.base import Array


class ExecutorchSession:
    """A loaded program; inputs and outputs are those of the graph it was made from."""

    def __init__(self, path: Path, graph: Graph) -> None:
        self._graph = graph
        try:
            data = path.read_bytes()
            with silent():
                runtime = require("executorch.runtime")
                threads = require("executorch.extension.pybindings._portable_lib")
                if threads._threadpool_get_thread_count() != 1:
                    threads._unsafe_reset_threadpool(1)
                self._program: Any = runtime.Runtime.get().load_program(data)
                self._method: Any = self._program.load_method("forward")
        except OSError as e:
            raise FormatError(f"{path}: {e.strerror}") from None
        except RuntimeError as e:
            raise FormatError(f"{path}: ExecuTorch's runtime does not load it ({_first_line(e)})") from None

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes; GraphError when they are of others."""
        import torch

        self._graph.check_inputs(inputs)
        if self._method is None:
            raise ValueError("the session is closed")
        try:
            results = self._method.execute([torch.from_numpy(np.array(x, order="C")) for x in inputs])
        except RuntimeError as e:
            raise FormatError(f"{self._graph.name}: ExecuTorch's runtime stopped ({_first_line(e)})") from None
        return tuple(
            np.array(r.numpy(), order="C").reshape(p.type.shape)
            for r, p in zip(results, self._graph.outputs, strict=True)
        )

    def close(self) -> None:
        """Release the program and its memory."""
        self._method = None
        self._program = None


@contextmanager
def silent() -> Iterator[None]:
    """Keep what C++ writes to the process's stderr away; without one (or a null device) nothing is redirected."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:
        yield
        return
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]
