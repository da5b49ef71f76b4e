"""MEAN, SUM, REDUCE_MAX, REDUCE_MIN, ARG_MAX, ARG_MIN."""

import math

import numpy as np

from bitship.graph.fixedpoint import quantize_multiplier
from bitship.graph.ops import ArgMax, ReduceMax, ReduceMin, ReduceSum, Rescale, Reshape, Rounding, Sub, Table
from bitship.importers.tflite.context import Context
from bitship.importers.tflite.layout import moved, one_axis


def _axes(ctx: Context) -> tuple[int, ...]:
    rank = len(ctx.shape(ctx.name(ctx.operand(0))))
    return tuple(sorted({one_axis(ctx, a, rank) for a in ctx.ints(1)}))


def _drop_axes(ctx: Context, name: str, axes: tuple[int, ...]) -> None:
    """Make the reduction the result; the extents of 1 it keeps are dropped unless the operator keeps them."""
    ctx.names[ctx.result] = name
    if not ctx.option("KeepDims", False):
        ctx.emit(Reshape(tuple(n for i, n in enumerate(ctx.shape(name)) if i not in axes)), name)


def mean(ctx: Context) -> None:
    """Lower MEAN as TFLite's QuantizedMeanOrSum: the count joins the multiplier, truncated, before the one rescale."""
    index = ctx.operand(0)
    x, axes = ctx.name(index), _axes(ctx)
    count = math.prod(ctx.shape(x)[a] for a in axes)
    multiplier, shift = quantize_multiplier(ctx.scale(index) / ctx.scale(ctx.result))
    extra = min(count.bit_length() - 1, 32, 31 + shift)
    requant = Rescale(
        multiplier=((multiplier << extra) // count,),
        shift=(shift - extra,),
        output_zero_point=ctx.zero_point(ctx.result),
        rounding=Rounding.DOUBLE,
    )
    _drop_axes(ctx, ctx.aside(ReduceSum(axes, ctx.zero_point(index), requant), x), axes)


def sum_(ctx: Context) -> None:
    """Lower SUM as LiteRT computes it: int8 codes too are read, and the result is written, as unsigned bytes.

    Zero points are not shifted along, so the result of a signed tensor is a sum only where no code is negative.
    """
    index, x, axes = ctx.operand(0), ctx.name(ctx.operand(0)), _axes(ctx)
    signed = ctx.info(index).type == "INT8"
    zero_points = [ctx.zero_point(i) - (128 if signed else 0) for i in (index, ctx.result)]
    flipped = ctx.builder.constant("flip", np.arange(256).astype(np.uint8).view(np.int8))
    requant = ctx.rescale([ctx.scale(index) / ctx.scale(ctx.result)], zero_points[1], -128, 127)
    x = ctx.aside(Table(), x, flipped) if signed else x
    y = ctx.aside(ReduceSum(axes, zero_points[0], requant), x)
    _drop_axes(ctx, ctx.aside(Table(), y, flipped) if signed else y, axes)


def reduce_max(ctx: Context) -> None:
    """Lower REDUCE_MAX."""
    x, axes = moved(ctx), _axes(ctx)
    _drop_axes(ctx, ctx.aside(ReduceMax(axes), x), axes)


def reduce_min(ctx: Context) -> None:
    """Lower REDUCE_MIN."""
    x, axes = moved(ctx), _axes(ctx)
    _drop_axes(ctx, ctx.aside(ReduceMin(axes), x), axes)


def _index_axis(ctx: Context) -> int:
    """Return the axis; the result's int64, where the file asks for it, is held as int32."""
    if ctx.info(ctx.result).type not in ("INT32", "INT64"):
        raise ctx.refuse(f"result is {ctx.info(ctx.result).type}; INT32 and INT64 are supported")
    axes = ctx.ints(1)
    if len(axes) != 1:
        raise ctx.refuse(f"axes {list(axes)}: one is needed")
    return one_axis(ctx, axes[0], len(ctx.shape(ctx.name(ctx.operand(0)))))


def arg_max(ctx: Context) -> None:
    """Lower ARG_MAX to int32."""
    ctx.emit(ArgMax(_index_axis(ctx)), ctx.name(ctx.operand(0)))


def arg_min(ctx: Context) -> None:
    """Lower ARG_MIN to int32: the largest of the differences from the highest code."""
    x = ctx.name(ctx.operand(0))
    axis = _index_axis(ctx)
    top = ctx.builder.constant("top", np.full((1,) * len(ctx.shape(x)), 127, np.int8))
    ctx.emit(ArgMax(axis), ctx.aside(Sub(), top, x))
