"""ExecuTorch: an exact ``.pte`` of portable kernels, from the integer graph alone.

    model.pte        the graph in integer torch ops; same bits as the graph, on any ExecuTorch runtime

ExecuTorch: https://pytorch.org/executorch (1.4). Its portable kernels are the reference for every platform it
runs on, so the program is exact wherever it loads.
"""

from importlib.metadata import version
from pathlib import Path

from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.executorch import program
from bitship.converters.executorch.session import ExecutorchSession
from bitship.graph import Graph
from bitship.targets import Target

EXACT = "model.pte"


class ExecutorchConverter:
    """Lowers a graph for ExecuTorch. Same graph, same bytes."""

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write ``model.pte`` below ``out``.

        Raises UnsupportedError for a node without a lowering, MissingDependencyError without executorch.
        """
        program.require("torch")
        program.require("executorch.exir")
        with program.quiet():
            lowered = program.lower(graph)
        out.mkdir(parents=True, exist_ok=True)
        (out / EXACT).write_bytes(lowered.buffer)
        return Conversion(
            files=(EXACT,),
            artifacts=(Artifact(EXACT, "program", Numerics.EXACT),),
            footprint=Footprint(graph.constant_bytes, program.arena_bytes(lowered)),
            tools={name: version(name) for name in ("executorch", "torch")},
        )


def open_session(path: Path, graph: Graph) -> ExecutorchSession:
    """Load a ``.pte`` this converter wrote; FormatError when the runtime refuses it."""
    return ExecutorchSession(path, graph)


__all__ = ["EXACT", "ExecutorchConverter", "open_session"]
