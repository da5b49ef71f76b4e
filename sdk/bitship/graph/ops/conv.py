"""conv2d and depthwise_conv2d: NHWC cross-correlation with int32 accumulators."""

import numpy as np

from bitship.graph.base import (
    Array,
    Interval,
    Ints,
    Op,
    Operand,
    TensorType,
    check,
    check_dtype,
    check_pair,
    check_rank,
    exact_matmul,
)
from bitship.graph.dtypes import DType
from bitship.graph.ops.rescale import Rescale, finish, finished_bounds, finished_type

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]
MAX_PADDED = 1 << 28


def window(x: Ints, y: int, x0: int, out: Pair, stride: Pair) -> Ints:
    """Return the [N, OH, OW, C] view of padded x that kernel tap (y, x0) reads."""
    return x[:, y : y + (out[0] - 1) * stride[0] + 1 : stride[0], x0 : x0 + (out[1] - 1) * stride[1] + 1 : stride[1]]


def pad_nhwc(x: Ints, padding: Padding, value: int) -> Ints:
    """Pad H by (top, bottom) and W by (left, right)."""
    top, bottom, left, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def out_extent(extent: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    """Output rows (or columns) of a window op; at most 0 when the window does not fit."""
    return (extent + before + after - dilation * (kernel - 1) - 1) // stride + 1


def check_window(x: TensorType, kernel: Pair, stride: Pair, dilation: Pair, padding: Padding, name: str) -> Pair:
    """Check a window op's geometry and return (OH, OW)."""
    check_rank(x, 4, f"{name}: x")
    check_pair(kernel, 1, f"{name}: kernel")
    check_pair(stride, 1, f"{name}: stride")
    check_pair(dilation, 1, f"{name}: dilation")
    check_pair(padding, 0, f"{name}: padding")
    rows, columns = x.shape[1] + sum(padding[:2]), x.shape[2] + sum(padding[2:])
    check(
        x.shape[0] * rows * columns * x.shape[3] <= MAX_PADDED,
        f"{name}: {x} padded by {padding} has more than {MAX_PADDED} elements",
    )
    oh = out_extent(x.shape[1], kernel[0], stride[0], dilation[0], padding[0], padding[1])
    ow = out_extent(x.shape[2], kernel[1], stride[1], dilation[1], padding[2], padding[3])
    check(oh >= 1 and ow >= 1, f"{name}: a {kernel} window does not fit {x} padded by {padding}")
    return oh, ow


def dot_range(x: Interval, w: Ints, bias: Operand | None, axes: tuple[int, ...]) -> Interval:
    """Range of bias + sum(w * x) over the given axes of w, for constant w and x anywhere in its range.

    Every partial sum, in any order, lies within the same bound taken with the sign split below, so an
    int32 accumulator never wraps on the way either.
    """
    most = np.where(w > 0, w * x.hi, w * x.lo)
    least = np.where(w > 0, w * x.lo, w * x.hi)
    hi, lo = np.maximum(most, 0).sum(axis=axes), np.minimum(least, 0).sum(axis=axes)
    if bias is not None:
        if bias.value is not None:
            b_hi = b_lo = bias.value.astype(np.int64).reshape(-1)
        else:
            b_hi, b_lo = np.int64(bias.range.hi), np.int64(bias.range.lo)  # type: ignore[assignment]
        hi, lo = hi.reshape(-1) + np.maximum(b_hi, 0), lo.reshape(-1) + np.minimum(b_lo, 0)
    return Interval(int(lo.min()), int(hi.max()))


class ConvBase(Op, frozen=True):
    """What the two convolutions share."""

    operands = ("x", "weights", "bias")

    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    input_zero_point: int = 0
    weight_zero_point: int = 0
    requant: Rescale | None = None

    def _check_types(self, x: TensorType, w: TensorType, bias: TensorType, channels: int) -> None:
        check_dtype(x, (DType.INT8, DType.INT16), f"{self.name}: x")
        check_rank(w, 4, f"{self.name}: weights")
        check_dtype(w, (DType.INT8,), f"{self.name}: weights")
        check(bias == TensorType((channels,), DType.INT32), f"{self.name}: bias is {bias}, int32[{channels}] is needed")
        for what, zp, t in (("input", self.input_zero_point, x), ("weight", self.weight_zero_point, w)):
            check(t.dtype.qmin <= zp <= t.dtype.qmax, f"{self.name}: {what} zero point {zp} outside {t.dtype.value}")

    def _dot(self, x: Operand, w: Operand, bias: Operand, axes: tuple[int, ...]) -> Interval:
        centred = Interval(x.range.lo - self.input_zero_point, x.range.hi - self.input_zero_point)
        centred = centred.union(Interval(0, 0))  # padding contributes zero
        if w.value is None:
            wmax = max(abs(w.range.lo - self.weight_zero_point), abs(w.range.hi - self.weight_zero_point))
            both = np.array([[wmax], [-wmax]], np.int64) * (w.type.size // bias.type.size)
            acc = dot_range(centred, both, None, (0,))
            return Interval(acc.lo + min(bias.range.lo, 0), acc.hi + max(bias.range.hi, 0))
        return dot_range(centred, w.value.astype(np.int64) - self.weight_zero_point, bias, axes)


class Conv2D(ConvBase, frozen=True, tag="conv2d"):
    """``acc[n,y,x,o] = bias[o] + sum (x - input_zero_point) * (w - weight_zero_point)``, then the epilogue if any.

    x [N, H, W, C] int8 or int16; weights [O, KH, KW, C / groups] int8; bias [O] int32
    padding is (top, bottom, left, right) and adds nothing to the sum; output int32, or the epilogue's dtype.
    Output channel o reads input channels of group o // (O / groups). TOSA 1.0 CONV2D (groups as in ONNX Conv).
    """

    groups: int = 1

    def infer(self, x: TensorType, w: TensorType, bias: TensorType) -> TensorType:  # type: ignore[override]
        check_rank(w, 4, "conv2d: weights")
        oh, ow = check_window(x, w.shape[1:3], self.stride, self.dilation, self.padding, "conv2d")  # type: ignore[arg-type]
        out = w.shape[0]
        self._check_types(x, w, bias, out)
        check(
            self.groups >= 1 and out % self.groups == 0 and w.shape[3] * self.groups == x.shape[3],
            f"conv2d: weights {w} and groups {self.groups} do not fit x {x}",
        )
        return finished_type((x.shape[0], oh, ow, out), self.requant)

    def run(self, x: Array, w: Array, bias: Array) -> Array:  # type: ignore[override]
        xp = pad_nhwc(x.astype(np.int64) - self.input_zero_point, self.padding, 0)
        wz = w.astype(np.int64) - self.weight_zero_point
        o, kh, kw, c = w.shape
        oh = out_extent(x.shape[1], kh, self.stride[0], self.dilation[0], *self.padding[:2])
        ow = out_extent(x.shape[2], kw, self.stride[1], self.dilation[1], *self.padding[2:])
        acc = np.zeros((x.shape[0], oh, ow, o), np.int64) + bias.astype(np.int64)
        og = o // self.groups
        for g in range(self.groups):
            for i in range(kh):
                for j in range(kw):
                    tap = window(xp, i * self.dilation[0], j * self.dilation[1], (oh, ow), self.stride)
                    taken = tap[..., g * c : (g + 1) * c]
                    acc[..., g * og : (g + 1) * og] += exact_matmul(taken, wz[g * og : (g + 1) * og, i, j].T)
        return finish(acc, self.requant)

    def bounds(self, out: TensorType, x: Operand, w: Operand, bias: Operand) -> Interval:  # type: ignore[override]
        return finished_bounds(self._dot(x, w, bias, (1, 2, 3)), self.requant, "conv2d")

    def macs(self, out: TensorType, x: TensorType, w: TensorType, bias: TensorType) -> int:  # type: ignore[override]
        return out.size * w.shape[1] * w.shape[2] * w.shape[3]


class DepthwiseConv2D(ConvBase, frozen=True, tag="depthwise_conv2d"):
    """``acc[n,y,x,c*M+m] = bias[c*M+m] + sum (x[..., c] - input_zero_point) * (w[..., c, m] - weight_zero_point)``.

    x [N, H, W, C] int8 or int16; weights [KH, KW, C, M] int8; bias [C * M] int32. TOSA 1.0 DEPTHWISE_CONV2D.
    """

    def infer(self, x: TensorType, w: TensorType, bias: TensorType) -> TensorType:  # type: ignore[override]
        check_rank(w, 4, "depthwise_conv2d: weights")
        oh, ow = check_window(x, w.shape[:2], self.stride, self.dilation, self.padding, "depthwise_conv2d")  # type: ignore[arg-type]
        out = w.shape[2] * w.shape[3]
        self._check_types(x, w, bias, out)
        check(w.shape[2] == x.shape[3], f"depthwise_conv2d: weights {w} do not fit x {x}")
        return finished_type((x.shape[0], oh, ow, out), self.requant)

    def run(self, x: Array, w: Array, bias: Array) -> Array:  # type: ignore[override]
        xp = pad_nhwc(x.astype(np.int64) - self.input_zero_point, self.padding, 0)
        wz = w.astype(np.int64) - self.weight_zero_point
        kh, kw, c, m = w.shape
        oh = out_extent(x.shape[1], kh, self.stride[0], self.dilation[0], *self.padding[:2])
        ow = out_extent(x.shape[2], kw, self.stride[1], self.dilation[1], *self.padding[2:])
        acc = np.zeros((x.shape[0], oh, ow, c, m), np.int64) + bias.astype(np.int64).reshape(c, m)
        for i in range(kh):
            for j in range(kw):
                tap = window(xp, i * self.dilation[0], j * self.dilation[1], (oh, ow), self.stride)
                acc += tap[..., None] * wz[i, j]
        return finish(acc.reshape(x.shape[0], oh, ow, c * m), self.requant)

    def bounds(self, out: TensorType, x: Operand, w: Operand, bias: Operand) -> Interval:  # type: ignore[override]
        return finished_bounds(self._dot(x, w, bias, (0, 1)), self.requant, "depthwise_conv2d")

    def macs(self, out: TensorType, x: TensorType, w: TensorType, bias: TensorType) -> int:  # type: ignore[override]
        return out.size * w.shape[0] * w.shape[1]
