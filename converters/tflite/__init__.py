"""TFLite: the graph as a ``.tflite`` of integer operators whose bits are the graph's under LiteRT's reference kernels.

    model.tflite  one operator for one node where real scales give its multipliers, integer primitives elsewhere

LiteRT: https://ai.google.dev/edge/litert.
"""

from importlib.metadata import version
from pathlib import Path

from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.tflite.lower import lower
from bitship.converters.tflite.session import LiteRtSession
from bitship.graph import Graph
from bitship.passes.int4 import unpacked
from bitship.targets import Target

FILE = "model.tflite"


class TfliteConverter:
    """Lowers a graph to a .tflite file. Same graph, same bytes."""

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write the file below ``out``; UnsupportedError names a node without an exact form."""
        data = lower(graph).data
        out.mkdir(parents=True, exist_ok=True)
        (out / FILE).write_bytes(data)
        return Conversion(
            files=(FILE,),
            artifacts=(Artifact(FILE, "tflite", Numerics.EXACT),),
            footprint=Footprint(unpacked(graph).constant_bytes, largest_live_bytes(graph)),
            tools={"ai-edge-litert": version("ai-edge-litert")},
        )


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


__all__ = ["FILE", "LiteRtSession", "TfliteConverter", "open_session"]
