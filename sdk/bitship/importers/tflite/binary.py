"""MAXIMUM, MINIMUM, PRELU, SQUARED_DIFFERENCE and BATCH_MATMUL from the ops the graph has."""

import numpy as np

from bitship.graph import DType
from bitship.graph.fixedpoint import quantize_multiplier, rescale_double
from bitship.graph.ops import Add, Clamp, MatMul, Mul, Rescale, Reshape, Rounding, Sub, Table, Transpose
from bitship.importers.tflite.context import Context
from bitship.importers.tflite.layout import moved, stretch

_WIDE = 1 << 20
_SAME = Rescale((1 << 30,), (1,))


def _extreme(ctx: Context, low: int, high: int) -> None:
    """``b + clamp(a - b)``: the larger for [0, 255], the smaller for [-255, 0]; codes are compared, as LiteRT does."""
    a, b = moved(ctx, 0), moved(ctx, 1)
    for x, other in ((a, b), (b, a)):
        value = ctx.builder.constants.get(other)
        if value is not None and value.size == 1 and len(ctx.shape(other)) <= len(ctx.shape(x)):
            c = int(value.reshape(-1)[0])
            ctx.emit(Clamp(c, 127) if high > 0 else Clamp(-128, c), x)
            return
    a, b = ctx.same_rank(a, b)
    difference = ctx.aside(Clamp(low, high), ctx.aside(Sub(), a, b))
    ctx.emit(Add(requant=_SAME), difference, b)


def maximum(ctx: Context) -> None:
    """Lower MAXIMUM."""
    _extreme(ctx, 0, 255)


def minimum(ctx: Context) -> None:
    """Lower MINIMUM."""
    _extreme(ctx, -255, 0)


def _wide(factor: float, zero_point: int = 0) -> Rescale:
    """Return a rescale to an int32 that is far wider than the codes the result is clamped to."""
    multiplier, shift = quantize_multiplier(factor)
    return Rescale(
        (multiplier,), (shift,), zero_point, rounding=Rounding.DOUBLE, dtype=DType.INT32, qmin=-_WIDE, qmax=_WIDE
    )


def prelu(ctx: Context) -> None:
    """Lower PRELU: one factor above zero, another times alpha below; a table when alpha is one number."""
    x_index, alpha_index = ctx.operand(0), ctx.operand(1)
    x, alpha = moved(ctx, 0), moved(ctx, 1)
    sx, sa, sy = (np.float32(ctx.scale(i)) for i in (x_index, alpha_index, ctx.result))
    with np.errstate(all="ignore"):
        up, down = float(sx / sy), float(sx * sa / sy)
    above, below = _wide(up, ctx.zero_point(x_index)), _wide(down)
    zx, za, zy = (ctx.zero_point(i) for i in (x_index, alpha_index, ctx.result))
    value = ctx.builder.constants.get(alpha)
    if value is not None and value.size and (value == value.reshape(-1)[0]).all():
        slope = int(value.reshape(-1)[0]) - za

        def code(q: int) -> int:
            r, v = (above, q) if q >= 0 else (below, q * slope)
            return max(-128, min(127, rescale_double(v, r.multiplier[0], r.shift[0]) + zy))

        table = np.array([code(q - zx) for q in range(-128, 128)], np.int8)
        ctx.emit(Table(), x, ctx.builder.constant("table", table))
        return
    x, alpha = ctx.same_rank(x, alpha)
    negative = ctx.aside(Mul(zx, za, below), ctx.aside(Clamp(-128, zx), x), alpha)
    positive = ctx.aside(Clamp(zx, 127), x)
    out = Rescale((1 << 30,), (1,), output_zero_point=zy)
    ctx.emit(Add(a=above, requant=out), positive, negative)


def squared_difference(ctx: Context) -> None:
    """Lower SQUARED_DIFFERENCE: both operands to a common scale with 7 extra bits, the square, and down."""
    a, b = ctx.operand(0), ctx.operand(1)
    names = ctx.same_rank(moved(ctx, 0), moved(ctx, 1))
    if ctx.info(ctx.result).type != "INT8":
        raise ctx.refuse(f"result is {ctx.info(ctx.result).type}; INT8 is supported")
    twice = 2.0 * max(ctx.scale(a), ctx.scale(b))

    def term(index: int) -> Rescale:
        multiplier, shift = quantize_multiplier(ctx.scale(index) / twice)
        return Rescale(
            (multiplier,),
            (shift,),
            ctx.zero_point(index),
            rounding=Rounding.DOUBLE,
            pre_shift=7,
            dtype=DType.INT32,
            qmin=-(1 << 15),
            qmax=1 << 15,
        )

    difference = ctx.aside(Sub(a=term(a), b=term(b)), *names)
    out = ctx.rescale_to(ctx.result, [twice * twice / ((1 << 14) * ctx.scale(ctx.result))], activation=False)
    ctx.emit(Mul(requant=out), difference, difference)


def _transposed(ctx: Context, x: str, wanted: bool) -> str:
    rank = len(ctx.shape(x))
    return ctx.aside(Transpose((*range(rank - 2), rank - 1, rank - 2)), x) if wanted else x


def batch_matmul(ctx: Context) -> None:
    """Lower BATCH_MATMUL of two int8 tensors, leading axes broadcast."""
    ia, ib = ctx.operand(0), ctx.operand(1)
    a, b = moved(ctx, 0), moved(ctx, 1)
    if min(len(ctx.shape(a)), len(ctx.shape(b))) < 2 or ctx.info(ctx.result).type != "INT8":
        raise ctx.refuse("two int8 operands of rank 2 or more are supported")
    a = _transposed(ctx, a, ctx.option("AdjX", False))
    b = _transposed(ctx, b, ctx.option("AdjY", False))
    try:
        lead = np.broadcast_shapes(ctx.shape(a)[:-2], ctx.shape(b)[:-2])
    except ValueError:
        raise ctx.refuse(f"{ctx.shape(a)} and {ctx.shape(b)} do not broadcast") from None
    batch = int(np.prod(lead, dtype=object))
    parts = []
    for x in (a, b):
        tail = ctx.shape(x)[-2:]
        x = stretch(ctx, x, (*lead, *tail))
        parts.append(x if len(lead) == 1 else ctx.aside(Reshape((batch, *tail)), x))
    product = float(np.float32(ctx.scale(ia)) * np.float32(ctx.scale(ib)))
    requant = ctx.rescale_to(ctx.result, [product / ctx.scale(ctx.result)], activation=False)
    y = ctx.aside(MatMul(ctx.zero_point(ia), ctx.zero_point(ib), requant), *parts)
    ctx.emit(Reshape((*lead, *ctx.shape(y)[-2:])), y)
