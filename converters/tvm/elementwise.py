"""add, sub, mul, rescale, clamp, cast and the shifts, in vectors with a scalar tail."""

from collections.abc import Mapping

import numpy as np

from bitship.converters.tvm.copy import Shape, broadcast_strides, nest, strides_of
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.requant import Epilogue
from bitship.converters.tvm.tir import Buffer, Expr, Function, cast, clamp, const, select, splat
from bitship.graph.base import Interval
from bitship.graph.ops import (
    Add,
    ArithmeticRightShift,
    Cast,
    Clamp,
    LogicalLeftShift,
    Mul,
    Rescale,
    ShiftRounding,
    Sub,
)


class Scaler:
    """An optional rescale with one multiplier, for whole vectors and for the scalar tail."""

    def __init__(self, fn: Function, isa: Isa, rq: Rescale | None, value: Interval) -> None:
        centred = rq.input_zero_point if rq else 0
        bound = max(abs(value.lo - centred), abs(value.hi - centred))
        self.by_lanes: Mapping[int, Epilogue] = {n: Epilogue(fn, isa, rq, bound, None, n) for n in (1, isa.lanes)}

    def apply(self, value: Expr, lanes: int) -> Expr:
        """Return the rescaled int32 value in the rescale's dtype."""
        return self.by_lanes[lanes].apply(value, 0)


def read(buffer: Buffer, at: Expr, step: int, lanes: int) -> Expr:
    """Return an operand as int32 lanes: consecutive elements, or one repeated."""
    value = buffer.load(at, lanes) if step else splat(buffer.load(at), lanes)
    return value if buffer.dtype == "int32" else cast(value, "int32", lanes)


def term_range(r: Rescale | None, x: Interval) -> Interval:
    """Return the range of an operand after its own rescale."""
    if r is None:
        return x
    ends = r.apply(np.array([x.lo, x.hi], np.int64))
    return Interval(int(ends[0]), int(ends[1]))


def lower_sum(
    fn: Function,
    isa: Isa,
    op: Add | Sub,
    operands: tuple[Buffer, Buffer],
    out: Buffer,
    shapes: tuple[Shape, Shape, Shape],
    ranges: tuple[Interval, Interval],
) -> None:
    """Rescale each operand, add or subtract, rescale the result; shapes are a's, b's and the output's."""
    a, b = Scaler(fn, isa, op.a, ranges[0]), Scaler(fn, isa, op.b, ranges[1])
    p, q = term_range(op.a, ranges[0]), term_range(op.b, ranges[1])
    subtract = isinstance(op, Sub)
    total = Interval(p.lo - q.hi, p.hi - q.lo) if subtract else Interval(p.lo + q.lo, p.hi + q.hi)
    final = Scaler(fn, isa, op.requant, total)

    def body(at: list[Expr], steps: list[int], lanes: int) -> None:
        left = fn.let(a.apply(fn.let(read(operands[0], at[0], steps[0], lanes)), lanes))
        right = fn.let(b.apply(fn.let(read(operands[1], at[1], steps[1], lanes)), lanes))
        out.store(at[2], final.apply(fn.let(left - right if subtract else left + right), lanes), lanes)

    nest(fn, shapes[2], _walks(shapes), isa.lanes, body)


def _walks(shapes: tuple[Shape, Shape, Shape]) -> list[tuple[int, ...]]:
    a, b, out = shapes
    return [broadcast_strides(a, out), broadcast_strides(b, out), strides_of(out)]


def lower_mul(
    fn: Function,
    isa: Isa,
    op: Mul,
    operands: tuple[Buffer, Buffer],
    out: Buffer,
    shapes: tuple[Shape, Shape, Shape],
    ranges: tuple[Interval, Interval],
) -> None:
    """Multiply centred operands, rescale the product."""
    corners = [
        (p - op.a_zero_point) * (q - op.b_zero_point)
        for p in (ranges[0].lo, ranges[0].hi)
        for q in (ranges[1].lo, ranges[1].hi)
    ]
    final = Scaler(fn, isa, op.requant, Interval(min(corners), max(corners)))

    def body(at: list[Expr], steps: list[int], lanes: int) -> None:
        left = read(operands[0], at[0], steps[0], lanes) - const(op.a_zero_point, "int32", lanes)
        right = read(operands[1], at[1], steps[1], lanes) - const(op.b_zero_point, "int32", lanes)
        out.store(at[2], final.apply(fn.let(left * right), lanes), lanes)

    nest(fn, shapes[2], _walks(shapes), isa.lanes, body)


def lower_rescale(fn: Function, isa: Isa, op: Rescale, x: Buffer, out: Buffer, shape: Shape, value: Interval) -> None:
    """Requantize; per channel along the last axis where there is one multiplier per channel."""
    if not op.per_channel:
        scaler = Scaler(fn, isa, op, value)

        def body(at: list[Expr], steps: list[int], lanes: int) -> None:
            out.store(at[1], scaler.apply(fn.let(read(x, at[0], steps[0], lanes)), lanes), lanes)

        nest(fn, shape, (strides_of(shape), strides_of(shape)), isa.lanes, body)
        return
    bound = max(abs(value.lo - op.input_zero_point), abs(value.hi - op.input_zero_point))
    channels = shape[-1]
    whole = channels // isa.lanes
    with fn.divided(int(np.prod(shape[:-1]))) as row:
        start = fn.let(row * channels)
        for lanes, first, count in ((isa.lanes, 0, whole), (1, whole * isa.lanes, channels - whole * isa.lanes)):
            if not count:
                continue
            slots = list(range(first, first + count * lanes))
            epilogue = Epilogue(fn, isa, op, bound, slots, lanes)
            with fn.loop(count) as block:
                at = fn.let(start + first + block * lanes)
                out.store(at, epilogue.apply(fn.let(read(x, at, 1, lanes)), block), lanes)


def lower_clamp(fn: Function, op: Clamp, x: Buffer, out: Buffer, size: int) -> None:
    """Limit every element, in its own dtype."""
    low, high = (1, 0) if x.dtype == "bool" else (op.qmin, op.qmax)

    def body(at: Expr, lanes: int) -> None:
        out.store(at, clamp(x.load(at, lanes), low, high, x.dtype, lanes), lanes)

    fn.chunks(size, 64 // np.dtype(x.dtype).itemsize, body, divided=True)


def lower_cast(fn: Function, op: Cast, x: Buffer, out: Buffer, size: int) -> None:
    """Convert every element."""
    with fn.divided(size) as i:
        value = x.load(i)
        if op.dtype.value == "bool":
            value = select(value.__ne__(const(0, x.dtype)), const(1, "int8"), const(0, "int8"))
            out.store(i, value)
        else:
            out.store(i, cast(value, out.dtype) if out.dtype != x.dtype else value)


def lower_shift(fn: Function, op: LogicalLeftShift | ArithmeticRightShift, x: Buffer, out: Buffer, size: int) -> None:
    """Shift every element, in 64 bits, which LLVM narrows again where it may."""
    up = isinstance(op, LogicalLeftShift)
    half = 0
    if isinstance(op, ArithmeticRightShift) and op.rounding is ShiftRounding.HALF_UP:
        half = (1 << op.amount) >> 1
    with fn.divided(size) as i:
        value = cast(x.load(i), "int64") + const(half, "int64")
        by = const(op.amount, "int64")
        out.store(i, cast(value << by if up else value >> by, out.dtype))
