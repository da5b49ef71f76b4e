"""A firmware package's runner: what any runner does, and a look at every step of the program."""

import re
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from bitship.converters.firmware.serial import Step
from bitship.device.base import OpSamples, Samples
from bitship.device.runner import OUTPUT, RunnerSession
from bitship.errors import DeviceError
from bitship.figures import FigureKind
from bitship.graph.base import Array

STAGE = "stage"
_OP = re.compile(r"^op_ns (\d+) (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class SteppedSession(RunnerSession):
    """A runner that can time its steps and stop behind one. ``table``: the package's steps.json."""

    table: bytes = b"[]"

    @property
    def _steps(self) -> tuple[Step, ...]:
        return msgspec.json.decode(self.table, type=tuple[Step, ...])

    def profile(self, row: tuple[Array, ...], runs: int) -> tuple[OpSamples, ...]:
        """Return what every step takes; a step within a stage is the sum of all its strips. () in emulation."""
        if self.transfer.emulated:
            return ()
        with tempfile.TemporaryDirectory(prefix="bitship-") as name:
            text = self._start(["--profile", str(runs)], [row], Path(name))
        steps = self._steps
        taken: list[list[float]] = [[] for _ in steps]
        for step, nanoseconds in _OP.findall(text):
            if int(step) < len(taken):
                taken[int(step)].append(int(nanoseconds) / 1e6)
        if any(len(values) != runs for values in taken):
            raise DeviceError(f"{self.where}: not every step was timed {runs} times; export the package again")
        return tuple(
            OpSamples(i, s.op, s.tensor, Samples("latency", "ms", FigureKind.MEASURED, tuple(values), 1e-6))
            for i, (s, values) in enumerate(zip(steps, taken, strict=True))
        )

    def _whole(self) -> list[int]:
        """Return the steps behind which a tensor is whole; the first one's is a stage's where others come before."""
        return [i for i, s in enumerate(self._steps) if s.whole]

    def steps(self) -> tuple[tuple[str, str], ...]:
        """Return (op, tensor it writes) of every step whose tensor is whole behind it; a stage of tiles is one step."""
        steps, whole = self._steps, self._whole()
        return tuple((STAGE if i == whole[0] and i > 0 else steps[i].op, steps[i].tensor) for i in whole)

    def look(self, row: tuple[Array, ...], step: int) -> Array:
        """Return the tensor that entry ``step`` of ``steps()`` wrote, with nothing run after it."""
        at = self._whole()[step]
        wanted = self._steps[at]
        words = {"--look": at, "--memory": wanted.memory, "--offset": wanted.offset, "--bytes": wanted.type.nbytes}
        with tempfile.TemporaryDirectory(prefix="bitship-") as name:
            text = self._start([w for k, v in words.items() for w in (k, str(v))], [row], Path(name))
            self.transfer.pull(f"{self.transfer.folder}/out0.bin", Path(name) / "look.bin")
            data = (Path(name) / "look.bin").read_bytes()
        said = {int(i): (int(crc, 16), int(size)) for i, crc, size in OUTPUT.findall(text)}
        if said.get(0) != (zlib.crc32(data), wanted.type.nbytes) or len(data) != wanted.type.nbytes:
            raise DeviceError(f"{self.where}: the tensor behind step {at} came back damaged; run it again")
        return np.frombuffer(data, wanted.type.dtype.numpy).reshape(wanted.type.shape).copy()
