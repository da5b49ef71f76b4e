"""Pools of int8 for the DSP extension."""

from dataclasses import replace

from bitship.graph import DType, Graph, Node
from bitship.graph.calls import SMALL_TILE, Call, lower
from bitship.graph.calls.overlap import Walk, window_distance
from bitship.graph.ops import AvgPool2D, MaxPool2D


def pool(graph: Graph, node: Node) -> Call | None:
    """An average or a maximum: the plain kernel's parameters."""
    op, x, out = node.op, graph.types[node.inputs[0]], graph.types[node.output]
    assert isinstance(op, AvgPool2D | MaxPool2D)
    if x.dtype is not DType.INT8:
        return None
    (call,) = lower(graph, node, SMALL_TILE)
    rows = Walk(x.shape[1], out.shape[1], op.stride[0], op.padding[0])
    columns = Walk(x.shape[2], out.shape[2], op.stride[1], op.padding[2])
    near = window_distance(x.shape[0], rows, columns, x.shape[3], x.shape[3], lag=1)
    return replace(call, function=f"bitship_dsp_{op.name}", overlap=(near,))
