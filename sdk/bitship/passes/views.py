"""Tensors that need no memory of their own: reshapes, parts of a concat written in place, slices read in place."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

from bitship.graph import Graph, Node
from bitship.graph.ops import Concat, Reshape, Slice


class View(NamedTuple):
    """A tensor's bytes: those of ``buffer`` from byte ``shift`` on."""

    buffer: str
    shift: int = 0


Views = Mapping[str, View]


def resolve(views: dict[str, View]) -> dict[str, View]:
    """Follow views of views down to the buffers."""

    def follow(view: View) -> View:
        while view.buffer in views:
            below = views[view.buffer]
            view = View(below.buffer, view.shift + below.shift)
        return view

    return {name: follow(view) for name, view in views.items()}


def reshapes(graph: Graph) -> dict[str, View]:
    """Return the views that cost nothing and never hurt."""
    return {n.output: View(n.inputs[0]) for n in graph.nodes if isinstance(n.op, Reshape)}


def candidates(graph: Graph, alignment: int) -> list[dict[str, View]]:
    """Return groups of further views, each of one concat or slice: worthwhile or not, the plan has to say.

    A view begins on the alignment, as kernels expect of every tensor. Constants stay where they are.
    """
    found = []
    for node in graph.nodes:
        match node.op:
            case Concat(axis):
                group = _parts(graph, node, axis, alignment)
            case Slice():
                group = _cut(graph, node, alignment)
            case _:
                continue
        if group:
            found.append(group)
    return found


def _parts(graph: Graph, node: Node, axis: int, alignment: int) -> dict[str, View]:
    """Return a concat's operands as parts of it, where they follow one another whole."""
    if prod(graph.types[node.inputs[0]].shape[:axis]) != 1:
        return {}
    group: dict[str, View] = {}
    shift = 0
    for name in node.inputs:
        if name not in graph.constants and shift % alignment == 0 and name not in group:
            group[name] = View(node.output, shift)
        shift += graph.types[name].nbytes
    return group


def _cut(graph: Graph, node: Node, alignment: int) -> dict[str, View]:
    """Return a slice as a part of its operand, where its elements follow one another."""
    op = node.op
    assert isinstance(op, Slice)
    x, out = graph.types[node.inputs[0]], graph.types[node.output]
    cut = [i for i, (a, b) in enumerate(zip(x.shape, out.shape, strict=True)) if a != b]
    if node.inputs[0] in graph.constants or not cut or any(s != 1 for s in op.steps()):
        return {}
    if prod(out.shape[: cut[-1]]) != 1:
        return {}
    shift = _start(graph, node)
    return {node.output: View(node.inputs[0], shift)} if shift % alignment == 0 else {}


def _start(graph: Graph, node: Node) -> int:
    """Return the byte of its operand that a slice begins with."""
    assert isinstance(node.op, Slice)
    x = graph.types[node.inputs[0]]
    return sum(a * prod(x.shape[i + 1 :]) for i, a in enumerate(node.op.start)) * x.dtype.itemsize


def joined(graph: Graph, views: Views, group: Views) -> dict[str, View]:
    """Return the resolved views with those of a group that do not contradict them.

    A tensor that is all of another's bytes (a reshape) makes the other the view.
    """
    made = dict(views)
    for name, view in group.items():
        root, shift = made.get(name, View(name))
        target = resolve({**made, "": view})[""]
        whole = root not in graph.constants and graph.types[root].nbytes == graph.types[name].nbytes
        if whole and not shift and root != target.buffer:
            made[root] = target
            made = resolve(made)
    return made


def copied(graph: Graph, node: Node, views: Views) -> Sequence[bool]:
    """Return for every operand of a concat, or the one of a slice, whether it still has to be copied."""
    to = views.get(node.output, View(node.output))
    if isinstance(node.op, Slice):
        x = views.get(node.inputs[0], View(node.inputs[0]))
        return [not _cut(graph, node, 1) or to != View(x.buffer, x.shift + _start(graph, node))]
    shift, result = 0, []
    for name in node.inputs:
        result.append(views.get(name) != View(to.buffer, to.shift + shift))
        shift += graph.types[name].nbytes
    return result
