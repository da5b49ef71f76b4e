"""One function per op of the graph: its exact result in torch ops ExecuTorch's portable kernels compute exactly.

Each takes the program's constants, the op's attributes and its operands, and returns the result. Accumulation is
in int32, which the range proof of ``verify`` shows to be enough; requantization is in int64.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bitship.converters.executorch.arithmetic import (
    Constants,
    Tensor,
    centred,
    finish,
    half_away_shift,
    look_up,
    reach_of,
    rescale,
    shift_right,
    to,
    torch_dtype,
    total,
)
from bitship.converters.executorch.attention import softmax_matmul, table_softmax
from bitship.converters.executorch.ivit import i_layer_norm, shiftgelu, shiftmax
from bitship.converters.executorch.norm import layer_norm, rms_norm
from bitship.converters.executorch.softmax import softmax
from bitship.converters.executorch.values import Layout, Value
from bitship.graph import ops
from bitship.graph.base import TensorType
from bitship.graph.dtypes import DType


def _padded(x: Tensor, padding: tuple[int, int, int, int], value: int = 0) -> tuple[Tensor, tuple[int, int]]:
    """Return planes and what is left to the op as symmetric padding; uneven padding is done here."""
    import torch

    top, bottom, left, right = padding
    if top == bottom and left == right and value == 0:
        return x, (top, left)
    return torch.constant_pad_nd(x, [left, right, top, bottom], value), (0, 0)


def conv2d(k: Constants, op: ops.Conv2D, x: Value, w: Value, bias: Value) -> Value:
    """Convolution of planes."""
    weights = centred(w.arranged(k, (0, 3, 1, 2)), op.weight_zero_point)
    return _convolve(k, op, x, weights, bias, op.groups)


def depthwise_conv2d(k: Constants, op: ops.DepthwiseConv2D, x: Value, w: Value, bias: Value) -> Value:
    """Grouped convolution, one group per input channel."""
    weights = centred(w.arranged(k, (2, 3, 0, 1)), op.weight_zero_point)
    c, m, height, width = weights.shape
    return _convolve(k, op, x, weights.reshape(c * m, 1, height, width), bias, c)


def _convolve(k: Constants, op: Any, x: Value, weights: Tensor, bias: Value, groups: int) -> Value:
    import torch

    shifted = centred(x.planes, op.input_zero_point)
    shifted, padding = _padded(shifted, op.padding)
    acc = torch.conv2d(shifted, weights, bias.rows, op.stride, padding, op.dilation, groups)
    return Value(planes=finish(k, acc, op.requant, 1))


def fully_connected(k: Constants, op: ops.FullyConnected, x: Value, w: Value, bias: Value) -> Value:
    """Matrix product with constant weights, transposed ahead of time."""
    import torch

    weights = centred(w.arranged(k, (1, 0)), op.weight_zero_point)
    acc = torch.addmm(bias.rows, centred(x.rows, op.input_zero_point), weights)
    return Value(finish(k, acc, op.requant, 1))


def matmul(k: Constants, op: ops.MatMul, a: Value, b: Value) -> Value:
    """Batched matrix product."""
    import torch

    acc = torch.bmm(centred(a.rows, op.a_zero_point), centred(b.rows, op.b_zero_point))
    return Value(finish(k, acc, op.requant, 2))


def requantize(k: Constants, op: ops.Rescale, x: Value) -> Value:
    """The rescale op."""
    at = Layout([x])
    (t,) = at.tensors
    return at.wrap(to(rescale(k, t, op, at.channel, reach_of(t)), op.dtype))


def _terms(k: Constants, op: ops.Add | ops.Sub, a: Value, b: Value) -> tuple[Layout, Tensor, Tensor]:
    at = Layout([a, b])
    sides = []
    for t, r in zip(at.tensors, (op.a, op.b), strict=True):
        sides.append(to(t, DType.INT64) if r is None else rescale(k, t, r, at.channel, reach_of(t)))
    return at, sides[0], sides[1]


def add(k: Constants, op: ops.Add, a: Value, b: Value) -> Value:
    """Sum of two rescaled operands."""
    at, p, q = _terms(k, op, a, b)
    return at.wrap(finish(k, p + q, op.requant, at.channel))


def sub(k: Constants, op: ops.Sub, a: Value, b: Value) -> Value:
    """Difference of two rescaled operands."""
    at, p, q = _terms(k, op, a, b)
    return at.wrap(finish(k, p - q, op.requant, at.channel))


def mul(k: Constants, op: ops.Mul, a: Value, b: Value) -> Value:
    """Product of two centred operands; the range proof keeps it within int32."""
    at = Layout([a, b])
    p, q = (centred(t, zp) for t, zp in zip(at.tensors, (op.a_zero_point, op.b_zero_point), strict=True))
    return at.wrap(finish(k, p * q, op.requant, at.channel))


def table(k: Constants, op: ops.Table, x: Value, entries: Value) -> Value:
    """Look every element up; between two entries for int16."""
    at = Layout([x])
    (t,) = at.tensors
    if t.dtype == torch_dtype(DType.INT16):
        wide, values = to(t, DType.INT64) + 32768, to(entries.rows, DType.INT64)
        i = shift_right(wide, 7)
        low = look_up(values * 128 + 64, i)
        return at.wrap(to(shift_right(low + look_up(values[1:] - values[:-1], i) * (wide - i * 128), 7), DType.INT16))
    found = entries.rows.index_select(0, (to(t, DType.INT64) + 128).reshape(math.prod(t.shape)))
    return at.wrap(found.reshape(t.shape))


def clamp(k: Constants, op: ops.Clamp, x: Value) -> Value:
    """Clamp, dtype kept."""
    at = Layout([x])
    return at.wrap(at.tensors[0].clamp(op.qmin, op.qmax))


def cast(k: Constants, op: ops.Cast, x: Value) -> Value:
    """Change the dtype."""
    at = Layout([x])
    (t,) = at.tensors
    return at.wrap(t != 0 if op.dtype is DType.BOOL else to(t, op.dtype))


def left_shift(k: Constants, op: ops.LogicalLeftShift, x: Value) -> Value:
    """Multiply by a power of two (in int64: 2^31 is no int32)."""
    at = Layout([x])
    (t,) = at.tensors
    return at.wrap((to(t, DType.INT64) * (1 << op.amount)).to(t.dtype))


def right_shift(k: Constants, op: ops.ArithmeticRightShift, x: Value) -> Value:
    """Shift with sign, floored or rounded."""
    at = Layout([x])
    (t,) = at.tensors
    half = (1 << op.amount) >> 1 if op.rounding is ops.ShiftRounding.HALF_UP else 0
    return at.wrap(shift_right(to(t, DType.INT64) + half, op.amount).to(t.dtype))


def max_pool2d(k: Constants, op: ops.MaxPool2D, x: Value) -> Value:
    """Maximum over the window; padding holds the lowest value."""
    import torch

    planes = x.planes
    dtype, lowest = planes.dtype, int(torch.iinfo(planes.dtype).min)
    if any(op.padding):
        planes, _ = _padded(planes, op.padding, lowest)
    y = torch.max_pool2d(planes, list(op.kernel), list(op.stride))
    return Value(planes=y.clamp(op.qmin, op.qmax).to(dtype))


def avg_pool2d(k: Constants, op: ops.AvgPool2D, x: Value) -> Value:
    """Window sums as a depthwise convolution with ones, divided by the number of elements inside x."""
    import torch

    planes = x.planes
    _, channels, height, width = planes.shape
    ones = k.tensor(np.ones((channels, 1, *op.kernel), np.int8)).to(torch.int32)
    shifted, padding = _padded(to(planes, DType.INT32), op.padding)
    acc = torch.conv2d(shifted, ones, None, op.stride, padding, (1, 1), channels)
    dtype = DType(str(planes.dtype).removeprefix("torch."))
    taps = op.count(TensorType((1, height, width, 1), dtype))
    counts = taps.transpose(0, 3, 1, 2).astype(np.int32)
    if int(counts.min()) == int(counts.max()):
        counts = counts[:, :, :1, :1]
    count, half = k.tensor(counts), k.tensor(counts // 2)
    if op.rounding is ops.DivRounding.HALF_UP:
        mean = torch.div(acc + half, count, rounding_mode="floor")
    else:
        mean = torch.sign(acc) * torch.div(torch.abs(acc) + half, count, rounding_mode="floor")
    return Value(planes=mean.clamp(op.qmin, op.qmax).to(planes.dtype))


def reduce_sum(k: Constants, op: ops.ReduceSum, x: Value) -> Value:
    """Sum of centred elements, in int64."""
    at = Layout([x])
    (t,) = at.tensors
    count = math.prod(t.shape[at.axis(a)] for a in op.axes)
    acc = total(k, to(t, DType.INT64), [at.axis(a) for a in op.axes])
    if op.input_zero_point:
        acc = acc - op.input_zero_point * count
    return at.wrap(finish(k, acc, op.requant, at.channel))


def reduce_max(k: Constants, op: ops.ReduceMax, x: Value) -> Value:
    """Largest element over the axes."""
    at = Layout([x])
    return at.wrap(at.tensors[0].amax([at.axis(a) for a in op.axes], keepdim=True))


def reduce_min(k: Constants, op: ops.ReduceMin, x: Value) -> Value:
    """Smallest element over the axes."""
    at = Layout([x])
    return at.wrap(at.tensors[0].amin([at.axis(a) for a in op.axes], keepdim=True))


def reduce_any(k: Constants, op: ops.ReduceAny, x: Value) -> Value:
    """Whether any element over the axes is true."""
    rows = x.rows.to(torch_dtype(DType.INT32)).amax(list(op.axes), keepdim=True)
    return Value(rows != 0)


def argmax(k: Constants, op: ops.ArgMax, x: Value) -> Value:
    """Index of the first largest element."""
    return Value(to(x.rows.argmax(op.axis), DType.INT32))


def pad(k: Constants, op: ops.Pad, x: Value) -> Value:
    """Surround by a constant; torch lists the last axis first."""
    import torch

    flat = [n for pair in reversed(op.padding) for n in pair]
    return Value(torch.constant_pad_nd(x.rows, flat, op.value))


def concat(k: Constants, op: ops.Concat, *xs: Value) -> Value:
    """Join along an axis."""
    import torch

    at = Layout(xs)
    return at.wrap(torch.cat(at.tensors, at.axis(op.axis)))


def take_slice(k: Constants, op: ops.Slice, x: Value) -> Value:
    """Cut a box out, axis by axis."""
    y = x.rows
    for axis, (start, size, step) in enumerate(zip(op.start, op.size, op.steps(), strict=True)):
        if (start, size) != (0, y.shape[axis]):
            y = y[(slice(None),) * axis + (slice(start, start + (size - 1) * step + 1, step),)]
    return Value(y)


def reshape(k: Constants, op: ops.Reshape, x: Value) -> Value:
    """Same elements, other shape."""
    if x.only_planes and 1 == x.planes.shape[2] == x.planes.shape[3]:
        return Value(x.planes.reshape(op.shape))
    return Value(x.rows.reshape(op.shape))


def transpose(k: Constants, op: ops.Transpose, x: Value) -> Value:
    """Permute the axes."""
    return Value(x.rows.permute(op.perm)) if op.perm else x


def gather(k: Constants, op: ops.Gather, x: Value, indices: Value) -> Value:
    """Elements at clamped indices along an axis."""
    index = to(indices.rows, DType.INT64).clamp(0, x.rows.shape[op.axis] - 1)
    return Value(x.rows.index_select(op.axis, index))


def resize(k: Constants, op: ops.Resize, x: Value) -> Value:
    """Two rows, then two columns, mixed by their weights."""
    at = Layout([x])
    (t,) = at.tensors
    if op.bits == 0:
        for axis, m in ((1, op.rows), (2, op.columns)):
            taken = [hi if w else lo for lo, hi, w in zip(m.lo, m.hi, m.weight, strict=True)]
            t = t.index_select(at.axis(axis), k.tensor(np.array(taken, np.int64)))
        return at.wrap(t)
    y = to(t, DType.INT64)
    for axis, m in ((1, op.rows), (2, op.columns)):
        lo, hi = (y.index_select(at.axis(axis), k.tensor(np.array(i, np.int64))) for i in (m.lo, m.hi))
        y = lo * (1 << op.bits) + (hi - lo) * k.vector(m.weight, at.axis(axis), 4)
    return at.wrap(half_away_shift(k, y, [2 * op.bits], at.channel).to(t.dtype))


LOWERINGS: dict[type[ops.Op], Callable[..., Value]] = {
    ops.Conv2D: conv2d,
    ops.DepthwiseConv2D: depthwise_conv2d,
    ops.FullyConnected: fully_connected,
    ops.MatMul: matmul,
    ops.Rescale: requantize,
    ops.Add: add,
    ops.Sub: sub,
    ops.Mul: mul,
    ops.Table: table,
    ops.Clamp: clamp,
    ops.Cast: cast,
    ops.LogicalLeftShift: left_shift,
    ops.ArithmeticRightShift: right_shift,
    ops.AvgPool2D: avg_pool2d,
    ops.MaxPool2D: max_pool2d,
    ops.ReduceSum: reduce_sum,
    ops.ReduceMax: reduce_max,
    ops.ReduceMin: reduce_min,
    ops.ReduceAny: reduce_any,
    ops.ArgMax: argmax,
    ops.Pad: pad,
    ops.Concat: concat,
    ops.Slice: take_slice,
    ops.Reshape: reshape,
    ops.Transpose: transpose,
    ops.Gather: gather,
    ops.Resize: resize,
    ops.Softmax: softmax,
    ops.TableSoftmax: table_softmax,
    ops.SoftmaxMatMul: softmax_matmul,
    ops.LayerNorm: layer_norm,
    ops.RmsNorm: rms_norm,
    ops.ILayerNorm: i_layer_norm,
    ops.Shiftmax: shiftmax,
    ops.ShiftGelu: shiftgelu,
}
