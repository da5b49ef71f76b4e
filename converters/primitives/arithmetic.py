"""Fixed-point arithmetic of the graph in the primitives of a ``Machine``."""

from collections.abc import Sequence

import numpy as np

from bitship.converters.primitives.machine import Ints, Machine, Value
from bitship.graph.base import Array
from bitship.graph.dtypes import DType
from bitship.graph.ops import Rescale, Rounding

I32, I64 = DType.INT32, DType.INT64
_WIDE = 1 << 63
_NARROW = 1 << 31


def reach_of(dtype: DType) -> int:
    """Largest magnitude of a dtype."""
    return max(-dtype.qmin, dtype.qmax)


def plus(k: Machine, x: Value, value: Ints) -> Value:
    """``x + value``; no op for zero."""
    return x if not np.any(value) else k.add(x, k.number(value, x.dtype))


def times(k: Machine, x: Value, value: Ints) -> Value:
    """``x * value``; no op for one."""
    return x if np.all(np.asarray(value) == 1) else k.mul(x, k.number(value, x.dtype))


def limited(k: Machine, x: Value, low: Ints, high: Ints) -> Value:
    """Clamp int32 or int64; the sides a dtype ends at anyhow cost nothing."""
    if np.any(np.asarray(low) > x.dtype.qmin):
        x = k.maximum(x, k.number(low, x.dtype))
    if np.any(np.asarray(high) < x.dtype.qmax):
        x = k.minimum(x, k.number(high, x.dtype))
    return x


def centred(k: Machine, x: Value, zero_point: int) -> Value:
    """``x - zero_point`` in int32."""
    return plus(k, k.cast(x, I32), -zero_point)


def rescale(k: Machine, x: Value, r: Rescale, reach: int | None = None) -> Value:
    """Return int32 ``clamp(round(...) + output_zero_point)`` of integers x, as ``Rescale.apply`` has it.

    reach  largest magnitude x can have; None: its dtype's. Multipliers run along the last axis.

    Results that could leave int32 are kept from it by a clamp of the input where that is enough; else they are int64.
    """
    reach = reach_of(x.dtype) if reach is None else reach
    double = r.rounding is Rounding.DOUBLE
    shift = np.array(r.shift, object)
    left = np.maximum(shift, 0) if double else shift * 0
    right = np.maximum(-shift, 0) if double else shift * 0
    down = shift * 0 + 31 if double else 31 - shift
    factor = np.array(r.multiplier, object) * 2**r.pre_shift * 2**left
    half = 2 ** (down - 1)
    x, most = k.cast(x, I32), _NARROW
    if not double:
        x, most = _clamped(k, x, r, factor, down, reach)
    addend = half - r.input_zero_point * factor
    if any(reach * int(f) + abs(int(a)) >= _WIDE for f, a in zip(factor, addend, strict=True)):
        x, addend = plus(k, k.cast(x, I64), -r.input_zero_point), half
    if not double and most >= _NARROW:
        y = k.affine64(x, _ints(factor), _ints(addend), _ints(down))
    else:
        y = k.affine(x, _ints(factor), _ints(addend), _ints(down))
    if double:
        y = half_away(k, y, _ints(right))
    if r.output_zero_point and most + abs(r.output_zero_point) > _NARROW:
        y = k.cast(y, I64)
    return k.cast(limited(k, plus(k, y, r.output_zero_point), r.qmin, r.qmax), I32)


def _clamped(k: Machine, x: Value, r: Rescale, factor: Array, down: Array, reach: int) -> tuple[Value, int]:
    """Clamp inputs to where results still differ, when that is needed and enough for them to fit int32.

    Returns the input and a bound on the magnitude of the result before the zero point is added.
    """
    wide = reach + abs(r.input_zero_point)
    most = max(((wide * int(f) + (1 << int(d - 1))) >> int(d)) + 1 for f, d in zip(factor, down, strict=True))
    need = max(abs(r.qmin - r.output_zero_point), abs(r.qmax - r.output_zero_point)) + 2
    if most < _NARROW or need > 1 << 29:
        return x, most
    bounds = [((need << int(d)) // int(f) + 1 if f else _WIDE) for f, d in zip(factor, down, strict=True)]
    low = [max(r.input_zero_point - b, -_NARROW) for b in bounds]
    high = [min(r.input_zero_point + b, _NARROW - 1) for b in bounds]
    steps = max((int(f) >> int(d)) + 1 for f, d in zip(factor, down, strict=True))
    if need + 2 * steps >= _NARROW:
        return x, most
    return limited(k, x, np.array(low), np.array(high)), need + 2 * steps


def _ints(values: Array) -> Array:
    return np.array([int(v) for v in values], np.int64)


def half_away(k: Machine, x: Value, amount: Ints) -> Value:
    """``x / 2^amount`` of int32, rounded half away from zero (gemmlowp's RoundingDivideByPOT)."""
    amounts = np.atleast_1d(np.asarray(amount, np.int64))
    if not amounts.any():
        return x
    negative = k.shift32(x, 31)
    if amounts.min() > 1:  # by one, the largest int32 and its half would leave int32
        high = k.shift32(k.add(x, negative), amounts - 1)
        return k.shift32(plus(k, high, 1), 1)
    negative = times(k, negative, (amounts > 0).astype(np.int64))
    wide = k.cast(k.add(x, negative), I64)
    return k.affine(wide, 2, (np.int64(1) << amounts) >> 1 << 1, amounts + 1)


def finish(k: Machine, acc: Value, requant: Rescale | None, reach: int | None = None) -> Value:
    """Return the accumulator as int32, or requantized when the op carries an epilogue."""
    if requant is None:
        return k.cast(acc, I32)
    return k.cast(rescale(k, acc, requant, reach), requant.dtype)


def count_powers(k: Machine, x: Value, exponents: Sequence[int]) -> Value:
    """Return int32 [..., 1]: how many of these powers of two are at most x, int64 [..., 1]."""
    powers = k.constant(np.array([1 << e for e in exponents], np.int64))
    return k.total(k.cast(k.at_least(x, powers), I32), (x.rank - 1,))


def power(k: Machine, exponent: Value, most: int) -> Value:
    """``2^exponent`` in int64; exponent int32 in [0, most]."""
    return k.look_up(np.array([1 << i for i in range(most + 1)], np.int64), exponent)
