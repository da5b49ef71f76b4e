"""ExecuTorch: an exact ``.pte`` of portable kernels, from the integer graph alone, and faster ones for delegates.

    model.pte                          the graph in integer torch ops; same bits as the graph, on any ExecuTorch runtime
    model.DELEGATE.pte                 the graph as (dequantize, float op, quantize), delegated; close, not the same
    model.DELEGATE.pte.placement.json  where its nodes run, and how close it is where that can be measured here
    skipped.json                     for delegates without a program: why

ExecuTorch: https://pytorch.org/executorch (1.4).
"""

import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from bitship.converters import placement
from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.executorch import delegates, program
from bitship.converters.executorch.session import ExecutorchSession
from bitship.converters.measure import measure
from bitship.errors import BitshipError
from bitship.extras import quiet
from bitship.graph import Graph
from bitship.targets import Delegate, Target

EXACT = "model.pte"


def _kept(graph: Graph) -> Graph:
    """Return the graph with those constants packed that the program keeps in four bits."""
    from bitship.converters.executorch.values import worth_packing

    few = {n: p for n, p in graph.packing.items() if worth_packing(graph.constants[n], p)}
    return dataclasses.replace(graph, packing=few)


class ExecutorchConverter:
    """Lowers a graph for ExecuTorch. Same graph, same programs.

    delegates  which get a program of their own; the target's, or XNNPACK, when None. One that cannot have a program
               is no error: ``skipped.json`` gives the reason
    """

    def __init__(self, delegates: Sequence[Delegate] | None = None) -> None:
        self.delegates = delegates

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
        files, artifacts, skipped = [EXACT], [Artifact(EXACT, "program", Numerics.EXACT)], []
        wanted = self.delegates
        for delegate in (target.delegates or (Delegate.XNNPACK,)) if wanted is None else wanted:
            try:
                artifact = _delegated(graph, delegate, target, out)
            except BitshipError as e:
                skipped.append(placement.Skipped(delegate.value, str(e)))
                continue
            artifacts.append(artifact)
            files += [artifact.path, artifact.placement]
        if skipped:
            files.append(placement.write_skipped(out, skipped))
        return Conversion(
            files=tuple(sorted(files)),
            artifacts=tuple(artifacts),
            footprint=Footprint(_kept(graph).constant_bytes, program.arena_bytes(lowered)),
            tools={name: version(name) for name in ("executorch", "torch")},
        )


def _delegated(graph: Graph, delegate: Delegate, target: Target, out: Path) -> Artifact:
    """Write one delegate's program and its placement; measured where the delegate runs here."""
    lowered = delegates.lower(graph, delegate, target.cpu)
    path = out / f"model.{delegate.value}.pte"
    path.write_bytes(lowered.buffer)
    found, numerics = lowered.placement, Numerics.TOLERANT
    if delegates.DELEGATES[delegate].runs:
        session = open_session(path, graph)
        try:
            found = msgspec.structs.replace(found, difference=measure(graph, session))
        finally:
            session.close()
    return Artifact(path.name, delegate.value, numerics, placement.write(path, found))


def open_session(path: Path, graph: Graph) -> ExecutorchSession:
    """Load a ``.pte`` this converter wrote; FormatError when the runtime refuses it."""
    return ExecutorchSession(path, graph)


__all__ = ["EXACT", "ExecutorchConverter", "ExecutorchSession", "open_session"]
