"""ExecuTorch: an exact ``.pte`` of portable kernels, from the integer graph alone, and a fast one where XNNPACK can.

    model.pte          the graph in integer torch ops; same bits as the graph, on any ExecuTorch runtime
    model.xnnpack.pte  the graph as (dequantize, float op, quantize), delegated; its bits are close, not the same
    xnnpack.json       how close, measured on random inputs; or why there is no such program

ExecuTorch: https://pytorch.org/executorch (1.4).
"""

from importlib.metadata import version
from pathlib import Path

import msgspec

from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.executorch import program, xnnpack
from bitship.converters.executorch.session import ExecutorchSession
from bitship.converters.measure import Difference, measure
from bitship.errors import BitshipError
from bitship.extras import quiet
from bitship.graph import Graph
from bitship.targets import Target

EXACT = "model.pte"
FAST = "model.xnnpack.pte"
NOTE = "xnnpack.json"


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``xnnpack.json`` says: the difference, or why there is no such program."""

    delegates: int = 0
    difference: Difference | None = None
    skipped: str | None = None


class ExecutorchConverter:
    """Lowers a graph for ExecuTorch. Same graph, same programs.

    delegate  whether to try the XNNPACK program as well; its absence is no error, ``xnnpack.json`` gives the reason
    """

    def __init__(self, delegate: bool = True) -> None:
        self.delegate = delegate

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write the programs below ``out``; the exact one comes first.

        Raises UnsupportedError for a node without a lowering, MissingDependencyError without executorch.
        """
        program.require("torch")
        program.require("executorch.exir")
        with quiet():
            lowered = program.lower(graph)
        out.mkdir(parents=True, exist_ok=True)
        (out / EXACT).write_bytes(lowered.buffer)
        files, artifacts = [EXACT], [Artifact(EXACT, "program", Numerics.EXACT)]
        if self.delegate:
            note = _delegated(graph, out)
            (out / NOTE).write_bytes(msgspec.json.format(msgspec.json.encode(note), indent=2) + b"\n")
            files.append(NOTE)
            if note.skipped is None:
                files.append(FAST)
                artifacts.append(Artifact(FAST, "xnnpack", Numerics.TOLERANT))
        return Conversion(
            files=tuple(sorted(files)),
            artifacts=tuple(artifacts),
            footprint=Footprint(graph.constant_bytes, program.arena_bytes(lowered)),
            tools={name: version(name) for name in ("executorch", "torch")},
        )


def _delegated(graph: Graph, out: Path) -> Note:
    """Write and measure the XNNPACK program; a reason instead where there is none.

    The delegate's own lowering raises whatever it likes on a graph it cannot take, so everything is caught here.
    """
    path = out / FAST
    try:
        with quiet():
            lowered = xnnpack.lower(graph)
        if not xnnpack.delegates(lowered):
            return Note(skipped="XNNPACK takes no part of this graph")
        path.write_bytes(lowered.buffer)
        session = open_session(path, graph)
        try:
            return Note(xnnpack.delegates(lowered), measure(graph, session))
        finally:
            session.close()
    except BitshipError as e:
        path.unlink(missing_ok=True)
        return Note(skipped=str(e))
    except Exception as e:
        path.unlink(missing_ok=True)
        return Note(skipped=f"XNNPACK's lowering stopped: {type(e).__name__}")


def open_session(path: Path, graph: Graph) -> ExecutorchSession:
    """Load a ``.pte`` this converter wrote; FormatError when the runtime refuses it."""
    return ExecutorchSession(path, graph)


__all__ = ["EXACT", "FAST", "NOTE", "Difference", "ExecutorchConverter", "Note", "measure", "open_session"]
