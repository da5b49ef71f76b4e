"""A graph without the work that a converter can leave out: the same outputs, bit for bit, from fewer nodes."""

from collections.abc import Callable

import msgspec

from bitship.graph import Graph, Node, ops, verify

_WINDOWS = (ops.Conv2D, ops.DepthwiseConv2D)


def simplify(graph: Graph) -> Graph:
    """Return the graph after every rewrite below, until none applies; verified, when it is another."""
    found = graph
    while True:
        before = found
        for step in _STEPS:
            found = step(found)
        if found is before:
            break
    if found is not graph:
        verify(found)
    return found


def fold_pads(graph: Graph) -> Graph:
    """Take a ``pad`` of rows and columns by the input zero point into the convolutions that read it."""
    pads = {n.output: n for n in graph.nodes if isinstance(n.op, ops.Pad) and _borders(n)}
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in set(node.inputs) & pads.keys():
            readers.setdefault(name, []).append(node)
    outputs = {p.name for p in graph.outputs}
    folded = {
        name
        for name, pad in pads.items()
        if name not in outputs and all(_folds(pad, node) for node in readers.get(name, []))
    }

    def rewritten(node: Node) -> Node:
        if node.inputs and node.inputs[0] in folded:
            return _padded(pads[node.inputs[0]], node)
        return node

    if not folded:
        return graph
    return graph.with_nodes(tuple(rewritten(n) for n in graph.nodes if n.output not in folded))


def _borders(node: Node) -> bool:
    """Whether a pad adds rows and columns alone."""
    assert isinstance(node.op, ops.Pad)
    pairs = node.op.padding
    return len(pairs) == 4 and pairs[0] == pairs[3] == (0, 0)


def _folds(pad: Node, node: Node) -> bool:
    """Whether the node is a convolution of the padded tensor that takes its padding to be the pad's value."""
    assert isinstance(pad.op, ops.Pad)
    first = node.inputs[0] == pad.output and pad.output not in node.inputs[1:]
    return first and isinstance(node.op, _WINDOWS) and node.op.input_zero_point == pad.op.value


def _padded(pad: Node, node: Node) -> Node:
    assert isinstance(pad.op, ops.Pad)
    assert isinstance(node.op, _WINDOWS)
    rows, columns = pad.op.padding[1:3]
    padding = tuple(a + b for a, b in zip(node.op.padding, (*rows, *columns), strict=True))
    return Node(msgspec.structs.replace(node.op, padding=padding), (*pad.inputs, *node.inputs[1:]), node.output)


def name_copies(graph: Graph) -> Graph:
    """Call every node that moves no byte a reshape, which costs nothing: a transpose of ones, a slice of all."""

    def renamed(node: Node) -> Node:
        shape = graph.types[node.output].shape
        return Node(ops.Reshape(shape), node.inputs[:1], node.output) if _is_copy(graph, node) else node

    nodes = tuple(renamed(n) for n in graph.nodes)
    return graph if nodes == graph.nodes else graph.with_nodes(nodes)


def _is_copy(graph: Graph, node: Node) -> bool:
    match node.op:
        case ops.Transpose(perm):
            shape = graph.types[node.inputs[0]].shape
            moved = [axis for axis in perm if shape[axis] != 1]
            return moved == sorted(moved)
        case ops.Slice():
            return graph.types[node.output] == graph.types[node.inputs[0]]
        case ops.Pad(padding):
            return not any(n for pair in padding for n in pair)
        case ops.Concat():
            return len(node.inputs) == 1
        case ops.Cast():
            return graph.types[node.output] == graph.types[node.inputs[0]]
    return False


def drop_dead_nodes(graph: Graph) -> Graph:
    """Drop nodes whose result nothing reads."""
    wanted = {p.name for p in graph.outputs}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output in wanted:
            kept.append(node)
            wanted.update(node.inputs)
    return graph if len(kept) == len(graph.nodes) else graph.with_nodes(tuple(reversed(kept)))


_STEPS: tuple[Callable[[Graph], Graph], ...] = (name_copies, fold_pads, drop_dead_nodes)
