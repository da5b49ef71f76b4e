"""A graph lowered for a core: calls in order, a planned arena, constants laid out in flash."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bitship.converters.firmware.cores import Core, lower_for
from bitship.converters.firmware.stage import StageProgram, lower_stage
from bitship.graph import Graph, Node
from bitship.graph.base import as_bytes
from bitship.graph.calls import Call, Operand, Packed, operand_overlaps
from bitship.graph.ops import Concat, Reshape, Slice
from bitship.passes.order import arrange
from bitship.passes.plan import ALIGNMENT, Plan, plan
from bitship.passes.simplify import simplify
from bitship.passes.spread import Region, spread
from bitship.passes.stage import Stage
from bitship.passes.views import Views, copied


@dataclass(frozen=True)
class Foreign(Call):
    """``function(arguments..., 0, 1)``, compiled by another tool: no parameter struct, no result.

    arguments  in order: a tensor, a constant, or the byte of the node's scratch memory where a part of it begins
    """

    arguments: tuple[Operand | int, ...] = ()


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
        """Kernels of this project's own that the calls use, sorted."""
        own = (call for _, calls in self.calls for call in calls if not isinstance(call, Foreign))
        return sorted({call.function for call in own})

    @cached_property
    def steps(self) -> tuple[tuple[Node, tuple[Call, ...]], ...]:
        """The nodes that run at all, with their calls, in order: a reshape, or a view, does not."""
        return tuple((node, calls) for node, calls in self.calls if calls)

    @property
    def foreign(self) -> list[Foreign]:
        """Calls of functions that another tool compiled, in order."""
        return [call for _, calls in self.calls for call in calls if isinstance(call, Foreign)]


@dataclass(frozen=True)
class Lowered:
    """A graph's calls on one core, after ``simplify``: what every schedule of it shares."""

    graph: Graph
    core: Core
    calls: tuple[tuple[Node, tuple[Call, ...]], ...]

    def stage(self, stage: Stage) -> StageProgram:
        """Lower a stage; UnsupportedError when the graph cannot run so."""
        known = {n.output: (n, calls) for n, calls in self.calls}

        def lower(graph: Graph, node: Node) -> tuple[Call, ...]:
            whole, calls = known[node.output]
            return calls if node is whole else lower_for(self.core, graph, node)

        return lower_stage(self.graph, stage, lower)

    def plan(
        self, tiled: StageProgram | None, exact: bool = True, regions: Sequence[Region] = ()
    ) -> tuple[tuple[Node, ...], Plan]:
        """Return the nodes in the order they run, and the arena; without ``exact`` in the given order, by first fit.

        regions  memories for tensors, in order of speed, where there is more than one; a stage stays in the RAM
        """
        overlaps = self._overlaps(0 if tiled is None else tiled.stage.nodes)
        if exact and tiled is None:
            ordered, found = self._arranged
            return ordered.nodes, spread(ordered, found, overlaps, regions) if len(regions) > 1 else found
        held = None if tiled is None else tiled.held
        return self.graph.nodes, plan(self.graph, self._scratch, overlaps=overlaps, held=held, exact=exact)

    def _overlaps(self, first: int) -> dict[str, dict[str, int]]:
        return {n.output: operand_overlaps(cs) for n, cs in self.calls[first:]}

    @cached_property
    def _scratch(self) -> dict[str, int]:
        return {n.output: max((c.scratch_bytes for c in cs), default=0) for n, cs in self.calls}

    @cached_property
    def _arranged(self) -> tuple[Graph, Plan]:
        """The whole graph in its best order, in one arena: the solver runs once."""
        return arrange(self.graph, self._scratch, self._overlaps(0))


def step_of(program: Program, node: Node) -> int:
    """Return a node's place among the steps."""
    return next(i for i, (n, _) in enumerate(program.steps) if n.output == node.output)


def lower_calls(graph: Graph, core: Core) -> Lowered:
    """Simplify the graph and lower every node; UnsupportedError for what no kernel takes."""
    graph = simplify(graph)
    calls = tuple((n, () if isinstance(n.op, Reshape) else lower_for(core, graph, n)) for n in graph.nodes)
    return Lowered(graph, core, calls)


def lower_graph(graph: Graph, core: Core, stage: Stage | None = None, regions: Sequence[Region] = ()) -> Program:
    """Lower every node for a core, plan the arena and lay out the constants in order of first use.

    stage  run the first nodes, of ``simplify(graph)``, by tiles; UnsupportedError when the graph cannot
    regions  as ``Lowered.plan``'s
    """
    return assemble(graph, lower_calls(graph, core), stage, regions)


def assemble(exported: Graph, lowered: Lowered, stage: Stage | None = None, regions: Sequence[Region] = ()) -> Program:
    """Plan the arena of lowered calls and lay out their constants."""
    graph = lowered.graph
    tiled = None if stage is None else lowered.stage(stage)
    nodes, found = lowered.plan(tiled, regions=regions)
    by_output = {n.output: cs for n, cs in lowered.calls}
    calls = tuple((n, _copies(graph, n, by_output[n.output], found.views)) for n in nodes)
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
