"""Pools, softmax and resize."""

import math

import numpy as np

from bitship.graph.fixedpoint import exp_on_negative_values, input_radius, quantize_multiplier, rescale_double
from bitship.graph.ops import AvgPool2D, AxisMap, DivRounding, MaxPool2D, Resize, Softmax
from bitship.importers.tflite.context import Context
from bitship.importers.tflite.conv import padding
from bitship.importers.tflite.layout import moved


def _pool(ctx: Context, kind: type[AvgPool2D] | type[MaxPool2D]) -> None:
    index = ctx.operand(0)
    x = moved(ctx)
    shape = ctx.shape(x)
    if len(shape) != 4:
        raise ctx.refuse(f"input {list(shape)} must have rank 4")
    kernel = (ctx.option("FilterHeight"), ctx.option("FilterWidth"))
    low, high = ctx.activation_range(ctx.result)
    stride = (ctx.option("StrideH"), ctx.option("StrideW"))
    pad = padding(ctx, (shape[1], shape[2]), kernel)
    if kind is AvgPool2D:
        unsigned = ctx.info(index).type == "UINT8"
        rounding = DivRounding.HALF_UP if unsigned else DivRounding.HALF_AWAY
        ctx.emit(AvgPool2D(kernel, stride, pad, low, high, rounding), x)
    else:
        ctx.emit(MaxPool2D(kernel, stride, pad, low, high), x)


def average_pool_2d(ctx: Context) -> None:
    """Lower AVERAGE_POOL_2D."""
    _pool(ctx, AvgPool2D)


def max_pool_2d(ctx: Context) -> None:
    """Lower MAX_POOL_2D."""
    _pool(ctx, MaxPool2D)


def softmax(ctx: Context) -> None:
    """Lower SOFTMAX: the exponential of every difference 0..255 becomes a table (5 integer bits, as TFLite's)."""
    index = ctx.operand(0)
    if ctx.scale(ctx.result) != 1 / 256 or ctx.zero_point(ctx.result) != -128:
        raise ctx.refuse("the result must have scale 1/256 and the lowest zero point")
    real = min(float(ctx.option("Beta")) * ctx.scale(index) * (1 << 26), float((1 << 31) - 1))
    multiplier, shift = quantize_multiplier(real)
    if multiplier == 0 or shift < 0:
        raise ctx.refuse(f"input scale {ctx.scale(index)} is too small")
    smallest = -input_radius(5, shift)
    table = np.zeros(256, np.int32)
    for d in range(256):
        if -d >= smallest:
            table[d] = exp_on_negative_values(rescale_double(-d, multiplier, shift), 5)
    ctx.emit(Softmax(), ctx.name(index), ctx.builder.constant("exp_table", table))


def _half_pixel_q10(n: int, m: int, align: bool, half: bool) -> AxisMap:
    """TFLite's integer bilinear coordinates in Q10."""
    one = 1 << 10
    ratio = (one * n + m // 2) // m
    if align and m > 1:
        ratio = (one * (n - 1) + (m - 1) // 2) // (m - 1)
    lo, hi, weight = [], [], []
    for i in range(m):
        at = i * ratio + (ratio // 2 - one // 2 if half else 0)
        first = max(int(at / one), 0)
        second = min(-(-at // one) if at > 0 else max(int((at + one - 1) / one), 0), n - 1)
        first = min(first, n - 1)
        lo.append(first)
        hi.append(max(second, 0))
        weight.append(0 if first == second else at - one * first)
    return AxisMap(tuple(lo), tuple(hi), tuple(weight))


def _nearest(n: int, m: int, align: bool, half: bool) -> AxisMap:
    """TFLite's nearest coordinates, in its float32 arithmetic."""
    scale = np.float32(n - 1) / np.float32(m - 1) if align and m > 1 else np.float32(n) / np.float32(m)
    offset = np.float32(0.5) if half else np.float32(0)
    at = []
    for i in range(m):
        v = (np.float32(i) + offset) * scale
        at.append(max(0, min(math.floor(v + np.float32(0.5)) if align else math.floor(v), n - 1)))
    return AxisMap(tuple(at), tuple(at), (0,) * m)


def _resize(ctx: Context, bilinear: bool) -> None:
    x = moved(ctx)
    shape, size = ctx.shape(x), ctx.ints(1)
    if len(shape) != 4 or len(size) != 2 or any(not 1 <= n <= 1 << 14 for n in size):
        raise ctx.refuse(f"input {list(shape)} and size {list(size)} do not fit")
    options = (bool(ctx.option("AlignCorners", False)), bool(ctx.option("HalfPixelCenters", False)))
    axis = _half_pixel_q10 if bilinear else _nearest
    maps = [axis(n, m, *options) for n, m in zip(shape[1:3], size, strict=True)]
    ctx.emit(Resize(maps[0], maps[1], 10 if bilinear else 0), x)


def resize_bilinear(ctx: Context) -> None:
    """Lower RESIZE_BILINEAR."""
    _resize(ctx, True)


def resize_nearest_neighbor(ctx: Context) -> None:
    """Lower RESIZE_NEAREST_NEIGHBOR."""
    _resize(ctx, False)
