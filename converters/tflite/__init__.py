"""TFLite: the graph as a ``.tflite`` of integer operators whose bits are the graph's under LiteRT's reference kernels.

    model.tflite                 one operator for one node where real scales give its multipliers, integer primitives
                                 elsewhere
    model.tflite.placement.json  which nodes are one operator
    model.vendor.tflite          for an NPU, where that is not all of the work: one operator with the nearest scales
                                 wherever there is one; its bits are close, and measured

LiteRT: https://ai.google.dev/edge/litert.
"""

import contextlib
from importlib.metadata import version
from pathlib import Path

import msgspec

from bitship.converters import placement
from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.measure import measure
from bitship.converters.placement import Place, Placement, placed
from bitship.converters.tflite.lower import Lowered, lower
from bitship.converters.tflite.session import LiteRtSession
from bitship.errors import UnsupportedError
from bitship.graph import Graph
from bitship.passes.int4 import unpacked
from bitship.targets import Target

FILE = "model.tflite"
VENDOR = "model.vendor.tflite"
_NO_SCALES = "no float32 scales give its bits; one operator would give others, so it is several integer operators"
_NO_OPERATOR = "TFLite has no one operator for it on int8; it is several integer operators"
_NO_COMPILER = "the vendor's compiler makes its own file of model.tflite; it was not run here"


class TfliteConverter:
    """Lowers a graph to a .tflite file. Same graph, same bytes."""

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write the file below ``out``; UnsupportedError names a node without an exact form."""
        lowered = lower(graph)
        out.mkdir(parents=True, exist_ok=True)
        (out / FILE).write_bytes(lowered.data)
        found = _placement(graph, lowered, target, _NO_SCALES)
        note = placement.write(out / FILE, found)
        files, artifacts = [FILE, note], [Artifact(FILE, "tflite", Numerics.EXACT, note)]
        if target is not None and target.npu is not None and found.share < 1:
            with contextlib.suppress(UnsupportedError):
                artifacts.append(_vendor(graph, target, out))
                files += [artifacts[-1].path, artifacts[-1].placement]
        return Conversion(
            files=tuple(sorted(files)),
            artifacts=tuple(artifacts),
            footprint=Footprint(unpacked(graph).constant_bytes, largest_live_bytes(graph)),
            tools={"ai-edge-litert": version("ai-edge-litert")},
        )


def _vendor(graph: Graph, target: Target, out: Path) -> Artifact:
    """Write the file whose operators have the nearest scales, and measure it under LiteRT."""
    lowered = lower(graph, exact=False)
    (out / VENDOR).write_bytes(lowered.data)
    session = open_session(out / VENDOR, graph)
    try:
        found = msgspec.structs.replace(
            _placement(graph, lowered, target, _NO_OPERATOR), difference=measure(graph, session)
        )
    finally:
        session.close()
    return Artifact(VENDOR, "vendor", Numerics.TOLERANT, placement.write(out / VENDOR, found))


def _placement(graph: Graph, lowered: Lowered, target: Target, reason: str) -> Placement:
    """Say which nodes are one operator with scales, as vendors' compilers map them; the others are left to a CPU."""
    nodes = tuple(
        placed(graph, n, Place.DELEGATE) if n.output in lowered.native else placed(graph, n, Place.CPU, reason)
        for n in graph.nodes
    )
    name = target.npu.accelerator if target is not None and target.npu is not None else "tflite-operators"
    return Placement(name, nodes, untested="" if target is None or target.npu is None else _NO_COMPILER)


def largest_live_bytes(graph: Graph) -> int:
    """Return the largest sum of tensors that are alive at once, in the graph's order: what a planner can not beat."""
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    last |= {p.name: len(graph.nodes) for p in graph.outputs}
    alive = {p.name: p.type.nbytes for p in graph.inputs}
    most = sum(alive.values())
    for i, node in enumerate(graph.nodes):
        alive[node.output] = graph.types[node.output].nbytes
        most = max(most, sum(alive.values()))
        alive = {name: n for name, n in alive.items() if last.get(name, -1) > i}
    return most


def open_session(path: Path, graph: Graph) -> LiteRtSession:
    """Load a ``.tflite`` this converter wrote; FormatError when LiteRT refuses it."""
    return LiteRtSession(path, graph)


__all__ = ["FILE", "VENDOR", "LiteRtSession", "TfliteConverter", "open_session"]
