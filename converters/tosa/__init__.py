"""TOSA: the integer graph as a TOSA 1.0 program of the integer profile, and its judge, TOSA's own reference model.

    model.tosa  a flatbuffer; same bits as the graph in whatever computes TOSA's integers as they are specified

TOSA: https://www.mlplatform.org/tosa (1.0); needs the extensions int16, doubleround.
"""

from importlib.metadata import version
from pathlib import Path

from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.tosa import emitter, program
from bitship.converters.tosa.session import TosaSession
from bitship.graph import Graph
from bitship.targets import Target

MODEL = "model.tosa"


class TosaConverter:
    """Lowers a graph to TOSA. Same graph, same bytes."""

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write the program below ``out``.

        Raises UnsupportedError for a node that TOSA's integers cannot hold, MissingDependencyError without tosa-tools.
        """
        emitter.serializer()
        body = program.emit(graph).finish()
        out.mkdir(parents=True, exist_ok=True)
        (out / MODEL).write_bytes(body)
        arena = max((t.nbytes for n, t in graph.types.items() if n not in graph.constants), default=0)
        return Conversion(
            files=(MODEL,),
            artifacts=(Artifact(MODEL, "program", Numerics.EXACT),),
            footprint=Footprint(len(body), arena),
            tools={"tosa-tools": version("tosa-tools")},
        )


def open_session(path: Path, graph: Graph) -> TosaSession:
    """Load a program this converter wrote; FormatError when it is none."""
    return TosaSession(path, graph)


__all__ = ["MODEL", "TosaConverter", "open_session"]
