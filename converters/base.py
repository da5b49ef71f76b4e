"""What a converter is, what it hands back, and how its result is run on this machine."""

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.targets import Target


class Numerics(enum.Enum):
    """Whether an artifact gives the graph's bits, or a vendor's own arithmetic close to them.

    UNVERIFIED  the vendor says that its hardware computes these bits; nothing here could run it
    """

    EXACT = "exact"
    TOLERANT = "tolerant"
    UNVERIFIED = "unverified"


class Footprint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes a package needs: constants and code in flash, tensors and scratch in RAM, and the stack at its deepest.

    The stack is that of the whole image, from the frames and calls that the compiler reports.
    """

    weights_bytes: int
    arena_bytes: int
    code_bytes: int | None = None
    stack_bytes: int | None = None


class Artifact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One runnable thing in a package: its file (relative to the package) and whether it is exact.

    placement  of a delegate's artifact: the file that says where each node runs (``bitship.converters.placement``)
    """

    path: str
    role: str
    numerics: Numerics = Numerics.EXACT
    placement: str = ""


class Conversion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a converter wrote into the folder it was given, and what that needs and was made with.

    files  every file written, relative, sorted; artifacts  the runnable ones among them, the exact one first
    tools  name to version of everything that decided the bytes
    schedule  how the layers run, where that is not one after the other
    """

    files: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    footprint: Footprint
    tools: Mapping[str, str]
    schedule: str = ""


class Converter(Protocol):
    """A back end. ``convert`` writes only below ``out``, deterministically: same graph and target, same bytes."""

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Lower the graph for the target into files below ``out``; UnsupportedError names a node it cannot take."""
        ...


class Session(Protocol):
    """A converted graph, loaded and ready on this machine; runs with one thread."""

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...
