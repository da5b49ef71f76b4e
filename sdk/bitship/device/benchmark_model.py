"""LiteRT's own ``benchmark_model``, given by the user, as a session: it measures a .tflite and gives no outputs.

It feeds the model random numbers and runs its optimized kernels or a delegate, whose bits are their own; so the bits of
the file are proven by a Python over there that runs the reference kernels, or not at all, and the report says so.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bitship.device.base import DeviceSession, Samples
from bitship.device.transfer import Transfer
from bitship.errors import DeviceError
from bitship.figures import FigureKind
from bitship.graph.base import Array

_NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, "
    rf"Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}"
)
_COUNT = re.compile(r"\bcount=(\d+)\b")
_MEMORY = re.compile(
    rf"(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): "
    rf"init={_NUMBER} overall={_NUMBER}"
)
_STARTS = 3
_MOST_SECONDS = 60


class BenchmarkModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The program over there, and what it is told besides: ``--use_gpu=true``, ``--use_xnnpack=false``."""

    program: str
    options: tuple[str, ...] = ()


@contextmanager
def opened(
    transfer: Transfer, tool: BenchmarkModel, model: Path, proof: DeviceSession | str, deadline_s: float
) -> Iterator["BenchmarkModelSession"]:
    """Copy the model there and yield a session.

    proof  what runs the model for its outputs, or why nothing does
    """
    there = f"{transfer.folder}/benchmark-{model.name}"
    transfer.push(model, there)
    yield BenchmarkModelSession(transfer, tool, there, proof, deadline_s)


@dataclass(frozen=True)
class BenchmarkModelSession:
    """One .tflite timed by the user's benchmark_model on one thread."""

    transfer: Transfer
    tool: BenchmarkModel
    model: str
    proof: DeviceSession | str
    deadline_s: float

    @property
    def unproven(self) -> str:
        """Why the outputs are not known; empty where they are."""
        return self.proof if isinstance(self.proof, str) else ""

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        """Return the outputs of every row by the reference kernels; none where nothing runs them."""
        return [] if isinstance(self.proof, str) else self.proof.run(rows)

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        """Return three starts' mean latencies, first inferences and set-up times in ms, and memory in MB."""
        if self.transfer.emulated:
            return ()
        logs = [self._start(runs, warmup) for _ in range(_STARTS)]
        times = [m for m in map(_TIMINGS.search, logs) if m]
        if len(times) != len(logs):
            raise DeviceError(f"{self.tool.program}: no line 'Inference timings in us: ...' in what it says")
        counts = [int(_COUNT.findall(text)[-1]) if _COUNT.search(text) else runs for text in logs]

        def figure(name: str, unit: str, values: list[float], step: float) -> Samples:
            return Samples(f"{name} by benchmark_model", unit, FigureKind.MEASURED, tuple(values), step)

        found = [
            figure(f"mean latency of {min(counts)} runs", "ms", [float(m[4]) / 1e3 for m in times], 1e-4),
            figure("first inference", "ms", [float(m[2]) / 1e3 for m in times], 1e-3),
            figure("load", "ms", [float(m[1]) / 1e3 for m in times], 1e-3),
        ]
        memory = [m for m in map(_MEMORY.search, logs) if m]
        if memory:
            found.append(figure("memory", "MB", [float(m[2]) for m in memory], 1e-3))
        return tuple(found)

    def _start(self, runs: int, warmup: int) -> str:
        words = [*self.transfer.launcher, self.tool.program, f"--graph={self.model}", "--num_threads=1"]
        words += [f"--num_runs={runs}", f"--warmup_runs={warmup}", "--min_secs=0.001", "--warmup_min_secs=0.001"]
        done = self.transfer.run([*words, f"--max_secs={_MOST_SECONDS}", *self.tool.options], self.deadline_s)
        if done.code != 0:
            said = (done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["nothing said"])[-1]
            raise DeviceError(f"{self.tool.program}: ended with code {done.code}: {said}")
        return done.stdout + done.stderr
