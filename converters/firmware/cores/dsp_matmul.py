"""Products of computed matrices for the DSP extension: the second operand is packed at run time, into scratch."""

from dataclasses import replace
from math import prod

import numpy as np

from bitship.converters.firmware.cores.epilogues import Form, fit, raw
from bitship.graph import DType, Graph, Node
from bitship.graph.base import TensorType
from bitship.graph.calls import SMALL_TILE, Call, lower
from bitship.graph.calls.overlap import Walk, window_distance
from bitship.graph.calls.structs import rescale, struct
from bitship.graph.ops import MatMul, SoftmaxMatMul

ROWS = 4


def _near(a: TensorType, out: TensorType) -> int:
    """Return the distance of the first operand: a block's rows are gathered before its first is written."""
    rows = Walk(prod(a.shape[:2]), prod(a.shape[:2]))
    return window_distance(1, Walk(1, 1), rows, a.shape[2], out.shape[2] * out.dtype.itemsize, lag=0)


def matmul(graph: Graph, node: Node) -> Call | None:
    """A product of two int8 matrices."""
    op, out = node.op, graph.types[node.output]
    assert isinstance(op, MatMul)
    a, b = (graph.types[name] for name in node.inputs)
    if a.dtype is not DType.INT8:
        return None
    (batch, rows, depth), columns, r = a.shape, b.shape[2], op.requant
    most = depth * 255 * 255
    reach = np.array([most], np.int64)
    fits = most < 1 << 31 and (r is None or not r.per_channel)
    form = fit(r, -reach, reach) if fits else raw(1)
    m, offset, shift = form.factors()[0].tolist() if form.form is not Form.RAW else (0, 0, 0)
    params = struct(
        "dsp_matmul",
        batch=batch,
        rows=rows,
        depth=depth,
        columns=columns,
        a_zero_point=op.a_zero_point,
        b_zero_point=op.b_zero_point,
        epilogue=int(form.form),
        added=int(form.added[0]),
        multiplier=m,
        offset=offset,
        shift=shift,
        requant=rescale(r) if form.form is Form.RAW else None,
    )
    quads = -(-depth // 4)
    scratch = columns * (4 + 8 * quads + (0 if form.form is Form.RAW else 12)) + quads * 8 * ROWS
    return Call("bitship_dsp_matmul", params, node.inputs, node.output, scratch, (_near(a, out), None))


def softmax_matmul(graph: Graph, node: Node) -> Call | None:
    """A softmax and a product: the plain kernel's parameters."""
    assert isinstance(node.op, SoftmaxMatMul)
    x, out = graph.types[node.inputs[0]], graph.types[node.output]
    (call,) = lower(graph, node, SMALL_TILE)
    quads = -(-x.shape[2] // 4)
    scratch = out.shape[2] * (4 + 8 * quads) + quads * 8 * ROWS + x.shape[2]
    near = (_near(x, out), None, None)
    return replace(call, function="bitship_dsp_softmax_matmul", scratch_bytes=scratch, overlap=near)
