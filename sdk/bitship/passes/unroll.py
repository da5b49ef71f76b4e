"""A stage written out as an ordinary graph of slices, ops and concats, which every converter runs."""

import msgspec

from bitship.graph import Graph, GraphBuilder, Node, ops, verify
from bitship.graph.ops import AnyOp
from bitship.passes.spans import Axis, Region
from bitship.passes.stage import Geometry, Halo, Stage, geometry


def unroll(graph: Graph, stage: Stage) -> Graph:
    """Return a graph that computes the same outputs with its first nodes run by tiles.

    Raises UnsupportedError when the graph cannot run so. The node count grows with the number of tiles.
    """
    g = geometry(graph, stage)
    b = GraphBuilder(graph.name)
    for port in graph.inputs:
        b.input(port.name, port.type.shape, port.type.dtype, port.quant)
    names = {name: b.constant(name, value, graph.packing.get(name)) for name, value in graph.constants.items()}
    names |= {p.name: p.name for p in graph.inputs}
    names[g.output] = _cached(g, b, names) if stage.halo is Halo.CACHED else _recomputed(g, b, names)
    for node in graph.nodes[stage.nodes :]:
        names[node.output] = b.node(node.output, node.op, *(names[i] for i in node.inputs))
    made = b.finish([(names[p.name], p.quant) for p in graph.outputs])
    verify(made)
    return made


def _cut(b: GraphBuilder, name: str, region: Region, within: Region) -> str:
    """Return the part of a tensor, which holds ``within``, that is ``region``."""
    if region == within:
        return name
    shape = b.types[name].shape
    start = (0, region.top - within.top, region.left - within.left, 0)
    return b.node("cut", ops.Slice(start, (1, region.height, region.width, shape[3])), name)


def _run(g: Geometry, b: GraphBuilder, node: Node, operands: dict[str, str], regions: dict[str, Region]) -> str:
    """Return the node's output region, computed from operands that hold their regions."""
    out = regions[node.output]
    given, op = list[str](), node.op
    for name in node.inputs:
        if name not in operands:
            given.append(name)
            continue
        held = regions[name]
        need = g.needed(node, name, out)
        given.append(_cut(b, operands[name], need, held))
        op = _padded(node.op, need, out, *g.axes(node))
    return b.node(node.output, op, *given)


def _padded(op: AnyOp, need: Region, out: Region, rows: Axis, columns: Axis) -> AnyOp:
    """Return a window op whose padding is what the region's borders lack."""
    if not isinstance(op, (ops.Conv2D, ops.DepthwiseConv2D, ops.AvgPool2D, ops.MaxPool2D)):
        return op
    top = need.top - (out.top * rows.stride - rows.before)
    left = need.left - (out.left * columns.stride - columns.before)
    bottom = (out.bottom - 1) * rows.stride - rows.before + rows.extent - need.bottom
    right = (out.right - 1) * columns.stride - columns.before + columns.extent - need.right
    return msgspec.structs.replace(op, padding=(top, bottom, left, right))


def _joined(b: GraphBuilder, parts: list[str], axis: int) -> str:
    return parts[0] if len(parts) == 1 else b.node("joined", ops.Concat(axis), *parts)


def _cached(g: Geometry, b: GraphBuilder, names: dict[str, str]) -> str:
    width = {t: g.extent(t)[1] for t in g.tensors}
    held = {t: ("", Region(0, 0, 0, width[t])) for t in g.tensors}
    whole = Region(0, g.extent(g.source)[0], 0, width[g.source])
    for now in g.strips:
        for name, (base, start, to) in now.items():
            node = next((n for n in g.nodes if n.output == name), None)
            kept_name, kept = held[name]
            parts = []
            if start > base:
                parts.append(_cut(b, kept_name, Region(base, start, 0, width[name]), kept))
            if to > start:
                new = Region(start, to, 0, width[name])
                if node is None:
                    parts.append(_cut(b, names[name], new, whole))
                else:
                    operands = {t: held[t][0] for t in g.operands(node)}
                    regions = {t: held[t][1] for t in g.operands(node)} | {name: new}
                    parts.append(_run(g, b, node, operands, regions))
            if parts:
                held[name] = _joined(b, parts, 1), Region(base, to, 0, width[name])
    return held[g.output][0]


def _recomputed(g: Geometry, b: GraphBuilder, names: dict[str, str]) -> str:
    rows, columns = g.extent(g.source)
    whole = Region(0, rows, 0, columns)
    strips, across = list[str](), list[str]()
    for tile in g.tiles:
        held = {g.source: _cut(b, names[g.source], tile[g.source], whole)}
        for node in g.nodes:
            operands = {t: held[t] for t in g.operands(node)}
            held[node.output] = _run(g, b, node, operands, tile)
        across.append(held[g.output])
        if len(across) == g.steps[1]:
            strips.append(_joined(b, across, 2))
            across = []
    return _joined(b, strips, 1)
