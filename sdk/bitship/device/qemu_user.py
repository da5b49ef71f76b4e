"""A Linux target in QEMU's user mode: the package's runner on files, checked by CRC. Bits only, no timing."""

import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitship.device.base import DeviceSession, Samples
from bitship.errors import DeviceError, MissingDependencyError
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.graph.store import as_bytes
from bitship.package import Package
from bitship.targets import ConverterName, Target

DEADLINE_SECONDS = 600.0
_LINE = re.compile(r"output (\d+) ([0-9a-fA-F]+) (\d+)")


class QemuUserDevice:
    """Runs the ``runner`` of a tvm package for another processor. Emulated time means nothing, so none is taken."""

    def __init__(self, target: Target, deadline_s: float = DEADLINE_SECONDS) -> None:
        if target.emulator is None:
            raise DeviceError(f"{target.name}: target.toml names no emulator")
        self._target = target
        self._emulator = target.emulator
        self._deadline_s = deadline_s

    @property
    def name(self) -> str:
        return self._emulator.program

    def environment(self) -> dict[str, str]:
        done = subprocess.run([self._program(), "--version"], capture_output=True, text=True, timeout=30, check=False)
        version = re.search(r"version (\S+)", done.stdout)
        return {"emulator": f"{self.name} {version[1] if version else '?'}", "processor": self._target.cpu}

    def _program(self) -> str:
        program = shutil.which(self._emulator.program)
        if program is None:
            raise MissingDependencyError(
                f"{self._emulator.program}: not found; it emulates {self._target.name}: apt-get install qemu-user"
            )
        return program

    @contextmanager
    def open(self, package: Package, role: str | None) -> Iterator[DeviceSession]:
        if package.manifest.converter is not ConverterName.TVM:
            raise DeviceError(
                f"{package.path}: {self.name} runs tvm packages; this is a {package.manifest.converter.value} package"
            )
        runner = package.path / package.artifact(role or "runner").path
        yield QemuUserSession(self._program(), runner, package.graph(), self._deadline_s)


@dataclass(frozen=True)
class QemuUserSession:
    """A runner on this machine, in emulation."""

    program: str
    runner: Path
    graph: Graph
    deadline_s: float

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
            said = self._start([*ins, *outs])
            columns = [self._read(i, path, len(rows), said) for i, path in enumerate(outs)]
        return list(zip(*columns, strict=True))

    def _start(self, files: list[Path]) -> dict[int, tuple[int, int]]:
        command = [self.program, str(self.runner.resolve()), *map(str, files)]
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
        return {int(m[1]): (int(m[2], 16), int(m[3])) for m in _LINE.finditer(done.stdout)}

    def _read(self, index: int, path: Path, count: int, said: dict[int, tuple[int, int]]) -> list[Array]:
        port = self.graph.outputs[index]
        data = path.read_bytes() if path.is_file() else b""
        if len(data) != count * port.type.nbytes or said.get(index) != (zlib.crc32(data), len(data)):
            raise DeviceError(f"{self.runner}: output '{port.name}' came back damaged ({len(data)} B); run it again")
        array = np.frombuffer(data, port.type.dtype.numpy).reshape(count, *port.type.shape)
        return [a.copy() for a in array]

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        """Return nothing: user-mode emulation counts no instructions, and its time is not the target's."""
        return ()
