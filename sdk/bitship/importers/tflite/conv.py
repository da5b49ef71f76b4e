"""CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED."""

import numpy as np

from bitship.graph.base import Array
from bitship.graph.ops import Conv2D, DepthwiseConv2D, FullyConnected, Reshape, Rounding
from bitship.importers.tflite.context import EIGHT_BIT, Context
from bitship.importers.tflite.reader import TensorInfo

SAME = 0


def padding(ctx: Context, extent: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) for the operator's SAME or VALID padding."""
    result: list[int] = []
    for n, k, side in zip(extent, kernel, "HW", strict=True):
        stride, dilation = ctx.option(f"Stride{side}"), ctx.option(f"Dilation{side}Factor", 1)
        if stride < 1 or dilation < 1:
            raise ctx.refuse(f"stride {stride} and dilation {dilation} must be positive")
        reach = (k - 1) * dilation + 1
        total = max((-(-n // stride) - 1) * stride + reach - n, 0) if ctx.option("Padding") == SAME else 0
        result += [total // 2, total - total // 2]
    return result[0], result[1], result[2], result[3]


def factors(ctx: Context, weights: TensorInfo, channels: int, axis: int, source: int | None = None) -> list[float]:
    """Return the real factor of every output channel, in the float types TFLite computes them in."""
    x, y = ctx.scale(ctx.operand(0) if source is None else source), ctx.scale(ctx.result)
    if weights.type == "UINT8" or (ctx.op and ctx.op.name == "FULLY_CONNECTED" and len(weights.scale) == 1):
        if len(weights.scale) != 1:
            raise ctx.refuse(f"{weights.where} needs one scale, it has {len(weights.scale)}")
        product = float(np.float32(x) * np.float32(weights.scale[0]))
        return [product / y]
    if len(weights.scale) not in (1, channels) or (len(weights.scale) > 1 and weights.axis != axis):
        raise ctx.refuse(f"{weights.where} has {len(weights.scale)} scales along axis {weights.axis}")
    return [x * s / y for s in weights.scale]


def weight_zero_point(ctx: Context, weights: TensorInfo) -> int:
    """Return the weights' zero point as seen in int8; refuses one per channel that differs."""
    if weights.type not in EIGHT_BIT or not weights.scale:
        raise ctx.refuse(
            f"{weights.where} is {weights.type}; quantized int8 and uint8 weights are supported "
            "(quantize a float model first)"
        )
    if len(set(weights.zero_point)) != 1:
        raise ctx.refuse(f"{weights.where} has zero points that differ between channels")
    return weights.zero_point[0] - EIGHT_BIT[weights.type]


def weights_and_bias(ctx: Context, channels_axis: int, bias: int = 2) -> tuple[TensorInfo, Array, str]:
    """Return the weights, their int8 codes, and the name of the int32 bias (zeros when there is none)."""
    info = ctx.info(ctx.operand(1))
    ctx.constant(1)
    weight_zero_point(ctx, info)
    codes = ctx.codes(info)
    channels = info.shape[channels_axis] if len(info.shape) > channels_axis else 0
    added = ctx.constant(bias) if ctx.has_operand(bias) else np.zeros(channels, np.int32)
    if added.dtype != np.int32:
        raise ctx.refuse(f"the bias is {added.dtype.name}; int32 is supported")
    return info, codes, ctx.builder.constant(f"{info.name}/bias", added.reshape(-1))


def conv_2d(ctx: Context) -> None:
    """Lower CONV_2D: weights [O, KH, KW, C / groups]."""
    info, codes, bias = weights_and_bias(ctx, 0)
    x = ctx.name(ctx.operand(0))
    shape = ctx.shape(x)
    if len(shape) != 4 or codes.ndim != 4 or codes.shape[3] == 0:
        raise ctx.refuse(f"input {list(shape)} and weights {list(codes.shape)} must have rank 4")
    op = Conv2D(
        stride=(ctx.option("StrideH"), ctx.option("StrideW")),
        padding=padding(ctx, (shape[1], shape[2]), (codes.shape[1], codes.shape[2])),
        dilation=(ctx.option("DilationHFactor", 1), ctx.option("DilationWFactor", 1)),
        groups=max(shape[3] // codes.shape[3], 1),
        input_zero_point=ctx.zero_point(ctx.operand(0)),
        weight_zero_point=weight_zero_point(ctx, info),
        requant=ctx.rescale_to(ctx.result, factors(ctx, info, codes.shape[0], 0)),
    )
    ctx.emit(op, x, ctx.builder.constant(info.name, codes), bias)


def depthwise_conv_2d(ctx: Context) -> None:
    """Lower DEPTHWISE_CONV_2D: weights [1, KH, KW, C * M]."""
    info, codes, bias = weights_and_bias(ctx, 3)
    x = ctx.name(ctx.operand(0))
    shape = ctx.shape(x)
    if len(shape) != 4 or codes.ndim != 4 or codes.shape[0] != 1 or codes.shape[3] % max(shape[3], 1):
        raise ctx.refuse(f"input {list(shape)} and weights {list(codes.shape)} do not fit")
    kh, kw, out = codes.shape[1:]
    op = DepthwiseConv2D(
        stride=(ctx.option("StrideH"), ctx.option("StrideW")),
        padding=padding(ctx, (shape[1], shape[2]), (kh, kw)),
        dilation=(ctx.option("DilationHFactor", 1), ctx.option("DilationWFactor", 1)),
        input_zero_point=ctx.zero_point(ctx.operand(0)),
        weight_zero_point=weight_zero_point(ctx, info),
        requant=ctx.rescale_to(ctx.result, factors(ctx, info, out, 3)),
    )
    weights = codes.reshape(kh, kw, shape[3], out // shape[3])
    ctx.emit(op, x, ctx.builder.constant(info.name, weights), bias)


def fully_connected(ctx: Context) -> None:
    """Lower FULLY_CONNECTED: rounds once where the weights have one scale (see the module's README)."""
    info, codes, bias = weights_and_bias(ctx, 0)
    if ctx.option("WeightsFormat", 0) != 0 or codes.ndim != 2 or codes.shape[1] == 0:
        raise ctx.refuse(f"weights {list(codes.shape)} in a shuffled format or not of rank 2 are not supported")
    x = ctx.name(ctx.operand(0))
    rows = ctx.builder.types[x].size // codes.shape[1]
    lead = ctx.shape(x)[:-1] if ctx.option("KeepNumDims", False) else (rows,)
    if ctx.shape(x) != (rows, codes.shape[1]):
        x = ctx.aside(Reshape((rows, codes.shape[1])), x)
    if ctx.info(ctx.result).type not in EIGHT_BIT:
        raise ctx.refuse(f"result is {ctx.info(ctx.result).type}; int8 and uint8 are supported")
    rounding = Rounding.SINGLE
    op = FullyConnected(
        input_zero_point=ctx.zero_point(ctx.operand(0)),
        weight_zero_point=weight_zero_point(ctx, info),
        requant=ctx.rescale_to(ctx.result, factors(ctx, info, codes.shape[0], 0), rounding),
    )
    ctx.emit(op, x, ctx.builder.constant(info.name, codes), bias)
    if lead != (rows,):
        ctx.emit(Reshape((*lead, codes.shape[0])), ctx.names[ctx.result])
