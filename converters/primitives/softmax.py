"""softmax, table_softmax and softmax_matmul in integer primitives."""

import numpy as np

from bitship.converters.primitives.arithmetic import (
    I32,
    I64,
    count_powers,
    finish,
    half_away,
    limited,
    plus,
    power,
    times,
)
from bitship.converters.primitives.machine import Machine, Value
from bitship.converters.primitives.products import dot
from bitship.converters.primitives.roots import reciprocal
from bitship.errors import UnsupportedError
from bitship.graph.base import Array
from bitship.graph.dtypes import DType
from bitship.graph.ops import Softmax, SoftmaxMatMul, TableSoftmax

_ONE = (1 << 31) - 1
_48_OVER_17 = 1515870810  # Q2.29
_NEG_32_OVER_17 = -1010580540  # Q2.29


def below_largest(k: Machine, x: Value) -> tuple[Value, Value]:
    """Return (x, max(x) - x over the last axis) in int32."""
    rows = k.cast(x, I32)
    return rows, k.sub(k.largest(rows, (x.rank - 1,)), rows)


def table_of(value: Value) -> Array:
    """Return a constant table; UnsupportedError when it is computed."""
    if value.array is None:
        raise UnsupportedError("its table is computed; a constant one is supported")
    return value.array


def _high_mul(k: Machine, a: Value, b: Value) -> Value:
    """``floor((a * b + 2^30) / 2^31)`` of int32; the operands here never are both the lowest."""
    return k.affine(k.mul(k.cast(a, I64), k.cast(b, I64)), 1, 1 << 30, 31)


def _reciprocal(k: Machine, total: Value) -> tuple[Value, Value]:
    """Return (1 / mantissa in Q0.31, headroom) of int32 totals [..., 1] in [1, 2^31), both int32."""
    wide = k.cast(total, I64)
    bits = count_powers(k, wide, range(31))
    headroom = k.sub(k.number(32, I32), bits)
    shifted = k.mul(wide, power(k, headroom, 32))
    half_denominator = k.affine(shifted, 1, -(1 << 31) + _ONE + 1, 1)
    constant = k.number(_NEG_32_OVER_17, I32)
    x = plus(k, _high_mul(k, half_denominator, constant), _48_OVER_17)
    for _ in range(3):
        one_minus = k.sub(k.number(1 << 29, I32), _high_mul(k, half_denominator, x))
        step = limited(k, times(k, k.cast(_high_mul(k, x, one_minus), I64), 4), -(1 << 31), _ONE)
        x = k.add(x, k.cast(step, I32))
    return k.cast(limited(k, times(k, k.cast(x, I64), 2), -(1 << 31), _ONE), I32), headroom


def softmax(k: Machine, op: Softmax, x: Value, exp_table: Value) -> Value:
    """``256 * e / sum(e) - 128`` in gemmlowp's fixed point; the last shift differs by row."""
    _, below = below_largest(k, x)
    entries = table_of(exp_table).astype(np.int32)
    e = k.look_up(entries, below)
    total = k.total(half_away(k, e, 12), (x.rank - 1,))
    scale, headroom = _reciprocal(k, total)
    amount = k.sub(k.number(35, I32), headroom)  # at least 4: headroom is at most 31
    wide = k.cast(_high_mul(k, e, scale), I64)
    half = power(k, plus(k, amount, -1), 34)
    y = k.shift_rows(k.add(wide, half), amount, 4)
    return k.cast(limited(k, plus(k, y, -128), -128, 127), DType.INT8)


def _exponentials(k: Machine, x: Value, exp_table: Value, masked: bool) -> tuple[Value, Value]:
    """Return (e, sum of e, at least 1) of int8 rows, in int32."""
    rows, below = below_largest(k, x)
    e = k.look_up(table_of(exp_table).astype(np.int32), below)
    if masked:
        e = k.mul(e, k.at_least(rows, k.number(-127, I32)))
    return e, limited(k, k.total(e, (x.rank - 1,)), 1, I32.qmax)


def _inverse(k: Machine, total: Value) -> tuple[Value, Value]:
    """Return (R int64, b int32): b = bit_length(total) - 1, R = floor(2^(b + 30) / total)."""
    wide = k.cast(total, I64)
    b = count_powers(k, wide, range(1, 31))
    return reciprocal(k, k.mul(wide, power(k, k.sub(k.number(30, I32), b), 30))), b


def table_softmax(k: Machine, op: TableSoftmax, x: Value, exp_table: Value) -> Value:
    """Exponentials times the reciprocal of their sum, rounded to 15 bits."""
    e, total = _exponentials(k, x, exp_table, op.masked)
    inverse, b = _inverse(k, total)
    product = k.add(k.mul(k.cast(e, I64), inverse), power(k, plus(k, b, 14), 44))
    y = k.shift_rows(product, plus(k, b, 15), 15)
    return k.cast(limited(k, y, I32.qmin, 32767), DType.INT16)


def _within(k: Machine, x: Value, down: Value, reach: int) -> Value:
    """Clamp int64 so that a shift by ``down`` leaves at most ``reach``, which is clamped anyway."""
    bounds = np.array([min(reach << d, 1 << 62) for d in range(63)], np.int64)
    bound = k.look_up(bounds, down)
    return k.minimum(k.maximum(x, k.sub(k.number(0, I64), bound)), bound)


def softmax_matmul(k: Machine, op: SoftmaxMatMul, x: Value, v: Value, exp_table: Value) -> Value:
    """Product of the exponentials' codes; the reciprocal joins the multipliers."""
    r = op.requant
    e, total = _exponentials(k, x, exp_table, op.masked)
    acc = dot(k, k.cast(plus(k, e, -128), DType.INT8), v, -128, op.v_zero_point)
    inverse, b = _inverse(k, total)
    if r is None:
        return finish(k, acc, r)
    m = k.affine(inverse, np.array(r.multiplier, np.int64), 1 << 29, 30)
    shift = np.array([31 - s for s in r.shift], np.int64)
    down = k.add(b, k.number(shift, I32))
    product = k.mul(k.cast(acc, I64), k.cast(m, I64))
    least, most = int(shift.min()), min(int(shift.max()) + (255 * x.shape[-1]).bit_length(), 62)
    half = power(k, plus(k, down, -1), most)
    wide = k.add(product, half)
    if (255 * 255 * x.shape[-1] + 1) << 31 >= (1 << 31) << least:
        wide = _within(k, wide, down, abs(r.output_zero_point) + (1 << 16))
    y = k.shift_rows(wide, down, least)
    return k.cast(limited(k, plus(k, y, r.output_zero_point), r.qmin, r.qmax), r.dtype)
