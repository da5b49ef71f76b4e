"""Pools and sums of int8 for the DSP extension."""

from dataclasses import replace
from math import prod

import numpy as np

from bitship.converters.firmware.cores.epilogues import Form, fit
from bitship.graph import DType, Graph, Node
from bitship.graph.calls import SMALL_TILE, Call, lower
from bitship.graph.calls.overlap import Walk, elementwise_distance, window_distance
from bitship.graph.calls.structs import struct
from bitship.graph.ops import AvgPool2D, MaxPool2D, ReduceSum


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


def reduce_sum(graph: Graph, node: Node) -> Call | None:
    """A sum over neighbouring axes."""
    op, x = node.op, graph.types[node.inputs[0]]
    assert isinstance(op, ReduceSum)
    first, last = op.axes[0], op.axes[-1]
    if x.dtype is not DType.INT8 or len(op.axes) != last + 1 - first or op.requant is None or op.requant.per_channel:
        return None
    outer, count, inner = prod(x.shape[:first]), prod(x.shape[first : last + 1]), prod(x.shape[last + 1 :])
    if count >= 1 << 20:
        return None
    ends = (count * (DType.INT8.qmin - op.input_zero_point), count * (DType.INT8.qmax - op.input_zero_point))
    form = fit(op.requant, np.array([min(*ends, 0)]), np.array([max(*ends, 0)]))
    if form.form is Form.RAW:
        return None
    m, offset, shift = form.factors()[0].tolist()
    params = struct(
        "dsp_sums",
        outer=outer,
        count=count,
        inner=inner,
        added=int(form.added[0]) - count * op.input_zero_point,
        epilogue=int(form.form),
        multiplier=m,
        offset=offset,
        shift=shift,
    )
    # Only where all of a row's elements are read before its one sum is written is the order that of the elements.
    near = elementwise_distance(outer, count, 1, 0) if inner == 1 else None
    return Call("bitship_dsp_reduce_sum", params, node.inputs, node.output, 0, (near,))
