"""This machine as a device: packages run in this process, timed with a monotonic clock."""

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bitship.converters import BACK_ENDS, open_session
from bitship.converters.base import Session
from bitship.device.base import Conditions, DeviceSession, Samples
from bitship.device.runner import DEADLINE_SECONDS, opened_package
from bitship.device.transfer import LocalTransfer
from bitship.errors import DeviceError
from bitship.figures import FigureKind
from bitship.graph.base import Array
from bitship.package import Package

RUNNER_ROLE = "runner"  # an executable artifact: it runs as a process of its own, not in this one


def processor() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class _HostSession:
    session: Session

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        return [self.session.run(*row) for row in rows]

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        for _ in range(warmup):
            self.session.run(*row)
        values = []
        for _ in range(runs):
            start = time.perf_counter_ns()
            self.session.run(*row)
            values.append((time.perf_counter_ns() - start) / 1e6)
        return (Samples("latency", "ms", FigureKind.MEASURED, tuple(values)),)


@dataclass(frozen=True)
class HostDevice:
    """The machine bitship runs on; ``threads`` is how many a package runs on, more than one for tvm packages only."""

    threads: int = 1
    name = "host"

    def environment(self) -> dict[str, str]:
        return {
            "processor": processor(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": str(self.threads),
        }

    def conditions(self) -> Conditions:
        """Read temperatures and clocks; a machine that tells none gives none."""
        from bitship.device import conditions
        from bitship.device.transfer import LocalTransfer

        with LocalTransfer().open() as link:
            return conditions.read(link)

    @contextmanager
    def open(self, package: Package, role: str | None) -> Iterator[DeviceSession]:
        artifact, converter = package.artifact(role), package.manifest.converter
        if not BACK_ENDS[converter].opens:
            raise DeviceError(f"{package.path}: a {converter.value} package does not run here; name a device")
        if self.threads < 1 or (self.threads > 1 and not BACK_ENDS[converter].threads):
            raise DeviceError(
                f"{package.path}: a {converter.value} package on {self.threads} threads; tvm packages run on 1 or "
                "more, others on 1"
            )
        if artifact.role == RUNNER_ROLE:
            with (
                LocalTransfer().open() as transfer,
                opened_package(transfer, package, artifact.role, DEADLINE_SECONDS, self.threads) as made,
            ):
                yield made
            return
        session = open_session(converter, package.path / artifact.path, package.graph(), self.threads)
        try:
            yield _HostSession(session)
        finally:
            session.close()
