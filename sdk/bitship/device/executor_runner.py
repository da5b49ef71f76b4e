"""ExecuTorch's own ``executor_runner``, given by the user, as a session: bits by files, one time per start of it.

Newer ones log what each execution took; of older ones a sample is the mean over all executions of one start.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitship.device.base import Samples
from bitship.device.transfer import Transfer
from bitship.errors import DeviceError
from bitship.figures import FigureKind
from bitship.graph import Graph
from bitship.graph.base import Array, as_bytes

_ITERATION = re.compile(r"Iteration \d+ of \d+: ([\d.]+) ms")
_LOADED = re.compile(r"Model loaded in ([\d.]+) ms")
_DONE = re.compile(r"Model executed successfully (\d+) time\(s\) in ([\d.]+) ms")

_STARTS = 3


@contextmanager
def opened(
    transfer: Transfer, runner: str, model: Path, graph: Graph, deadline_s: float
) -> Iterator["ExecutorRunnerSession"]:
    """Copy the model there and yield a session; ``runner`` is a path over there."""
    there = f"{transfer.folder}/{model.name}"
    transfer.push(model, there)
    yield ExecutorRunnerSession(transfer, runner, there, graph, deadline_s)


@dataclass(frozen=True)
class ExecutorRunnerSession:
    """One .pte run by the user's executor_runner, which is started anew for every row."""

    transfer: Transfer
    runner: str
    model: str
    graph: Graph
    deadline_s: float

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        """Return the outputs of every row; DeviceError when it fails or writes other sizes than the graph's."""
        found = []
        for row in rows:
            self.graph.check_inputs(row)
            self._start(row, 1)
            with tempfile.TemporaryDirectory(prefix="bitship-") as name:
                found.append(tuple(self._take(i, Path(name) / "out.bin") for i in range(len(self.graph.outputs))))
        return found

    def _start(self, row: tuple[Array, ...], executions: int) -> str:
        folder = self.transfer.folder
        with tempfile.TemporaryDirectory(prefix="bitship-") as name:
            for i, array in enumerate(row):
                (Path(name) / "in.bin").write_bytes(as_bytes(array))
                self.transfer.push(Path(name) / "in.bin", f"{folder}/in{i}.bin")
        ins = ",".join(f"{folder}/in{i}.bin" for i in range(len(row)))
        words = [*self.transfer.launcher, self.runner, f"--model_path={self.model}", f"--inputs={ins}"]
        words += [f"--output_file={folder}/out", "--print_output=none", f"--num_executions={executions}"]
        done = self.transfer.run([*words, "--cpu_threads=1"], self.deadline_s)
        if done.code != 0:
            said = (done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["nothing said"])[-1]
            raise DeviceError(f"{self.runner}: ended with code {done.code}: {said}")
        return done.stdout + done.stderr

    def _take(self, index: int, local: Path) -> Array:
        port = self.graph.outputs[index]
        self.transfer.pull(f"{self.transfer.folder}/out-{index}.bin", local)
        data = local.read_bytes()
        if len(data) != port.type.nbytes:
            raise DeviceError(
                f"{self.runner}: output '{port.name}' has {len(data)} B, {port.type.nbytes} B are expected"
            )
        return np.frombuffer(data, port.type.dtype.numpy).reshape(port.type.shape).copy()

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        """Return latency in ms by the runner's log: of every execution, or three starts' means; () where it tells none.

        A mean is over all ``warmup + runs`` executions, the first too.
        """
        if self.transfer.emulated:
            return ()
        text = self._start(row, warmup + runs)
        each = tuple(float(n) for n in _ITERATION.findall(text))
        if len(each) == warmup + runs:
            found = (Samples("latency", "ms", FigureKind.MEASURED, each[warmup:], 1e-6),)
            first = (Samples("first inference", "ms", FigureKind.MEASURED, each[:1], 1e-6),)
            load = tuple(float(n) for n in _LOADED.findall(text))
            return (*found, *first, *((Samples("load", "ms", FigureKind.MEASURED, load, 1e-6),) if load else ()))
        logs = [text, *(self._start(row, warmup + runs) for _ in range(_STARTS - 1))]
        done = [m for m in map(_DONE.search, logs) if m]
        name = f"mean latency of {warmup + runs} executions"
        means = tuple(float(m[2]) / int(m[1]) for m in done)
        return (Samples(name, "ms", FigureKind.MEASURED, means),) if means else ()
