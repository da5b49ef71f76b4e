"""What a device is: something that runs a package and hands back bits and raw samples."""

import enum
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from bitship.graph.base import Array
from bitship.package import Package


class FigureKind(enum.Enum):
    """Where a figure comes from. An emulator's instruction count is never a latency of a board."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    ESTIMATED = "estimated"


class Samples(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Raw samples of one figure, in the order they were taken, in ``unit``."""

    name: str
    unit: str
    kind: FigureKind
    values: tuple[float, ...]


class DeviceSession(Protocol):
    """A package loaded on a device."""

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        """Return the outputs for every input tuple; DeviceError when the device fails or stays silent."""
        ...

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        """Return raw samples of ``runs`` executions on one input after ``warmup`` unrecorded ones."""
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
