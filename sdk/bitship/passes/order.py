"""The order of operators: the one whose fullest step holds the fewest bytes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from bitship.graph import Graph
from bitship.passes.exact import step_bytes
from bitship.passes.plan import ALIGNMENT, Plan, all_views, allowed_overlaps, plan
from bitship.passes.views import View, Views, candidates, joined

WORK_MAX = 1_000_000  # buffers looked at, a fraction of a second, before the given order is kept
FEW_NODES = 100  # of a graph whose every choice of views gets the best placement, not first fit
GROUPS_MAX = 48  # concats and slices tried one by one


@dataclass(frozen=True)
class _Buffers:
    """What memory a graph's nodes need, nodes being bits of a mask.

    size     bytes by buffer; readers  of every buffer; made  by which nodes (none: an input); kept  to the end
    output   the buffer that a node makes; scratch  its bytes
    sharing  by node, by operand's buffer: distance
    """

    size: Mapping[str, int]
    readers: Mapping[str, int]
    made: Mapping[str, int]
    kept: frozenset[str]
    output: tuple[str, ...]
    scratch: tuple[int, ...]
    sharing: tuple[Mapping[str, int], ...]

    def bytes_at(self, done: int, node: int) -> int:
        """Return the bytes held while ``node`` runs after the nodes of ``done``."""
        after = done | 1 << node
        alive = {}
        for name, size in self.size.items():
            made = self.made[name]
            begun = not made or made & after
            if begun and (name in self.kept or self.readers[name] & ~done or made & 1 << node):
                alive[name] = size
        output = self.output[node]
        may = {n: d for n, d in self.sharing[node].items() if n in alive and not self.readers[n] & ~after}
        fresh = output in alive and self.made[output] and not self.made[output] & done
        may = {n: d for n, d in may.items() if fresh and n not in self.kept and n != output}
        return step_bytes(alive, output, may) + self.scratch[node]


class _Path(NamedTuple):
    """The best way to a set of executed nodes: the fullest step's bytes, the nodes in order."""

    peak: int
    order: tuple[int, ...]


class Arrangement(NamedTuple):
    """An order, the views in it, and its plan."""

    graph: Graph
    views: Views
    plan: Plan


def reorder(
    graph: Graph,
    scratch: Mapping[str, int],
    overlaps: Mapping[str, Mapping[str, int]],
    views: Views | None = None,
    alignment: int = ALIGNMENT,
) -> Graph:
    """Return the graph with its nodes in an order of least peak; the given order where none is better.

    Exact, by dynamic programming over the sets of nodes that can have run, as long as there are not too many of them.
    Parameters as ``plan``'s.
    """
    buffers = _buffers(graph, scratch, all_views(graph, {}, views or {}), overlaps, alignment)
    count = len(graph.nodes)
    given = max((buffers.bytes_at((1 << i) - 1, i) for i in range(count)), default=0)
    needs = _needs(graph)
    level = {0: _Path(0, ())}
    work = 0
    for _ in range(count):
        following: dict[int, _Path] = {}
        for done, path in level.items():
            for node in _ready(done, needs):
                work += len(buffers.size)
                peak = max(path.peak, buffers.bytes_at(done, node))
                after, found = done | 1 << node, _Path(peak, (*path.order, node))
                if peak < given and (after not in following or found < following[after]):
                    following[after] = found
                if work > WORK_MAX:
                    return graph
        if not following:
            return graph
        level = following
    (best,) = level.values()
    return replace(graph, nodes=tuple(graph.nodes[i] for i in best.order))


def arrange(
    graph: Graph,
    scratch: Mapping[str, int],
    overlaps: Mapping[str, Mapping[str, int]],
    alignment: int = ALIGNMENT,
) -> tuple[Graph, Plan]:
    """Return the graph in the better of two orders, the given one and that of ``reorder``, and its plan.

    Concats and slices are views where that needs no more memory. Parameters as ``plan``'s.
    """

    def planned(order: Graph, views: Views, exact: bool = True) -> Arrangement:
        return Arrangement(order, views, plan(order, scratch, alignment, overlaps=overlaps, views=views, exact=exact))

    def with_views(order: Graph) -> Arrangement:
        best = planned(order, {}, exact=few)
        quick = not best.plan.optimal  # or every choice would take seconds
        for group in groups:
            views = joined(graph, all_views(graph, {}, best.views), group)
            found = planned(order, views, exact=not quick)
            if found.plan.peak <= best.plan.peak:
                best = found
        return planned(order, best.views) if quick else best

    few = len(graph.nodes) <= FEW_NODES

    groups = candidates(graph, alignment)
    if len(groups) > 1:  # all at once, then one by one
        groups = [{name: view for group in groups for name, view in group.items()}, *groups[:GROUPS_MAX]]
    found = [with_views(graph)]
    for views in ({}, found[0].views) if found[0].views else ({},):
        order = reorder(graph, scratch, overlaps, views, alignment)
        if order is not graph:
            found.append(with_views(order))
    best = min(found, key=lambda a: a.plan.peak)
    return best.graph, best.plan


def _needs(graph: Graph) -> list[int]:
    """Return for every node the nodes it reads from."""
    makers = {n.output: 1 << i for i, n in enumerate(graph.nodes)}
    return [sum({makers[i] for i in n.inputs if i in makers}) for n in graph.nodes]


def _ready(done: int, needs: list[int]) -> Iterator[int]:
    for node, before in enumerate(needs):
        if not done >> node & 1 and not before & ~done:
            yield node


def _buffers(
    graph: Graph,
    scratch: Mapping[str, int],
    known: Views,
    overlaps: Mapping[str, Mapping[str, int]],
    alignment: int,
) -> _Buffers:
    def rounded(nbytes: int) -> int:
        return -(-nbytes // alignment) * alignment

    def root(name: str) -> str:
        return known.get(name, View(name)).buffer

    inputs = {root(p.name) for p in graph.inputs}
    tensors = [*(p.name for p in graph.inputs), *(n.output for n in graph.nodes)]
    size = {name: rounded(graph.types[name].nbytes) for name in tensors if name not in known}
    readers, made = dict.fromkeys(size, 0), dict.fromkeys(size, 0)
    for i, node in enumerate(graph.nodes):
        for name in node.inputs:
            if root(name) in size:
                readers[root(name)] |= 1 << i
        if root(node.output) in size and root(node.output) not in inputs:
            made[root(node.output)] |= 1 << i
    return _Buffers(
        size,
        readers,
        made,
        frozenset(root(p.name) for p in graph.outputs),
        tuple(root(n.output) for n in graph.nodes),
        tuple(rounded(scratch.get(n.output, 0)) for n in graph.nodes),
        tuple(allowed_overlaps(n, known, overlaps) for n in graph.nodes),
    )
