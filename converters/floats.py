"""What the float forms of a graph have in common, whatever they are written in: reals of constants, steps, limits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitship.converters.scales import Real, affine, epilogue, factors, steepness
from bitship.errors import UnsupportedError
from bitship.graph import Graph, Node, ops
from bitship.graph.base import Array

TO_PLANES = (0, 3, 1, 2)  # [N, H, W, C] to [N, C, H, W]
TO_ROWS = (0, 2, 3, 1)
LEAST_FACTOR = 2.0**-31  # of an accumulator: XNNPACK and CMSIS-NN take no less; sums of int8 products by it round to 0

Reals = Mapping[str, Real]


def reals_of(values: Array, real: Real) -> Array:
    """Return float32 reals of codes."""
    return ((values.astype(np.float64) - real.zero_point) * real.scale).astype(np.float32)


def weights(graph: Graph, reals: Reals, node: Node) -> tuple[Array, Array, Array]:
    """Return (weights as stored, float64 scales, bias) of a layer; the output channel is the first axis of all three.

    The scale of a channel whose results all round to its zero point or bias is raised to what delegates can take.
    Convolutions are [O, I, kh, kw], depthwise ones [C * multiplier, 1, kh, kw]. UnsupportedError where weights or bias
    are computed.
    """
    op, (x, w_name, b_name) = node.op, node.inputs
    if w_name not in graph.constants or b_name not in graph.constants:
        raise UnsupportedError(f"node '{node.output}': weights must be constant")
    w = graph.constants[w_name]
    if isinstance(op, ops.Conv2D):
        w = w.transpose(TO_PLANES)
    elif isinstance(op, ops.DepthwiseConv2D):
        w = w.transpose(2, 3, 0, 1).reshape(-1, 1, *w.shape[:2])
    out, source, real = reals[node.output].scale, reals[x].scale, factors(epilogue(node))
    scales = np.array([max(f, LEAST_FACTOR) * out / source for f in real] * (w.shape[0] // len(real)))
    return w, scales, graph.constants[b_name]


def along_channels(scales: Array, w: Array) -> Array:
    """Return scales in a shape that multiplies weights by their first axis."""
    return scales.reshape(-1, *(1 for _ in w.shape[1:]))


def table(graph: Graph, reals: Reals, node: Node) -> Array:
    """Return the 256 reals of a table's entries, float32; UnsupportedError for a table of int16."""
    entries = graph.constants[node.inputs[1]]
    if entries.size != 256:
        raise UnsupportedError(f"node '{node.output}': a table of int16 has no float form")
    return reals_of(entries, reals[node.output])


def norm(graph: Graph, reals: Reals, node: Node) -> tuple[Array, Array, float]:
    """Return (gain, bias, epsilon) of a norm: float32 [last axis] each, epsilon of the reals' variance."""
    op = node.op
    assert isinstance(op, ops.LayerNorm | ops.RmsNorm)
    gain, bias = affine(graph, node)
    last, scale = graph.types[node.output].shape[-1], reals[node.output].scale
    wide = [np.tile(a * scale, last // a.size).astype(np.float32) for a in (gain, bias)]
    return wide[0], wide[1], max(op.epsilon, 1) * (reals[node.inputs[0]].scale / last) ** 2


def product_factor(reals: Reals, node: Node) -> float:
    """Return what a product of two tensors is multiplied by besides their scales; exactly 1 where it is nearly that."""
    product = reals[node.inputs[0]].scale * reals[node.inputs[1]].scale
    factor = factors(epilogue(node))[0] * reals[node.output].scale / product
    return 1.0 if abs(factor - 1) < 1e-6 else factor


def softmax_step(graph: Graph, reals: Reals, node: Node) -> float:
    """Return what the reals of a softmax's logits are multiplied by; UnsupportedError for a masked one."""
    if isinstance(node.op, ops.TableSoftmax | ops.SoftmaxMatMul) and node.op.masked:
        raise UnsupportedError(f"node '{node.output}': a masked softmax")
    return steepness(graph, node) / reals[node.inputs[0]].scale


def indices(graph: Graph, node: Node) -> Array:
    """Return a gather's indices, int64, clamped to the axis; UnsupportedError for computed ones."""
    op, found = node.op, graph.constants.get(node.inputs[1])
    assert isinstance(op, ops.Gather)
    if found is None:
        raise UnsupportedError(f"node '{node.output}': a gather by computed indices")
    clamped: Array = np.clip(found, 0, graph.types[node.inputs[0]].shape[op.axis] - 1).astype(np.int64)
    return clamped


def code_limits(graph: Graph, node: Node) -> tuple[int, int] | None:
    """Return the least and greatest code of a node's result where its op narrows its dtype's range, else None."""
    op = node.op
    clamping = isinstance(op, ops.Clamp | ops.Rescale | ops.MaxPool2D | ops.AvgPool2D)
    limits: Any = op if clamping else getattr(op, "requant", None)
    dtype = graph.types[node.output].dtype
    if limits is None or (limits.qmin <= dtype.qmin and limits.qmax >= dtype.qmax):
        return None
    return limits.qmin, limits.qmax
