"""Pools, reductions, softmax, resize, and the operators that only move elements."""

import math

import numpy as np

from bitship.graph.fixedpoint import exp_on_negative_values, input_radius, quantize_multiplier, rescale_double
from bitship.graph.ops import (
    ArgMax,
    AvgPool2D,
    AxisMap,
    Concat,
    DivRounding,
    Gather,
    MaxPool2D,
    Pad,
    ReduceMax,
    ReduceMin,
    ReduceSum,
    Rescale,
    Reshape,
    Resize,
    Rounding,
    Slice,
    Softmax,
    Transpose,
)
from bitship.importers.tflite.context import Context
from bitship.importers.tflite.conv import padding


def _same_scale(ctx: Context, *indices: int) -> None:
    """Refuse operands whose scale or zero point is not the result's (int32 tensors have none)."""
    if ctx.info(ctx.result).type == "INT32":
        return
    for index in indices:
        if ctx.scale(index) != ctx.scale(ctx.result) or ctx.zero_point(index) != ctx.zero_point(ctx.result):
            raise ctx.refuse(f"{ctx.info(index).where} and the result differ in scale or zero point")


def _axis(ctx: Context, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ctx.refuse(f"axis {axis} is outside rank {rank}")
    return axis % rank


def _pool(ctx: Context, kind: type[AvgPool2D] | type[MaxPool2D]) -> None:
    index = ctx.operand(0)
    _same_scale(ctx, index)
    x = ctx.name(index)
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


def _axes(ctx: Context) -> tuple[int, ...]:
    rank = len(ctx.shape(ctx.name(ctx.operand(0))))
    return tuple(sorted({_axis(ctx, a, rank) for a in ctx.ints(1)}))


def _to_result_shape(ctx: Context, name: str) -> None:
    """Drop the extents of 1 a reduction keeps, when the file does not keep them."""
    wanted = ctx.info(ctx.result).shape
    ctx.names[ctx.result] = name
    if ctx.shape(name) != wanted:
        ctx.emit(Reshape(wanted), name)


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
    _to_result_shape(ctx, ctx.aside(ReduceSum(axes, ctx.zero_point(index), requant), x))


def reduce_max(ctx: Context) -> None:
    """Lower REDUCE_MAX."""
    _same_scale(ctx, ctx.operand(0))
    _to_result_shape(ctx, ctx.aside(ReduceMax(_axes(ctx)), ctx.name(ctx.operand(0))))


def reduce_min(ctx: Context) -> None:
    """Lower REDUCE_MIN."""
    _same_scale(ctx, ctx.operand(0))
    _to_result_shape(ctx, ctx.aside(ReduceMin(_axes(ctx)), ctx.name(ctx.operand(0))))


def arg_max(ctx: Context) -> None:
    """Lower ARG_MAX to int32."""
    x = ctx.name(ctx.operand(0))
    if ctx.info(ctx.result).type != "INT32":
        raise ctx.refuse(f"result is {ctx.info(ctx.result).type}; INT32 is supported")
    ctx.emit(ArgMax(_axis(ctx, ctx.ints(1)[0], len(ctx.shape(x)))), x)


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


def reshape(ctx: Context) -> None:
    """Lower RESHAPE, SQUEEZE and EXPAND_DIMS: the result's static shape says it all."""
    _same_scale(ctx, ctx.operand(0))
    ctx.emit(Reshape(ctx.info(ctx.result).shape), ctx.name(ctx.operand(0)))


def transpose(ctx: Context) -> None:
    """Lower TRANSPOSE."""
    _same_scale(ctx, ctx.operand(0))
    ctx.emit(Transpose(ctx.ints(1)), ctx.name(ctx.operand(0)))


def pad(ctx: Context) -> None:
    """Lower PAD and PADV2."""
    index = ctx.operand(0)
    _same_scale(ctx, index)
    pairs = ctx.ints(1)
    value = ctx.zero_point(index)
    if ctx.has_operand(2):
        info = ctx.info(ctx.operand(2))
        ctx.constant(2)
        value = int(ctx.codes(info).reshape(-1)[0])
    ctx.emit(Pad(tuple(zip(pairs[::2], pairs[1::2], strict=True)), value), ctx.name(index))


def concatenation(ctx: Context) -> None:
    """Lower CONCATENATION of operands of one scale."""
    assert ctx.op is not None
    _same_scale(ctx, *ctx.op.inputs)
    names = [ctx.name(i) for i in ctx.op.inputs]
    if ctx.option("FusedActivationFunction", 0):
        raise ctx.refuse("a fused activation is not supported")
    ctx.emit(Concat(_axis(ctx, ctx.option("Axis"), len(ctx.shape(names[0])))), *names)


def pack(ctx: Context) -> None:
    """Lower PACK: a new axis, then a concatenation along it."""
    assert ctx.op is not None
    _same_scale(ctx, *ctx.op.inputs)
    axis = _axis(ctx, ctx.option("Axis"), len(ctx.info(ctx.result).shape))
    names = []
    for index in ctx.op.inputs:
        shape = ctx.shape(ctx.name(index))
        names.append(ctx.aside(Reshape((*shape[:axis], 1, *shape[axis:])), ctx.name(index)))
    ctx.emit(Concat(axis), *names)


def _part(ctx: Context, x: str, axis: int, start: int, size: int) -> Slice:
    shape = ctx.shape(x)
    begin = tuple(start if i == axis else 0 for i in range(len(shape)))
    return Slice(begin, tuple(size if i == axis else n for i, n in enumerate(shape)))


def unpack(ctx: Context) -> None:
    """Lower UNPACK: one slice and reshape per result."""
    assert ctx.op is not None
    _same_scale(ctx, ctx.operand(0))
    x = ctx.name(ctx.operand(0))
    axis = _axis(ctx, ctx.option("Axis"), len(ctx.shape(x)))
    for i, result in enumerate(ctx.op.outputs):
        part = ctx.aside(_part(ctx, x, axis, i, 1), x)
        ctx.emit(Reshape(ctx.info(result).shape), part, result=result)


def _split(ctx: Context, x: str, axis: int, sizes: list[int]) -> None:
    assert ctx.op is not None
    start = 0
    for result, size in zip(ctx.op.outputs, sizes, strict=True):
        ctx.emit(_part(ctx, x, axis, start, size), x, result=result)
        start += size


def split(ctx: Context) -> None:
    """Lower SPLIT into equal slices."""
    assert ctx.op is not None
    x = ctx.name(ctx.operand(1))
    axis = _axis(ctx, ctx.ints(0)[0], len(ctx.shape(x)))
    n = len(ctx.op.outputs)
    _split(ctx, x, axis, [ctx.shape(x)[axis] // n] * n)


def split_v(ctx: Context) -> None:
    """Lower SPLIT_V into slices of the given sizes."""
    x = ctx.name(ctx.operand(0))
    _split(ctx, x, _axis(ctx, ctx.ints(2)[0], len(ctx.shape(x))), list(ctx.ints(1)))


def slice_(ctx: Context) -> None:
    """Lower SLICE."""
    _same_scale(ctx, ctx.operand(0))
    x = ctx.name(ctx.operand(0))
    start = ctx.ints(1)
    size = tuple(e - b if n == -1 else n for b, n, e in zip(start, ctx.ints(2), ctx.shape(x), strict=True))
    ctx.emit(Slice(start, size), x)


def strided_slice(ctx: Context) -> None:
    """Lower STRIDED_SLICE with positive strides."""
    _same_scale(ctx, ctx.operand(0))
    x = ctx.name(ctx.operand(0))
    if ctx.option("EllipsisMask", 0) or ctx.option("NewAxisMask", 0):
        raise ctx.refuse("ellipsis and new-axis masks are not supported")
    begins, sizes, steps = [], [], []
    rows = zip(ctx.ints(1), ctx.ints(2), ctx.ints(3), ctx.shape(x), strict=True)
    for i, (begin, end, step, extent) in enumerate(rows):
        if step < 1:
            raise ctx.refuse(f"stride {step}: positive strides are supported")
        bit = 1 << i
        first, last, _ = slice(
            None if ctx.option("BeginMask", 0) & bit else begin, None if ctx.option("EndMask", 0) & bit else end
        ).indices(extent)
        if ctx.option("ShrinkAxisMask", 0) & bit:
            first, last, step = begin % extent, begin % extent + 1, 1
        begins.append(first)
        sizes.append(max(0, -(-(last - first) // step)))
        steps.append(step)
    _to_result_shape(ctx, ctx.aside(Slice(tuple(begins), tuple(sizes), tuple(steps)), x))


def gather(ctx: Context) -> None:
    """Lower GATHER with rank-1 indices."""
    _same_scale(ctx, ctx.operand(0))
    x, indices = ctx.name(ctx.operand(0)), ctx.name(ctx.operand(1))
    if ctx.option("BatchDims", 0):
        raise ctx.refuse("batch dimensions are not supported")
    if len(ctx.shape(indices)) == 0:
        indices = ctx.aside(Reshape((1,)), indices)
    found = ctx.aside(Gather(_axis(ctx, ctx.option("Axis", 0), len(ctx.shape(x)))), x, indices)
    _to_result_shape(ctx, found)


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
    index = ctx.operand(0)
    _same_scale(ctx, index)
    x = ctx.name(index)
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
