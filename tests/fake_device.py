"""Devices that play back: what a bench does with a device, without one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bitship.device.base import Conditions, DeviceSession, OpSamples, Samples
from bitship.errors import DeviceError
from bitship.figures import FigureKind
from bitship.graph import spec
from bitship.graph.base import Array
from bitship.package import Package


@dataclass
class Playback:
    """Gives the specification's bits, and latencies from a function of the execution's number.

    wrong  outputs have one bit flipped; lost  how many first sessions are lost while they measure
    """

    latency: Callable[[int], float] = lambda k: 1.0 + k % 10 / 100
    wrong: bool = False
    lost: int = 0
    name: str = "playback"
    kind: FigureKind = FigureKind.MEASURED
    measured: list[tuple[int, int]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        return {"processor": "playback"}

    def conditions(self) -> Conditions:
        return Conditions("2026-01-01T00:00:00+00:00", {"core": 40.0}, {"core": 1e9}, {"governor": "fixed"})

    @contextmanager
    def open(self, package: Package, role: str | None) -> Iterator[DeviceSession]:
        package.artifact(role)
        yield _Session(self, package)


@dataclass
class _Session:
    device: Playback
    package: Package

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        graph = self.package.graph()
        found = [spec.run(graph, *row) for row in rows]
        if self.device.wrong:
            found[1][0].flat[0] ^= 1
        return found

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        if self.device.lost > 0:
            self.device.lost -= 1
            raise DeviceError("playback: the line is gone")
        first = sum(r for r, _ in self.device.measured)
        self.device.measured.append((runs, warmup))
        values = tuple(self.device.latency(first + k) for k in range(runs))
        return (
            Samples("latency", "ms", self.device.kind, values, 0.001),
            Samples("load", "ms", self.device.kind, (7.0 + len(self.device.measured),)),
        )

    def profile(self, row: tuple[Array, ...], runs: int) -> tuple[OpSamples, ...]:
        return tuple(
            OpSamples(i, "conv2d", f"t{i}", Samples("latency", "ms", self.device.kind, (1.0 + i,) * runs))
            for i in range(3)
        )
