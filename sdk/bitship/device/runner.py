"""A tvm package's command-line runner as a session: raw tensors through files, checked by CRC."""

import os
import re
import subprocess
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitship.device.base import FigureKind, Samples
from bitship.errors import DeviceError
from bitship.graph import Graph
from bitship.graph.base import Array, as_bytes

DEADLINE_SECONDS = 600.0
_LINE = re.compile(r"output (\d+) ([0-9a-fA-F]+) (\d+)")
_RUN = re.compile(r"run_ns (\d+)")


@dataclass(frozen=True)
class RunnerSession:
    """One package's runner; ``emulator`` is the program that runs it, None for this machine itself.

    threads  how many it runs on; only tvm packages' runners take more than one
    """

    emulator: str | None
    runner: Path
    graph: Graph
    deadline_s: float
    threads: int = 1

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        """Run all rows in one start of the runner; DeviceError when it fails, hangs, or its results are damaged."""
        for row in rows:
            self.graph.check_inputs(row)
        with tempfile.TemporaryDirectory(prefix="bitship-") as name:
            folder = Path(name)
            ins = [folder / f"in{i}.bin" for i in range(len(self.graph.inputs))]
            outs = [folder / f"out{i}.bin" for i in range(len(self.graph.outputs))]
            for i, path in enumerate(ins):
                path.write_bytes(b"".join(as_bytes(row[i]) for row in rows))
            text = self._start([*map(str, ins), *map(str, outs)])
            said = {int(m[1]): (int(m[2], 16), int(m[3])) for m in _LINE.finditer(text)}
            columns = [self._read(i, path, len(rows), said) for i, path in enumerate(outs)]
        return list(zip(*columns, strict=True))

    def _start(self, words: list[str]) -> str:
        command = [*([self.emulator] if self.emulator else []), str(self.runner.resolve())]
        command += [*(["--threads", str(self.threads)] if self.threads > 1 else []), *words]
        if not os.access(self.runner, os.X_OK):
            raise DeviceError(f"{self.runner}: is not executable; export the package again")
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=self.deadline_s, check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.runner}: silent for {self.deadline_s:g} s, then stopped") from None
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
            raise DeviceError(f"{self.runner}: ended with code {done.returncode}: {said}")
        return done.stdout

    def _read(self, index: int, path: Path, count: int, said: dict[int, tuple[int, int]]) -> list[Array]:
        port = self.graph.outputs[index]
        data = path.read_bytes() if path.is_file() else b""
        if len(data) != count * port.type.nbytes or said.get(index) != (zlib.crc32(data), len(data)):
            raise DeviceError(f"{self.runner}: output '{port.name}' came back damaged ({len(data)} B); run it again")
        array = np.frombuffer(data, port.type.dtype.numpy).reshape(count, *port.type.shape)
        return [a.copy() for a in array]

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        """Return the runner's own timing; nothing in emulation, whose time is not the target's."""
        if self.emulator is not None:
            return ()
        with tempfile.TemporaryDirectory(prefix="bitship-") as name:
            files = [Path(name) / f"in{i}.bin" for i in range(len(row))]
            for path, array in zip(files, row, strict=True):
                path.write_bytes(as_bytes(array))
            outs = [str(Path(name) / f"out{i}.bin") for i in range(len(self.graph.outputs))]
            text = self._start(["-r", str(warmup + runs), *map(str, files), *outs])
        taken = [int(n) / 1e6 for n in _RUN.findall(text)]
        if len(taken) != warmup + runs:
            raise DeviceError(f"{self.runner}: {warmup + runs} runs were asked for, {len(taken)} came back")
        return (Samples("latency", "ms", FigureKind.MEASURED, tuple(taken[warmup:])),)
