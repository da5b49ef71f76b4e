"""What needs no kernel of its own: layout changes that a product reads or writes through, tables behind a product.

A transpose, slice or reshape whose every reader can follow strides is only a way to address its operand's memory.
A transpose that is the only reader of a product is where the product writes. A table of 256 entries that is the only
reader of an int8 result is applied before that is stored. None of this changes a bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bitship.graph import Graph, Node
from bitship.graph import ops as o
from bitship.graph.base import Array
from bitship.graph.dtypes import DType

Pattern = np.ndarray[tuple[int, ...], np.dtype[np.int8]]

_LAYOUT = (o.Transpose, o.Slice, o.Reshape)
_BEFORE_TABLE = (o.Conv2D, o.DepthwiseConv2D, o.FullyConnected, o.MatMul, o.SoftmaxMatMul, o.LayerNorm, o.RmsNorm)


@dataclass(frozen=True)
class View:
    """Where a tensor's elements lie in another's memory: element i at ``offset + strides . i``."""

    root: str
    offset: int
    strides: tuple[int, ...]


@dataclass
class Shortcuts:
    """What lowering leaves out.

    views    tensors read through strides, by name
    placed   how a product's result is strided in memory, by the product's output
    tables   the entries a result passes through before it is stored, by the output of the op before the table
    aliases  tensors without memory of their own, and whose memory they are
    """

    views: dict[str, View] = field(default_factory=dict)
    placed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tables: dict[str, Array] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


def shortcuts(graph: Graph) -> Shortcuts:
    """Find all of them."""
    found = Shortcuts()
    uses = _uses(graph)
    _read_through(graph, uses, found)
    for node in graph.nodes:
        _write_through(graph, node, uses, found)
    return found


def _uses(graph: Graph) -> Mapping[str, list[tuple[Node, int]]]:
    """Return every reader of every tensor as (node, operand index); a graph output counts twice."""
    uses: dict[str, list[tuple[Node, int]]] = {name: [] for name in graph.types}
    for node in graph.nodes:
        for i, name in enumerate(node.inputs):
            uses[name].append((node, i))
    for port in graph.outputs:
        output = Node(o.Reshape(port.type.shape), (port.name,), "")
        uses[port.name] += [(output, 0)] * 2
    return uses


def _pattern(shape: tuple[int, ...]) -> Pattern:
    """Return an array of one byte per element, to ask NumPy where a view's elements lie."""
    return np.empty(shape, np.int8)


def _seen_through(node: Node, x: Pattern) -> Pattern | None:
    """Return a layout op's result as a view of its operand, None when that takes a copy."""
    match node.op:
        case o.Transpose(perm=perm):
            return x.transpose(perm)
        case o.Slice() as s:
            ends = zip(s.start, s.size, s.steps(), strict=True)
            return x[tuple(slice(a, a + (n - 1) * step + 1, step) for a, n, step in ends)]
        case o.Reshape(shape=shape):
            return _reshaped(x, shape)
    return None


def _reshaped(x: Pattern, shape: tuple[int, ...]) -> Pattern | None:
    view = x.reshape(shape)
    return view if np.may_share_memory(view, x) else None


def _read_through(graph: Graph, uses: Mapping[str, list[tuple[Node, int]]], found: Shortcuts) -> None:
    patterns: dict[str, tuple[str, Pattern, Pattern]] = {}
    for node in graph.nodes:
        if isinstance(node.op, _LAYOUT) and node.inputs[0] not in graph.constants:
            source = node.inputs[0]
            if source not in patterns:
                whole = _pattern(graph.types[source].shape)
                patterns[source] = (source, whole, whole)
            root, whole, x = patterns[source]
            view = _seen_through(node, x)
            if view is not None:
                patterns[node.output] = (root, whole, view)
    kept: dict[str, bool] = {}
    for node in reversed(graph.nodes):
        if isinstance(node.op, _LAYOUT) and node.output in patterns:
            view = patterns[node.output][2]
            kept[node.output] = all(
                kept.get(n.output, False) if isinstance(n.op, _LAYOUT) else _follows(n, i, view.strides)
                for n, i in uses[node.output]
            )
    for node in graph.nodes:
        if not kept.get(node.output, False):
            continue
        if isinstance(node.op, o.Reshape) and node.inputs[0] not in found.views:
            continue  # its operand's memory as it is
        root, whole, view = patterns[node.output]
        offset = view.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        found.views[node.output] = View(root, offset, view.strides)
        found.aliases[node.output] = root


def _follows(node: Node, operand: int, strides: tuple[int, ...]) -> bool:
    """Whether an op's kernel reads this operand through strides."""
    match node.op:
        case o.MatMul():
            return strides[2] == 1 or (operand == 1 and strides[1] == 1)
        case o.SoftmaxMatMul():
            return operand == 1 and 1 in strides[1:]
    return False


def _only_reader(uses: Mapping[str, list[tuple[Node, int]]], name: str) -> Node | None:
    return uses[name][0][0] if len(uses[name]) == 1 else None


def _write_through(graph: Graph, node: Node, uses: Mapping[str, list[tuple[Node, int]]], found: Shortcuts) -> None:
    if not isinstance(node.op, _BEFORE_TABLE):
        return
    reader = _only_reader(uses, node.output)
    while reader is not None and isinstance(reader.op, o.Reshape):
        reader = _only_reader(uses, reader.output)
    if reader is not None and isinstance(reader.op, o.Table):
        table = graph.constants.get(reader.inputs[1])
        types = (graph.types[node.output].dtype, graph.types[reader.output].dtype)
        if table is not None and types == (DType.INT8, DType.INT8):
            found.tables[node.output] = table
            found.aliases[reader.output] = node.output
    if isinstance(node.op, o.MatMul | o.SoftmaxMatMul) and node.output not in found.tables:
        _write_transposed(graph, node, uses, found)


def _write_transposed(graph: Graph, node: Node, uses: Mapping[str, list[tuple[Node, int]]], found: Shortcuts) -> None:
    chain: list[Node] = []
    if any(view.root == node.output for view in found.views.values()):
        return
    reader = _only_reader(uses, node.output)
    while reader is not None and isinstance(reader.op, o.Transpose | o.Reshape):
        chain.append(reader)
        reader = _only_reader(uses, reader.output)
    while chain and isinstance(chain[-1].op, o.Reshape):
        chain.pop()
    if not chain:
        return
    view: Pattern | None = _pattern(graph.types[chain[-1].output].shape)
    for step in reversed(chain):
        assert view is not None
        if isinstance(step.op, o.Transpose):
            view = view.transpose(tuple(int(i) for i in np.argsort(step.op.perm)))
        else:
            view = _reshaped(view, graph.types[step.inputs[0]].shape)
        if view is None:
            return
    if view is not None and view.strides[-1] == 1:
        found.placed[node.output] = view.strides
        found.aliases.update((step.output, node.output) for step in chain)
