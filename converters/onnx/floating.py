"""One function per op of the graph: its float form in ONNX, between dequantized operands."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bitship.converters import floats
from bitship.converters.onnx.qdq import Builder
from bitship.errors import UnsupportedError
from bitship.graph import Node, ops

_COORDINATES: dict[str, Callable[[int, int, int], float]] = {
    "asymmetric": lambda i, n, m: i * n / m,
    "half_pixel": lambda i, n, m: (i + 0.5) * n / m - 0.5,
    "align_corners": lambda i, n, m: i * (n - 1) / (m - 1) if m > 1 else 0.0,
}


def _pads(padding: Sequence[int]) -> list[int]:
    top, bottom, left, right = padding
    return [top, left, bottom, right]


def _convolution(k: Builder, node: Node) -> str:
    op: Any = node.op
    groups = op.groups if isinstance(op, ops.Conv2D) else k.shape(node.inputs[0])[3]
    weights, bias = k.weights(node)
    shape = k.shape(node.inputs[1])
    kernel = shape[1:3] if isinstance(op, ops.Conv2D) else shape[:2]
    return k.op(
        "Conv",
        k.read(node.inputs[0]),
        weights,
        bias,
        strides=list(op.stride),
        pads=_pads(op.padding),
        dilations=list(op.dilation),
        group=groups,
        kernel_shape=list(kernel),
    )


def _fully_connected(k: Builder, node: Node) -> str:
    return k.op("Gemm", k.read(node.inputs[0]), *k.weights(node), transB=1)


def _scaled(k: Builder, node: Node, x: str) -> str:
    """Multiply a product by what its epilogue has beyond the scales."""
    factor = floats.product_factor(k.reals, node)
    return x if factor == 1 else k.op("Mul", x, k.number(factor))


def _matmul(k: Builder, node: Node) -> str:
    return _scaled(k, node, k.op("MatMul", *(k.read(i) for i in node.inputs)))


def _binary(name: str) -> Callable[[Builder, Node], str]:
    return lambda k, node: k.op(name, *(k.read(i) for i in node.inputs))


def _mul(k: Builder, node: Node) -> str:
    return _scaled(k, node, _binary("Mul")(k, node))


def _pool(k: Builder, node: Node) -> str:
    op: Any = node.op
    fields = {"kernel_shape": list(op.kernel), "strides": list(op.stride), "pads": _pads(op.padding)}
    if isinstance(op, ops.MaxPool2D):
        return k.op("MaxPool", k.read(node.inputs[0]), **fields)
    if op.kernel == k.shape(node.inputs[0])[1:3] and not any(op.padding):
        return k.op("GlobalAveragePool", k.read(node.inputs[0]))
    return k.op("AveragePool", k.read(node.inputs[0]), count_include_pad=0, **fields)


def _reduced(name: str) -> Callable[[Builder, Node], str]:
    def lower(k: Builder, node: Node) -> str:
        op: Any = node.op
        axes = k.ints([k.axis(node.inputs[0], a) for a in op.axes])
        return k.op(name, k.read(node.inputs[0]), axes, keepdims=1)

    return lower


def _pad(k: Builder, node: Node) -> str:
    op: Any = node.op
    x, r = node.inputs[0], k.reals[node.inputs[0]]
    if not op.padding:
        return k.read(x)
    order = floats.TO_PLANES if k.rank(x) == 4 else range(k.rank(x))
    amounts = k.ints([op.padding[a][0] for a in order] + [op.padding[a][1] for a in order])
    return k.op("Pad", k.read(x), amounts, k.number((op.value - r.zero_point) * r.scale))


def _slice(k: Builder, node: Node) -> str:
    op: Any = node.op
    x = node.inputs[0]
    axes = [k.axis(x, a) for a in range(k.rank(x))]
    end = [b + (n - 1) * s + 1 for b, n, s in zip(op.start, op.size, op.steps(), strict=True)]
    return k.op("Slice", k.read(x), k.ints(op.start), k.ints(end), k.ints(axes), k.ints(op.steps()))


def _gather(k: Builder, node: Node) -> str:
    op: Any = node.op
    x = node.inputs[0]
    return k.op("Gather", k.read(x), k.constant(floats.indices(k.graph, node)), axis=k.axis(x, op.axis))


def _soft(k: Builder, node: Node) -> str:
    x = node.inputs[0]
    step = floats.softmax_step(k.graph, k.reals, node)
    logits = k.read(x) if abs(step - 1) < 1e-4 else k.op("Mul", k.read(x), k.number(step))
    return k.op("Softmax", logits, axis=k.axis(x, k.rank(x) - 1))


def _softmax_matmul(k: Builder, node: Node) -> str:
    return k.op("MatMul", _soft(k, node), k.read(node.inputs[1]))


def _norm(k: Builder, node: Node) -> str:
    x = node.inputs[0]
    gain, bias, epsilon = floats.norm(k.graph, k.reals, node)
    constants = [k.constant(gain), k.constant(bias)]
    rows = k.rows(x, k.read(x))
    if isinstance(node.op, ops.LayerNorm):
        y = k.op("LayerNormalization", rows, *constants, axis=-1, epsilon=epsilon)
    else:
        mean = k.op("ReduceMean", k.op("Mul", rows, rows), k.ints([k.rank(x) - 1]), keepdims=1)
        root = k.op("Sqrt", k.op("Add", mean, k.number(epsilon)))
        y = k.op("Add", k.op("Mul", k.op("Div", rows, root), constants[0]), constants[1])
    return k.stored(x, y)


def _table(k: Builder, node: Node) -> str:
    """Look the codes up in the table's reals."""
    entries = k.constant(floats.table(k.graph, k.reals, node))
    k.read(node.inputs[0])
    index = k.op("Cast", k.coded[node.inputs[0]], to=int(k.model.onnx.TensorProto.INT32))
    return k.op("Gather", entries, k.op("Add", index, k.constant(np.array(128, np.int32))), axis=0)


def _reshape(k: Builder, node: Node) -> str:
    x, shape = node.inputs[0], k.shape(node.output)
    moved = k.rows(x, k.read(x)) if k.rank(x) != 4 or k.shape(x)[1:3] != (1, 1) else k.read(x)
    return k.stored(node.output, k.op("Reshape", moved, k.ints(shape)))


def _transpose(k: Builder, node: Node) -> str:
    op: Any = node.op
    x = node.inputs[0]
    if not op.perm:
        return k.read(x)
    return k.stored(node.output, k.op("Transpose", k.rows(x, k.read(x)), perm=list(op.perm)))


def _concat(k: Builder, node: Node) -> str:
    op: Any = node.op
    return k.op("Concat", *(k.read(i) for i in node.inputs), axis=k.axis(node.inputs[0], op.axis))


def _mode(m: ops.AxisMap, extent: int, bits: int, mode: str) -> bool:
    """Whether the tables of an axis are ONNX's coordinates of a mode, but for their own rounding."""
    at = [lo + w / 2**bits for lo, w in zip(m.lo, m.weight, strict=True)]
    size = len(m.lo)
    ideal = [min(max(_COORDINATES[mode](i, extent, size), 0), extent - 1) for i in range(size)]
    if bits == 0:
        ideal = [float(math.floor(v)) for v in ideal]
    return all(abs(a - b) <= (size * 2.0**-bits if bits else 0) for a, b in zip(at, ideal, strict=True))


def _resize(k: Builder, node: Node) -> str:
    op: Any = node.op
    x = node.inputs[0]
    _, height, width, _ = k.shape(x)
    for mode in _COORDINATES:
        if _mode(op.rows, height, op.bits, mode) and _mode(op.columns, width, op.bits, mode):
            n, rows, columns, channels = k.shape(node.output)
            fields = {"mode": "linear"} if op.bits else {"mode": "nearest", "nearest_mode": "floor"}
            sizes = k.ints([n, channels, rows, columns])
            return k.op("Resize", k.read(x), "", "", sizes, coordinate_transformation_mode=mode, **fields)
    raise UnsupportedError(f"node '{node.output}': a resize whose coordinates are none of ONNX's")


def _same(k: Builder, node: Node) -> str:
    return k.read(node.inputs[0])


FLOAT: dict[type[ops.Op], Callable[[Builder, Node], str]] = {
    ops.Conv2D: _convolution,
    ops.DepthwiseConv2D: _convolution,
    ops.FullyConnected: _fully_connected,
    ops.MatMul: _matmul,
    ops.Add: _binary("Add"),
    ops.Sub: _binary("Sub"),
    ops.Mul: _mul,
    ops.AvgPool2D: _pool,
    ops.MaxPool2D: _pool,
    ops.ReduceSum: _reduced("ReduceMean"),
    ops.ReduceMax: _reduced("ReduceMax"),
    ops.ReduceMin: _reduced("ReduceMin"),
    ops.Rescale: _same,
    ops.Clamp: _same,
    ops.Reshape: _reshape,
    ops.Transpose: _transpose,
    ops.Concat: _concat,
    ops.Pad: _pad,
    ops.Slice: _slice,
    ops.Gather: _gather,
    ops.Resize: _resize,
    ops.Softmax: _soft,
    ops.TableSoftmax: _soft,
    ops.SoftmaxMatMul: _softmax_matmul,
    ops.LayerNorm: _norm,
    ops.RmsNorm: _norm,
    ops.Table: _table,
}
