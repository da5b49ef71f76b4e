"""A graph lowered for a core: calls in order, a planned arena, constants laid out in flash."""

from dataclasses import dataclass

from bitship.converters.firmware.cores import Core, lower_for
from bitship.converters.firmware.stage import StageProgram, lower_stage
from bitship.graph import Graph, Node
from bitship.graph.base import as_bytes
from bitship.graph.calls import Call, Operand, Packed, operand_overlaps
from bitship.graph.ops import Concat, Reshape, Slice
from bitship.passes.order import arrange
from bitship.passes.plan import ALIGNMENT, Plan, plan
from bitship.passes.simplify import simplify
from bitship.passes.stage import Stage
from bitship.passes.views import Views, copied


@dataclass(frozen=True)
class Program:
    """A graph lowered to kernel calls in a planned arena, its constants laid out.

    graph    as exported: its ports and its digest
    lowered  the same after ``simplify``: what the calls compute
    calls    (node, its calls) in execution order; a reshape has none, it is its operand's bytes, like other views
    stage    how the first nodes run by tiles; None: whole
    weights  all constants that calls or outputs read, each aligned; offsets  where each begins
    """

    graph: Graph
    lowered: Graph
    calls: tuple[tuple[Node, tuple[Call, ...]], ...]
    plan: Plan
    weights: bytes
    offsets: dict[Operand, int]
    stage: StageProgram | None = None

    @property
    def streamed(self) -> bool:
        """Whether the image arrives by rows."""
        return self.stage is not None and self.stage.stage.streamed

    @property
    def functions(self) -> list[str]:
        """Kernels the calls use, sorted."""
        return sorted({call.function for _, calls in self.calls for call in calls})


def lower_graph(graph: Graph, core: Core, stage: Stage | None = None) -> Program:
    """Lower every node for a core, plan the arena and lay out the constants in order of first use.

    stage  run the first nodes, of ``simplify(graph)``, by tiles; UnsupportedError when the graph cannot
    """

    def lower(graph: Graph, node: Node) -> tuple[Call, ...]:
        return lower_for(core, graph, node)

    exported, graph = graph, simplify(graph)
    calls = tuple((n, () if isinstance(n.op, Reshape) else lower(graph, n)) for n in graph.nodes)
    tiled = None if stage is None else lower_stage(graph, stage, lower)
    scratch = {n.output: max((c.scratch_bytes for c in cs), default=0) for n, cs in calls}
    whole = calls if tiled is None else calls[tiled.stage.nodes :]
    overlaps = {n.output: operand_overlaps(cs) for n, cs in whole}
    if tiled is None:
        ordered, found = arrange(graph, scratch, overlaps)
        by_output = {n.output: _copies(graph, n, cs, found.views) for n, cs in calls}
        calls = tuple((n, by_output[n.output]) for n in ordered.nodes)
    else:
        found = plan(graph, scratch, overlaps=overlaps, held=tiled.held)
    weights, offsets = bytearray(), dict[Operand, int]()
    used: list[Operand] = [
        found.root(o) if isinstance(o, str) else o for _, cs in calls for c in cs for o in c.operands
    ]
    for operand in dict.fromkeys([*used, *(found.root(p.name) for p in graph.outputs)]):
        if isinstance(operand, Packed) or operand in graph.constants:
            weights += bytes(-len(weights) % ALIGNMENT)
            offsets[operand] = len(weights)
            weights += operand.data if isinstance(operand, Packed) else as_bytes(graph.constants[operand])
    return Program(exported, graph, calls, found, bytes(weights), offsets, tiled)


def _copies(graph: Graph, node: Node, calls: tuple[Call, ...], views: Views) -> tuple[Call, ...]:
    """Return a node's calls without those that would copy a tensor to where it already is."""
    if not isinstance(node.op, Concat | Slice):
        return calls
    return tuple(call for call, needed in zip(calls, copied(graph, node, views), strict=True) if needed)
