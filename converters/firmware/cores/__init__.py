"""Which kernels a core gets: the plain ones, or those written for its instructions, the same bits.

A family is a table from op to a function that returns the call of the family's own kernel with its constants packed
ahead of time, or None where the family has none for these parameters. What no family takes falls to the plain kernels,
which take everything the graph has.
"""

import enum
from collections.abc import Callable, Mapping

from bitship.converters.firmware.cores import dsp, mve, packed
from bitship.graph import Graph, Node
from bitship.graph.base import Op
from bitship.graph.calls import SMALL_TILE, WIDE_TILE, Call, lower
from bitship.targets import Target, TargetKind

Family = Mapping[type[Op], Callable[[Graph, Node], Call | None]]


class Core(enum.Enum):
    """Instructions that kernels may use: a vectorising compiler's, a plain core's, Arm's DSP extension, Arm's MVE."""

    HOST = "host"
    SCALAR = "scalar"
    DSP = "dsp"
    MVE = "mve"


_FAMILIES: dict[Core, tuple[Family, ...]] = {
    Core.HOST: (),
    Core.SCALAR: (packed.FAMILY,),
    Core.DSP: (dsp.FAMILY,),
    Core.MVE: (mve.FAMILY, dsp.FAMILY),
}

_FILES = {**dsp.FILES, **mve.FILES, **packed.FILES}
HEADERS = {"dsp": dsp.HEADERS, "mve": mve.HEADERS}


def core_of(target: Target) -> Core:
    """Return the most capable kernels that the target's ``features`` allow."""
    if target.kind is not TargetKind.MCU:
        return Core.HOST
    for core in (Core.MVE, Core.DSP):
        if core.value in target.features:
            return core
    return Core.SCALAR


def lower_for(core: Core, graph: Graph, node: Node) -> tuple[Call, ...]:
    """Return the kernel calls of one node for a core, in order; UnsupportedError when no kernel takes it."""
    for family in _FAMILIES[core]:
        make = family.get(type(node.op))
        call = make(graph, node) if make else None
        if call is not None:
            return (call,)
    return lower(graph, node, WIDE_TILE if core is Core.HOST else SMALL_TILE)


def source_files(function: str) -> tuple[str, ...]:
    """Return the sources, relative to ``firmware/src``, that hold a family's function; () for a plain kernel."""
    return _FILES.get(function.removeprefix("bitship_"), ())


__all__ = ["HEADERS", "Core", "Family", "core_of", "lower_for", "source_files"]
