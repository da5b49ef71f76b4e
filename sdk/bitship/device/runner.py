"""A package's command-line runner as a session: raw tensors through files, checked by CRC, on any computer."""

import re
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitship.device.base import Burst, Samples
from bitship.device.transfer import Completed, Transfer
from bitship.errors import DeviceError
from bitship.figures import FigureKind
from bitship.graph import Graph
from bitship.graph.base import Array, as_bytes
from bitship.package import Package
from bitship.targets import ConverterName

DEADLINE_SECONDS = 600.0
STARTS = 3  # how often load and first inference are taken
_CLOCK_READS = 5
OUTPUT = re.compile(r"^output (\d+) ([0-9a-fA-F]+) (\d+)$", re.MULTILINE)
_ARENA = re.compile(r"^arena_bytes (\d+) \d+$", re.MULTILINE)
_BURST = re.compile(r"^burst_ns (\d+) (\d+)$", re.MULTILINE)


def _numbers(what: str, text: str) -> list[int]:
    """Return the numbers of every line ``WHAT NUMBER``."""
    return [int(n) for n in re.findall(rf"^{what} (\d+)$", text, re.MULTILINE)]


@contextmanager
def opened(
    transfer: Transfer, files: Sequence[Path], command: Sequence[str], graph: Graph, deadline_s: float, threads: int = 1
) -> Iterator["RunnerSession"]:
    """Copy files into the session's folder over there and yield a session that starts ``command``.

    A word of the command that is a file's name stands for the file over there.
    """
    there = {path.name: f"{transfer.folder}/{path.name}" for path in files}
    for path in files:
        transfer.push(path, there[path.name])
    words = tuple(there.get(w, w) for w in command)
    yield RunnerSession(transfer, words, graph, deadline_s, threads)


@contextmanager
def opened_package(
    transfer: Transfer, package: Package, role: str, deadline_s: float, threads: int = 1
) -> Iterator["RunnerSession"]:
    """Copy a package's runner there and yield a session; one of a firmware package can look at its steps."""
    from bitship.converters.firmware.serial import STEPS
    from bitship.device.stepped import SteppedSession

    runner = package.path / package.artifact(role).path
    with opened(transfer, [runner], [runner.name], package.graph(), deadline_s, threads) as session:
        table = package.path / STEPS
        if package.manifest.converter is ConverterName.FIRMWARE and table.is_file():
            yield SteppedSession(transfer, session.command, session.graph, deadline_s, threads, table.read_bytes())
        else:
            yield session


@dataclass(frozen=True)
class RunnerSession:
    """One package's runner, in the folder of a transfer.

    command  what starts it; converters/runner.c says which options and files follow, and what it prints
    threads  how many it runs on; only tvm packages' runners take more than one
    """

    transfer: Transfer
    command: tuple[str, ...]
    graph: Graph
    deadline_s: float
    threads: int = 1

    @property
    def where(self) -> str:
        """What errors begin with."""
        return Path([w for w in self.command if w.startswith("/")][-1]).name

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        """Run all rows in one start of the runner; DeviceError when it fails, hangs, or its results are damaged."""
        for row in rows:
            self.graph.check_inputs(row)
        with tempfile.TemporaryDirectory(prefix="bitship-") as name:
            folder = Path(name)
            text = self._start([], rows, folder)
            said = {int(i): (int(crc, 16), int(size)) for i, crc, size in OUTPUT.findall(text)}
            columns = [self._take(i, folder, len(rows), said) for i in range(len(self.graph.outputs))]
        return list(zip(*columns, strict=True))

    def _start(self, options: Sequence[str], rows: Sequence[tuple[Array, ...]], folder: Path) -> str:
        """Copy inputs there, start the runner, return what it printed; its results are over there."""
        ins = [f"{self.transfer.folder}/in{i}.bin" for i in range(len(self.graph.inputs))]
        outs = [f"{self.transfer.folder}/out{i}.bin" for i in range(len(self.graph.outputs))]
        for i, remote in enumerate(ins):
            (folder / "in.bin").write_bytes(b"".join(as_bytes(row[i]) for row in rows))
            self.transfer.push(folder / "in.bin", remote)
        threads = ["--threads", str(self.threads)] if self.threads > 1 else []
        return self._done([*self.command, *threads, *options, *ins, *outs]).stdout

    def _done(self, words: Sequence[str]) -> Completed:
        done = self.transfer.run([*self.transfer.launcher, *words], self.deadline_s)
        if done.code != 0:
            said = (done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["nothing said"])[-1]
            raise DeviceError(f"{self.where}: ended with code {done.code}: {said}")
        return done

    def _take(self, index: int, folder: Path, count: int, said: dict[int, tuple[int, int]]) -> list[Array]:
        port, local = self.graph.outputs[index], folder / "out.bin"
        self.transfer.pull(f"{self.transfer.folder}/out{index}.bin", local)
        data = local.read_bytes()
        if len(data) != count * port.type.nbytes or said.get(index) != (zlib.crc32(data), len(data)):
            raise DeviceError(f"{self.where}: output '{port.name}' came back damaged ({len(data)} B); run it again")
        array = np.frombuffer(data, port.type.dtype.numpy).reshape(count, *port.type.shape)
        return [a.copy() for a in array]

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        """Return latency, load and first inference in ms, peak memory and arena in bytes, by the runner's own clock.

        In emulation only what does not depend on time. DeviceError when timed runs give other bits than an untimed one.
        """
        with tempfile.TemporaryDirectory(prefix="bitship-") as name:
            folder = Path(name)
            plain = self._start(["--arena", "1"], [row], folder)
            arena = tuple(float(n) for n in _ARENA.findall(plain))
            kind = FigureKind.SIMULATED if self.transfer.emulated else FigureKind.MEASURED
            memory = (Samples("arena", "B", kind, arena),) if arena else ()
            if self.transfer.emulated:
                return memory
            text = self._start(["--load", "1", "-r", str(warmup + runs)], [row], folder)
            more = [self._start(["--load", "1"], [row], folder) for _ in range(STARTS - 1)]
        if OUTPUT.findall(text) != OUTPUT.findall(plain):
            raise DeviceError(f"{self.where}: timed runs give other bits than an untimed one; nothing was measured")
        taken = _numbers("run_ns", text)
        if len(taken) != warmup + runs:
            raise DeviceError(f"{self.where}: {warmup + runs} runs were asked for, {len(taken)} came back")
        found = [Samples("latency", "ms", FigureKind.MEASURED, tuple(n / 1e6 for n in taken[warmup:]), 1e-6)]
        for title, line, unit, scale in (
            ("first inference", "first_ns", "ms", 1e-6),
            ("load", "load_ns", "ms", 1e-6),
            ("peak memory", "peak_kib", "B", 1024),
        ):
            values = tuple(n * scale for t in (text, *more) for n in _numbers(line, t))
            found += [Samples(title, unit, FigureKind.MEASURED, values, scale)] if values else []
        return (*found, *memory)

    def burst(self, row: tuple[Array, ...], runs: int) -> Burst:
        """Run one input ``runs`` times with nothing said meanwhile; edges by the clock over there."""
        with tempfile.TemporaryDirectory(prefix="bitship-") as name:
            text = self._start(["--burst", str(runs)], [row], Path(name))
        window = _BURST.search(text)
        if window is None:
            raise DeviceError(f"{self.where}: the runner timed no burst; export the package again")
        ahead_s, slack_s = self.clock()
        start, end = int(window[1]) / 1e9, int(window[2]) / 1e9
        return Burst(runs, start - ahead_s, end - ahead_s, end - start, slack_s)

    def clock(self) -> tuple[float, float]:
        """Return by how many seconds the clock over there is ahead of this machine's, and how wrong that may be."""
        found: list[tuple[float, float]] = []
        for _ in range(_CLOCK_READS):
            before = time.monotonic()
            text = self._done([*self.command, "--clock"]).stdout
            after = time.monotonic()
            for n in _numbers("clock_ns", text):
                found.append(((after - before) / 2, n / 1e9 - (before + after) / 2))
        if not found:
            raise DeviceError(f"{self.where}: tells no time; export the package again")
        slack, ahead = min(found)
        return ahead, slack
