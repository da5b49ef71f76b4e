"""Drive Vela, Arm's compiler for Ethos-U: a TOSA program in, a command stream and its estimates out."""

import csv
import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from bitship import extras
from bitship.converters.ethosu import worker
from bitship.errors import FormatError
from bitship.graph.base import Array
from bitship.targets.base import Npu

CONFIG = "Arm/vela.ini"
_DEADLINE_S = 600.0
_ARRAYS = (
    "cmd_data",
    "weight_data",
    "weight_region",
    "scratch_region",
    "scratch_size",
    "scratch_fast_region",
    "scratch_fast_size",
    "input_region",
    "input_offset",
    "input_elem_size",
    "input_shape",
    "output_region",
    "output_offset",
    "output_elem_size",
    "output_shape",
)


@dataclass(frozen=True)
class Compiled:
    """What Vela made of one program.

    arrays   its raw output: ``cmd_data``, ``weight_data``, and regions, offsets and shapes of inputs and outputs
    summary  the columns of its summary, by name: cycles, memories in KiB, seconds
    """

    arrays: Mapping[str, Array]
    summary: Mapping[str, float]


class Vela:
    """One process of Vela for one accelerator; a context manager."""

    def __init__(self, npu: Npu) -> None:
        extras.require("ethosu.vela", "ethos-u", "ethos-u converter")
        self.npu = npu
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Vela":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def compile(self, program: bytes) -> Compiled | str:
        """Return what Vela made of a TOSA program, or the line in which it refuses it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tosa"
            path.write_bytes(program)
            refused = self._asked(path)
            return refused or _read(Path(folder) / "out")

    def _asked(self, path: Path) -> str:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._arguments(path)) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], _DEADLINE_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            code = self._process.poll()
            self._end()
            return f"Vela ended with status {code}" if ready else f"Vela gave nothing for {_DEADLINE_S:g} s"
        return str(json.loads(line))

    def _arguments(self, path: Path) -> list[str]:
        return [
            f"--accelerator-config={self.npu.accelerator}",
            f"--config={CONFIG}",
            f"--system-config={self.npu.system_config}",
            f"--memory-mode={self.npu.memory_mode}",
            "--output-format=raw",
            f"--output-dir={path.parent / 'out'}",
            str(path),
        ]


def _read(folder: Path) -> Compiled:
    try:
        with np.load(next(folder.glob("*_vela.npz")), allow_pickle=False) as data:
            arrays = {name: data[name] for name in _ARRAYS}
        with next(folder.glob("*_summary_*.csv")).open(newline="") as f:
            row = next(csv.DictReader(f))
    except (OSError, StopIteration, ValueError, KeyError) as e:
        raise FormatError(f"vela: its output is incomplete ({e}); is ethos-u-vela 5.1 installed?") from None
    return Compiled(arrays, {k: float(v) for k, v in row.items() if _is_number(v)})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
