"""Run a TOSA flatbuffer in TOSA's own reference model."""

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bitship import extras
from bitship.converters.tosa import worker
from bitship.converters.tosa.values import ELEMENTS, UINT8_OFFSET
from bitship.errors import FormatError
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.graph.dtypes import DType

_IDENTIFIER = b"TOSA"
_DEADLINE_S = 1800.0  # of one run: the model is written to be right, not fast


class TosaSession:
    """A program in the reference model, which reads it anew for every run; inputs and outputs are the graph's."""

    def __init__(self, path: Path, graph: Graph) -> None:
        extras.require("tosa_reference_model", "tosa", "tosa converter")
        self._graph = graph
        self._path = path
        try:
            with path.open("rb") as f:
                head = f.read(8)
        except OSError as e:
            raise FormatError(f"{path}: {e.strerror}") from None
        if head[4:] != _IDENTIFIER:
            raise FormatError(f"{path}: no TOSA flatbuffer; 'bitship export' with the converter 'tosa' writes one")
        self._process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if k != "PATH"},  # the model calls a debugger when it stops
        )

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(p.name for p in self._graph.inputs)

    @property
    def gives(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(p.name for p in self._graph.outputs)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes; GraphError when they are of others.

        FormatError when the model refuses the program, ends, or finds a run of it UNPREDICTABLE.
        """
        self._graph.check_inputs(inputs)
        if self._process.stdin is None or self._process.stdin.closed:
            raise ValueError("the session is closed")
        try:
            self._process.stdin.write(worker.pack({f"a{i}": _stored(x) for i, x in enumerate(inputs)}))
            self._process.stdin.flush()
            deadline = time.monotonic() + _DEADLINE_S
            length = int.from_bytes(self._read(8, deadline), "little")
            found = worker.unpack(self._read(length, deadline))
        except (BrokenPipeError, EOFError):
            code = self._process.wait(10)
            raise FormatError(
                f"{self._path}: TOSA's reference model ended with status {code}; the file is damaged, export it again"
            ) from None
        if "error" in found:
            raise FormatError(f"{self._path}: TOSA's reference model {found['error']}")
        ports = self._graph.outputs
        return tuple(_read(found[f"a{i}"], p.type.shape, p.type.dtype) for i, p in enumerate(ports))

    def _read(self, count: int, deadline: float) -> bytes:
        """Return that many bytes; EOFError when the model ends before, FormatError after the deadline."""
        assert self._process.stdout is not None
        body = bytearray()
        while len(body) < count:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._process.kill()
                raise FormatError(f"{self._path}: TOSA's reference model gave nothing for {_DEADLINE_S:g} s")
            part = os.read(self._process.stdout.fileno(), count - len(body))
            if not part:
                raise EOFError
            body += part
        return bytes(body)

    def close(self) -> None:
        """End the model's process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _stored(x: Array) -> Array:
    """Return an input as the program takes it."""
    x = np.atleast_1d(x)
    if x.dtype == np.uint8:
        x = (x.astype(np.int16) - UINT8_OFFSET).astype(np.int8)
    return np.ascontiguousarray(x)


def _read(raw: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    """Return an output of the graph from the program's bytes."""
    y = np.ascontiguousarray(raw).view(ELEMENTS[dtype].numpy).reshape(shape)
    if dtype is DType.UINT8:
        return (y.astype(np.int16) + UINT8_OFFSET).astype(np.uint8)
    return y.astype(dtype.numpy)
