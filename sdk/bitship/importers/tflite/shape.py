"""Pools and softmax."""

import numpy as np

from bitship.graph.fixedpoint import exp_on_negative_values, input_radius, quantize_multiplier, rescale_double
from bitship.graph.ops import AvgPool2D, DivRounding, MaxPool2D, Softmax
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
