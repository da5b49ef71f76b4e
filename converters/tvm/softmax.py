"""softmax over the last axis in gemmlowp's fixed point: scalar code in 64 bits, as the specification has it."""

import numpy as np

from bitship.converters.tvm.copy import Shape
from bitship.converters.tvm.tir import Buffer, Expr, Function, cast, clamp, const, maximum, minimum, select

_ONE = (1 << 31) - 1
_48_OVER_17 = 1515870810  # Q2.29
_NEG_32_OVER_17 = -1010580540  # Q2.29


def _c(value: int) -> Expr:
    return const(value, "int64")


def _high_mul(fn: Function, a: Expr, b: Expr) -> Expr:
    return fn.let(minimum((a * b + _c(1 << 30)) >> _c(31), _c(_ONE)))


def _rounding_shift(fn: Function, x: Expr, amount: Expr) -> Expr:
    """``x / 2^amount`` for x >= 0 and amount >= 1, rounded half up."""
    return fn.let((x + (_c(1) << (amount - _c(1)))) >> amount)


def _saturate(fn: Function, x: Expr) -> Expr:
    return fn.let(clamp(x, -(1 << 31), _ONE, "int64"))


def lower_softmax(fn: Function, x: Buffer, table: Buffer, out: Buffer, shape: Shape) -> None:
    """Largest element, sum of table entries, reciprocal, then every quotient."""
    extent = shape[-1]
    top, total, room = fn.registers("int32"), fn.registers("int64"), fn.registers("int64")
    with fn.loop(int(np.prod(shape[:-1]))) as row:
        start = fn.let(row * extent)

        def exponential(i: Expr) -> Expr:
            at = fn.let(top.load(0) - cast(x.load(start + i), "int32"))
            return fn.let(cast(table.load(at), "int64"))

        top.store(0, const(-128, "int32"))
        with fn.loop(extent) as i:
            top.store(0, maximum(top.load(0), cast(x.load(start + i), "int32")))
        total.store(0, _c(0))
        with fn.loop(extent) as i:
            total.store(0, total.load(0) + _rounding_shift(fn, exponential(i), _c(12)))
        scale = _reciprocal(fn, total, room)
        by = fn.let(_c(12 + 31 - 8) - room.load(0))
        with fn.loop(extent) as i:
            y = _rounding_shift(fn, _high_mul(fn, scale, exponential(i)), by)
            out.store(start + i, cast(clamp(y - _c(128), -128, 127, "int64"), "int8"))


def _reciprocal(fn: Function, total: Buffer, room: Buffer) -> Expr:
    """Return 1 / mantissa of the total in Q0.31 and leave the headroom (leading zeros of 32 bits) in ``room``."""
    room.store(0, _c(0))
    mantissa = fn.registers("int64")
    mantissa.store(0, total.load(0))
    for step in (16, 8, 4, 2, 1):
        small = fn.let(mantissa.load(0) < _c(1 << (32 - step)))
        room.store(0, room.load(0) + select(small, _c(step), _c(0)))
        mantissa.store(0, mantissa.load(0) << select(small, _c(step), _c(0)))
    half = fn.let((mantissa.load(0) - _c(1 << 31) + _c(_ONE + 1)) >> _c(1))
    x = fn.let(_c(_48_OVER_17) + _high_mul(fn, half, _c(_NEG_32_OVER_17)))
    for _ in range(3):
        one_minus = fn.let(_c(1 << 29) - _high_mul(fn, half, x))
        x = fn.let(x + _saturate(fn, _high_mul(fn, x, one_minus) << _c(2)))
    return _saturate(fn, x << _c(1))
