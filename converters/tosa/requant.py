"""Rescale in TOSA: RESCALE where its rules hold, with the operand shifted, centred or clamped before where not.

DOUBLE of the graph is TOSA's DOUBLE_ROUND: for a product p and a further shift r > 0, gemmlowp's pair rounds
``(p + 2^30) >> 31`` half away at 2^r, and TOSA adds ``2^(30 + r)`` and 2^30 with the sign of the value to p at once;
both come to the same number. Without a further shift, or with a left shift s (``(p << s)`` is exact), it is SINGLE.

RESCALE takes a value v with a shift d only where ``|v| < 2^(d - 1)`` and the result is an int32. Where a range does
not prove that, the value is clamped to where the output is saturated anyway and goes through MUL, which is
free of such rules.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import UINT8_OFFSET, Element, Value
from bitship.errors import UnsupportedError
from bitship.graph import ops
from bitship.graph.base import Ints
from bitship.graph.dtypes import DType

_LOW, _HIGH = Element.INT32.range
_ELEMENT = {DType.INT8: Element.INT8, DType.UINT8: Element.INT8, DType.INT16: Element.INT16, DType.INT32: Element.INT32}
_MOST_LEFT = 28  # RESCALE by 2^k is multiplier 2^30 and shift 30 - k, which must be at least 2
_ONCE = 31  # the largest shift at which DOUBLE rounds once

Reach = tuple[Ints, Ints]


@dataclass(frozen=True)
class Factor:
    """Multiplier and right shift (1 to 62) of every channel, and whether shifts beyond 31 round twice."""

    multiplier: tuple[int, ...]
    shift: tuple[int, ...]
    double: bool

    def only(self, wanted: NDArray[np.bool_], double: bool) -> "Factor":
        """Return the factors of some channels, 0 in the others."""
        kept = [(m, d) if w else (0, 62) for m, d, w in zip(self.multiplier, self.shift, wanted.tolist(), strict=True)]
        return Factor(tuple(m for m, _ in kept), tuple(d for _, d in kept), double)


def _twice(r: ops.Rescale) -> bool:
    return r.rounding is ops.Rounding.DOUBLE and min(r.shift) < 0


def _foldable(r: ops.Rescale) -> bool:
    """Whether pre_shift is a smaller right shift: with one rounding, ``(v << p) * m >> d`` is ``v * m >> (d - p)``."""
    return not _twice(r) and 31 - max(r.shift) - r.pre_shift >= 2


def factor_of(r: ops.Rescale) -> Factor:
    """Return a rescale's factors; a pre_shift that is not foldable is left to the operand."""
    power = r.pre_shift if _foldable(r) else 0
    return Factor(r.multiplier, tuple(31 - s - power for s in r.shift), _twice(r))


def rescale(e: Emitter, x: Value, r: ops.Rescale, zero_point: int | None = None, reach: Reach | None = None) -> Value:
    """Return ``r`` of a value, in the element of its dtype (uint8 less 128).

    zero_point  the input's, where it is not ``r.input_zero_point``: of uint8, that less 128
    reach       lowest and highest value of every channel of the last axis, where they are known
    """
    zero_point = r.input_zero_point if zero_point is None else zero_point
    low, high = (np.array([x.lo]), np.array([x.hi])) if reach is None else reach
    low, high = low.astype(np.int64) - zero_point, high.astype(np.int64) - zero_point
    power = 0 if _foldable(r) else r.pre_shift
    y = _rescaled(e, x, r, zero_point, (low << power, high << power))
    offset = UINT8_OFFSET if r.dtype is DType.UINT8 else 0
    channels = max(low.size, len(r.multiplier))
    least, most = (r.apply(np.broadcast_to(a, channels) + r.input_zero_point) - offset for a in (low, high))
    return y.within(int(least.min()), int(most.max()))


def _rescaled(e: Emitter, x: Value, r: ops.Rescale, zero_point: int, reach: Reach) -> Value:
    """Return the rescaled value; ``reach`` is that of the centred and shifted operand."""
    element, (low, high) = _ELEMENT[r.dtype], reach
    offset = UINT8_OFFSET if r.dtype is DType.UINT8 else 0
    qmin, qmax, out_zp = r.qmin - offset, r.qmax - offset, r.output_zero_point - offset
    power = 0 if _foldable(r) else r.pre_shift
    if power or not (zero_point == 0 or _eight_bits(x, zero_point)):
        x, zero_point = centred(e, x, zero_point, power), 0
    factor = factor_of(r)
    floor, ceiling = max(qmin - out_zp, _LOW), min(qmax - out_zp, _HIGH)
    if floor > ceiling:  # a zero point so far out that every int32 is saturated; the others are, too
        raise UnsupportedError(_far(e, r))
    if _direct(factor, low, high, out_zp) and (out_zp == 0 or (element is Element.INT8 and -128 <= out_zp <= 127)):
        ends = _ends(factor, low, high)
        return e.clamp(apply(e, x, zero_point, factor, element, out_zp, ends), qmin, qmax)
    if _direct(factor, low, high, 0):
        y = apply(e, x, zero_point, factor, Element.INT32, 0, _ends(factor, low, high))
    elif qmin - out_zp < _LOW or qmax - out_zp > _HIGH:
        raise UnsupportedError(_far(e, r))
    else:
        y = _saturating(e, e.sub(e.wide(x), zero_point), factor, floor, ceiling)
    y = e.clamp(y, floor, ceiling)
    return e.cast(e.add(y, out_zp, (qmin, qmax)), element)


def _far(e: Emitter, r: ops.Rescale) -> str:
    return (
        f"tosa: node '{e.scope}': a rescale to [{r.qmin}, {r.qmax}] with zero point {r.output_zero_point} saturates "
        "beyond int32 before the zero point is added; use a zero point nearer to 0"
    )


def finish(e: Emitter, acc: Value, requant: ops.Rescale | None, reach: Reach | None = None) -> Value:
    """Return the int32 accumulator, requantized when the op carries an epilogue."""
    if reach is not None:
        acc = acc.within(int(reach[0].min()), int(reach[1].max()))
    elif e.accumulator is not None:
        acc = acc.within(*e.accumulator)
    return acc if requant is None else rescale(e, acc, requant, reach=reach)


def identity(e: Emitter, x: Value, element: Element, reach: tuple[int, int] | None = None) -> Value:
    """Narrow INT48 to int32, whose range was proven."""
    inputs = [x, e.const(1 << 14, Element.INT16), e.const(14, Element.INT8), e.const(0, x.element), e.const(0, element)]
    return e.custom("RESCALE", inputs, x.shape, element, reach, **_attributes(e, False, False, False))


def centred(e: Emitter, x: Value, zero_point: int, power: int = 0) -> Value:
    """Return ``(x - zero_point) << power`` in int32."""
    if _eight_bits(x, zero_point) and x.array is None and 0 < power <= _MOST_LEFT:
        lo, hi = (x.lo - zero_point) << power, (x.hi - zero_point) << power
        return apply(e, x, zero_point, Factor((1 << 30,), (30 - power,), False), Element.INT32, 0, (lo, hi))
    return e.shift_left(e.sub(e.wide(x), zero_point), power)


def _eight_bits(x: Value, zero_point: int) -> bool:
    return x.element is Element.INT8 and -128 <= zero_point <= 127


def _ends(factor: Factor, low: Ints, high: Ints) -> tuple[int, int]:
    """Return the range of the rescaled value before any clamp."""
    channels, found = len(factor.multiplier), []
    for i in range(max(channels, low.size)):
        m, d = factor.multiplier[i % channels], factor.shift[i % channels]
        for v in (int(low[i % low.size]), int(high[i % high.size])):
            found.append((v * m + (1 << (d - 1))) >> d)
    return min(found) - factor.double, max(found) + factor.double


def _direct(factor: Factor, low: Ints, high: Ints, out_zp: int) -> bool:
    """Whether RESCALE's rules hold for values in the range."""
    least, most = _ends(factor, low, high)
    if min(least, least + out_zp) < _LOW or max(most, most + out_zp) > _HIGH or min(factor.shift) < 2:
        return False
    room = np.array([1 << (d - 1) for d in factor.shift], object)
    return bool((low >= -room).all() and (high < room).all())


def saturates_at(factor: Factor, target: int) -> Ints:
    """Return, for every channel, the smallest magnitude whose rescaled value is at least ``target``."""
    pairs = zip(factor.multiplier, factor.shift, strict=True)
    return np.array([min(_HIGH, (target << d) // m + 1) if m else _HIGH for m, d in pairs], np.int64)


def _fits_until(factor: Factor) -> Reach:
    """Return, for every channel, the lowest and the highest operand whose rescaled value is an int32."""
    ends = []
    for m, d in zip(factor.multiplier, factor.shift, strict=True):
        whole, half = 1 << (31 + d), 1 << (d - 1)
        ends.append((max(_LOW, -((whole + half) // m)), min(_HIGH, (whole - half - 1) // m)) if m else (_LOW, _HIGH))
    return np.array([lo for lo, _ in ends], np.int64), np.array([hi for _, hi in ends], np.int64)


def _saturating(e: Emitter, x: Value, factor: Factor, floor: int, ceiling: int) -> Value:
    """Return the rescaled int32, right wherever it lies in [floor, ceiling] and beyond them on the right side.

    The operand is clamped, channel by channel, to where the result is past the ends; an output that reaches to
    int32's own ends gets those by a comparison.
    """
    rows = (1,) * (x.rank - 1) + (-1,)
    target = max(abs(floor), abs(ceiling)) + 2
    if target < 1 << 30:
        limit = saturates_at(factor, target).reshape(rows)
        inside = e.maximum(e.minimum(x, e.const(limit)), e.const(-limit))
        return _through_mul(e, inside, factor)
    least, most = (e.const(end.reshape(rows)) for end in _fits_until(factor))
    y = _through_mul(e, e.maximum(e.minimum(x, most), least), factor)
    y = e.select(e.greater(x, most), ceiling, y)
    return e.select(e.greater(least, x), floor, y)


def _through_mul(e: Emitter, x: Value, factor: Factor) -> Value:
    """Return the rescaled int32 where RESCALE's domain is too small: one MUL for every shift there is.

    Channels that round twice have shifts above 31, whose domain is all of int32.
    """
    rows = (1,) * (x.rank - 1) + (-1,)
    shifts = np.array(factor.shift, np.int64)
    twice = (shifts > _ONCE) & factor.double
    parts: list[Value] = []
    if twice.any():
        parts.append(apply(e, x, 0, factor.only(twice, True), Element.INT32, 0, Element.INT32.range))
    for d in sorted(set(shifts[~twice].tolist())):
        here = ~twice & (shifts == d)
        multipliers = np.where(here, np.array(factor.multiplier, np.int64), 0)
        parts.append(e.mul(x, e.const(multipliers.reshape(rows)), d, Element.INT32.range))
    y = parts[0]
    for part in parts[1:]:  # all but one of them are 0
        y = e.add(y, part, Element.INT32.range)
    return y


def _attributes(e: Emitter, scale32: bool, double: bool, channels: bool) -> dict[str, Any]:
    modes = e.tosa.RoundingMode
    return {
        "scale32": scale32,
        "rounding_mode": modes.DOUBLE_ROUND if double else modes.SINGLE_ROUND,
        "per_channel": channels,
        "input_unsigned": False,
        "output_unsigned": False,
    }


def apply(
    e: Emitter, x: Value, zero_point: int, factor: Factor, element: Element, out_zp: int, ends: tuple[int, int]
) -> Value:
    """Add one RESCALE; ``ends`` is the range of the rescaled value before the output's zero point."""
    least, most = element.range
    reach = min(max(ends[0] + out_zp, least), most), max(min(ends[1] + out_zp, most), least)
    inputs = [
        x,
        e.const(np.array(factor.multiplier, np.int64)),
        e.const(np.array(factor.shift, np.int64), Element.INT8),
        e.const(zero_point, x.element),
        e.const(out_zp, element),
    ]
    channels = len(factor.multiplier) > 1
    return e.custom("RESCALE", inputs, x.shape, element, reach, **_attributes(e, True, factor.double, channels))
