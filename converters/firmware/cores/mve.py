"""Kernels for Arm's M-profile vector extension (Armv8.1-M)."""

from collections.abc import Callable, Mapping

from bitship.graph import Graph, Node
from bitship.graph.base import Op
from bitship.graph.calls import Call

FAMILY: Mapping[type[Op], Callable[[Graph, Node], Call | None]] = {}

# Function without its prefix to the sources it needs, relative to firmware/src.
FILES: dict[str, tuple[str, ...]] = {}
HEADERS: tuple[str, ...] = ()
