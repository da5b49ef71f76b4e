"""What a device is: something that runs a package and hands back bits and raw samples.

A session must run and measure. What else it can do is a protocol of its own (``Profiles``, ``Bursts``, ``Looks``,
``Conditioned``): whoever needs it asks with ``isinstance``.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import msgspec

from bitship.figures import FigureKind
from bitship.graph.base import Array
from bitship.package import Package


class Samples(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Raw samples of one figure, in the order they were taken, in ``unit``.

    resolution  the smallest step of the instrument, in ``unit``: what a single sample may be wrong by
    """

    name: str
    unit: str
    kind: FigureKind
    values: tuple[float, ...]
    resolution: float = 0.0


class OpSamples(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one call of a package's program took: its place in order, its op, the tensor it writes."""

    step: int
    op: str
    tensor: str
    samples: Samples


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device's figures depend on, at one moment: sensors in degrees Celsius, processors' clocks in Hz."""

    when: str
    celsius: dict[str, float] = {}
    hz: dict[str, float] = {}
    modes: dict[str, str] = {}


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A meter's trace, drawn small: the lowest and the highest sample of every stretch, and the measured windows.

    seconds  where each stretch begins; low, high  in ``unit``; windows  (start, end) in seconds of every burst
    """

    name: str
    unit: str
    kind: FigureKind
    seconds: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    windows: tuple[tuple[float, float], ...]


class Burst(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inferences run back to back with the link silent.

    runs     how many
    start_s, end_s  the window on the host's monotonic clock, as well as it is known
    seconds  the same window on the device's own clock; None where it has none
    slack_s  by how much the host's edges may be off
    """

    runs: int
    start_s: float
    end_s: float
    seconds: float | None = None
    slack_s: float = 0.0


class Difference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a device first computes other bits than the graph: its operands are right, its result is not.

    step   which of ``Looks.steps()``; op, tensor  what it is
    index  the first element that differs, row-major; found, wanted  there
    """

    step: int
    op: str
    tensor: str
    index: tuple[int, ...]
    found: int
    wanted: int

    def __str__(self) -> str:
        return (
            f"step {self.step} ({self.op}) writes '{self.tensor}': at {list(self.index)} it gives {self.found}, "
            f"the graph {self.wanted}"
        )


class DeviceSession(Protocol):
    """A package loaded on a device."""

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        """Return the outputs for every input tuple; DeviceError when the device fails or stays silent."""
        ...

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        """Return raw samples of ``runs`` executions on one input after ``warmup`` unrecorded ones."""
        ...


@runtime_checkable
class Profiles(Protocol):
    """A session that can tell what every op takes."""

    def profile(self, row: tuple[Array, ...], runs: int) -> tuple[OpSamples, ...]:
        """Return one entry per call of the program, in order; what reading the counter takes is subtracted."""
        ...


@runtime_checkable
class Looks(Protocol):
    """A session that can run the first calls of its program only and hand out a tensor in between."""

    def steps(self) -> tuple[tuple[str, str], ...]:
        """Return (op, tensor it writes) of every call, in order."""
        ...

    def look(self, row: tuple[Array, ...], step: int) -> Array:
        """Return the tensor that call ``step`` wrote, with nothing run after it."""
        ...


@runtime_checkable
class Bursts(Protocol):
    """A session that can run many inferences with the link silent, for a power meter to look at."""

    def burst(self, row: tuple[Array, ...], runs: int) -> Burst:
        """Run one input ``runs`` times; a marker line, where the board has one, pulses at both edges."""
        ...


@runtime_checkable
class Conditioned(Protocol):
    """A device that can tell its temperatures and clocks."""

    def conditions(self) -> Conditions:
        """Read them now."""
        ...


@runtime_checkable
class Chooses(Protocol):
    """A device that runs another artifact than a package's first one, when none is named."""

    def role(self, package: Package) -> str | None:
        """Return the artifact's role; None: the package's exact one."""
        ...


class Device(Protocol):
    """A unit packages can be run on."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def environment(self) -> dict[str, str]:
        """What decides its figures: processor, emulator version, clock."""
        ...

    def open(self, package: Package, role: str | None) -> AbstractContextManager[DeviceSession]:
        """Load a package's artifact of a role (None: the exact one); DeviceError when it cannot run here."""
        ...
