"""layer_norm, rms_norm and i_layer_norm: statistics in 15-bit limbs, one root and one division a row."""

from collections.abc import Sequence

import numpy as np

from bitship.converters.tosa import wide
from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import Element, Value
from bitship.errors import UnsupportedError
from bitship.graph import ops
from bitship.graph.base import Ints
from bitship.graph.dtypes import DType

_HIGH = (1 << 31) - 1
_RADICAND = 62
_NEWTON = 10
_LONGEST = 1 << 14  # elements of a row whose partial sums are int32 in every case
_CORRECTIONS = 3


def _check_length(e: Emitter, name: str, length: int) -> None:
    if length > _LONGEST:
        raise UnsupportedError(f"tosa: node '{e.scope}': {name} over {length} elements; {_LONGEST} are allowed")


def _square_sum(e: Emitter, x: Value) -> wide.Limbs:
    """Return the sum of squares of the last axis: of int8 in one sum, of wider values by parts of 8 bits."""
    most = max(abs(x.lo), abs(x.hi))
    if most * most * x.shape[-1] <= _HIGH:
        return wide.split(e, e.row_sum(e.mul(x, x, reach=(0, most * most)), (0, most * most * x.shape[-1])))
    low, high = e.low_bits(x, 8), e.shift_right(x, 8)
    sums = [e.row_sum(e.mul(p, q)) for p, q in ((low, low), (low, high), (high, high))]
    total = wide.split(e, sums[0])
    for part, factor in ((sums[1], 1 << 9), (sums[2], 1 << 16)):
        total = wide.subtract(e, total, wide.product(e, wide.split(e, part), wide.constant(e, _rows(part, -factor))))
    return total


def _rows(like: Value, value: int) -> Ints:
    return np.full((1,) * like.rank, value, np.int64)


def _root(e: Emitter, limbs: wide.Limbs) -> Value:
    """Return the integer square root, in [2^30, 2^31), of a proper number of 61 or 62 bits in five limbs.

    The upper 30 bits have a root of 15 by Newton steps; one division gives 16 more, two too many at most.
    """
    l0, l1, l2, l3, l4 = limbs
    top = e.add(e.add(e.shift_left(l4.within(0, 3), 28), e.shift_left(l3, 13)), e.shift_right(l2, 2))
    top = top.within(1 << 28, (1 << 30) - 1)
    middle = e.add(e.add(e.shift_left(e.low_bits(l2, 2), 14), e.shift_right(l1, 1)), 0).within(0, 65535)
    bottom = e.add(e.shift_left(e.low_bits(l1, 1), 15), l0).within(0, 65535)
    r = e.add(e.shift_right(top, 16), 3 << 12).within(1 << 14, 1 << 15)
    for _ in range(4):
        r = e.shift_right(e.add(r, e.intdiv(top, r)), 1).within(1 << 14, 1 << 15)
    r = e.sub(r, e.wide(e.greater(e.mul(r, r, reach=(0, 1 << 30)), top)), (1 << 14, (1 << 15) - 1))
    rest = e.sub(top, e.mul(r, r, reach=(0, 1 << 30)), (0, (1 << 16) - 2))
    numerator = e.add(e.shift_left(rest, 15), e.shift_right(middle, 1), (0, _HIGH))
    digit = e.minimum(e.intdiv(numerator, r, (0, 1 << 17)), 65535)
    for _ in range(_CORRECTIONS):
        digit = e.sub(digit, _too_large(e, r, rest, digit, middle, bottom), (0, 65535))
    return e.add(e.shift_left(r, 16), digit, (1 << 30, _HIGH))


def _too_large(e: Emitter, r: Value, rest: Value, digit: Value, middle: Value, bottom: Value) -> Value:
    """Return 1 where ``(2^16 r + digit)^2`` exceeds the number, of which rest is what ``r^2`` leaves of its top."""
    # (rest * 2^16 + middle - 2 r digit) * 2^16 + bottom - digit^2, of which only the sign is asked
    halved = e.sub(e.shift_left(rest, 15), e.mul(r, digit, reach=(0, _HIGH)), (-(1 << 30), _HIGH))
    halved = e.clamp(e.add(halved, e.shift_right(middle, 1), (-(1 << 30), _HIGH)), -(1 << 20), 1 << 20)
    left = e.add(e.add(halved, halved), e.low_bits(middle, 1))
    upper, lower = e.shift_right(digit, 8), e.low_bits(digit, 8)
    cross = e.mul(e.mul(upper, lower), 2)
    low = e.add(e.shift_left(e.low_bits(cross, 8), 8), e.mul(lower, lower))
    high = e.add(e.add(e.mul(upper, upper), e.shift_right(cross, 8)), e.shift_right(low, 16))
    borrow = e.shift_right(e.sub(bottom, e.low_bits(low, 16)), 16)
    sign = e.add(e.sub(left, high), borrow)
    return e.wide(e.greater(e.term(0, sign), sign))


def _normalised(e: Emitter, y: Value, w: wide.Limbs, epsilon: int, bound: int) -> Value:
    """Return ``z = round(2^20 y / sqrt(w + epsilon))`` as the specification rounds it; ``w + epsilon <= bound``."""
    v = wide.proper(e, wide.add_constant(e, w, epsilon), bound.bit_length())
    v = _at_least_one(e, v)
    t = e.shift_right(e.sub(_RADICAND, wide.bit_length(e, v)), 1)
    least = (_RADICAND - bound.bit_length()) >> 1
    t = t.within(least, 30)
    radicand = wide.shift_left(e, v, e.add(t, t), 5)
    inverse = wide.reciprocal(e, _root(e, radicand))
    reach = _reach(y.shape[-1])
    # |y| 2^t is below 2^31 sqrt(C): shifted by g bits less it fits int32, and one MUL rounds at 40 - g
    g = (reach >> 20).bit_length()
    z = e.mul(_shifted(e, y, e.sub(t, g)), inverse, 40 - g, (-reach, reach)) if t.hi >= g else None
    for few in range(least, min(g, 31)):  # only where a row's numbers are that large
        here = e.mul(e.select(e.equal(t, few), y, 0), inverse, 40 - few, (-reach, reach))
        z = here if z is None else e.select(e.equal(t, few), here, z)
    assert z is not None
    return z


def _shifted(e: Emitter, y: Value, amount: Value) -> Value:
    """Return ``y << max(amount, 0)``; y is small where the amount is large."""
    if amount.lo < 0:
        y = e.select(e.greater(e.term(0, amount), amount), 0, y)
    return e.shift_left(y, e.maximum(amount, 0), (-_HIGH, _HIGH))


def _reach(length: int) -> int:
    """Return the largest magnitude of a normalised value in Q20: sqrt(C), rounded up."""
    root = int(np.sqrt(length)) + 1
    return root << 20


def _at_least_one(e: Emitter, v: wide.Limbs) -> wide.Limbs:
    """Return ``max(v, 1)`` of a proper number."""
    largest = v[0]
    for limb in v[1:]:
        largest = e.maximum(largest, limb)
    return [e.select(e.equal(largest, 0), 1, v[0]), *v[1:]]


def affine(
    e: Emitter, op: ops.LayerNorm | ops.RmsNorm | ops.ILayerNorm, z: Value, multiplier: Value, bias: Value
) -> Value:
    """Return ``clamp(((z * m + (b << (shift - 16)) + 2^(shift - 1)) >> shift) + zero point)`` from 64-bit columns."""
    assert multiplier.array is not None
    assert bias.array is not None
    repeats = z.shape[-1] // multiplier.size
    shape = (*(1,) * (z.rank - 1), z.shape[-1])
    m, b = (np.tile(a.astype(np.int64), repeats).reshape(shape) for a in (multiplier.array, bias.array))
    reach = max(abs(z.lo), abs(z.hi)) * np.abs(m) + (np.abs(b) << (op.shift - 16)) + (1 << (op.shift - 1))
    addend = (b << (op.shift - 16)) + (np.int64(1) << (op.shift - 1))
    columns = wide.dense(e, wide.multiply(e, wide.split(e, z), wide.constant(e, m)), z)
    limbs = wide.constant(e, addend)
    zero = e.const(np.zeros((1,) * z.rank, np.int64))
    columns += [zero] * (len(limbs) - len(columns))
    columns[: len(limbs)] = [e.add(c, limb) for c, limb in zip(columns, limbs, strict=False)]
    y = _shift_down(e, wide.carry(e, columns), op.shift, int(reach.max()))
    if y.shape != z.shape:  # a shift so far that z is gone from it
        y = e.add(e.mul(z, 0), y)
    y = e.clamp(y, op.qmin - op.output_zero_point, op.qmax - op.output_zero_point)
    element = {DType.INT8: Element.INT8, DType.INT16: Element.INT16}[op.dtype]
    return e.cast(e.add(y, op.output_zero_point, (op.qmin, op.qmax)), element)


def _shift_down(e: Emitter, limbs: Sequence[Value], amount: int, reach: int) -> Value:
    """Return the number shifted right, saturated outside [-2^20, 2^20]; its magnitude is at most ``reach``."""
    first, rest = divmod(amount, wide.BITS)
    kept = list(limbs[first:])
    if not kept:  # all that is left is the sign
        return e.shift_right(limbs[-1], 31)
    y = e.shift_right(kept[0], rest)
    least = (reach >> amount) + 1
    for i, limb in enumerate(kept[1:], 1):
        places = wide.BITS * i - rest
        room = 1 << max(0, 30 - places)
        if max(abs(limb.lo), abs(limb.hi)) > room and least < 1 << 30:
            limb = limb.within(-room, room)  # the whole is that small, so its upper limbs are
        y = e.add(y, e.shift_left(e.clamp(limb, -room, room - 1), places), Element.INT32.range)
    return y.within(-least, least)


def layer_norm(e: Emitter, op: ops.LayerNorm, x: Value, multiplier: Value, bias: Value) -> Value:
    """Normalisation by exact mean and variance."""
    count = x.shape[-1]
    _check_length(e, op.name, count)
    q = e.wide(x)
    total = e.row_sum(q)
    spread = count * (x.hi - x.lo)
    y = e.sub(e.mul(q, count, reach=_wide_range(count, q)), total, (-spread, spread))
    square = wide.split(e, _absolute(e, total))
    scaled = wide.product(e, _square_sum(e, q), wide.constant(e, _rows(total, count)))
    w = wide.subtract(e, scaled, wide.product(e, square, square))
    largest = max(abs(x.lo), abs(x.hi))
    bound = count * count * largest * largest + op.epsilon
    return affine(e, op, _normalised(e, y, w, op.epsilon, max(bound, 1)), multiplier, bias)


def _wide_range(count: int, q: Value) -> tuple[int, int]:
    return min(count * q.lo, 0), max(count * q.hi, 0)


def _absolute(e: Emitter, x: Value) -> Value:
    return e.custom("ABS", [x], x.shape, Element.INT32, (0, max(abs(x.lo), abs(x.hi))))


def rms_norm(e: Emitter, op: ops.RmsNorm, x: Value, multiplier: Value, bias: Value) -> Value:
    """Normalisation by the exact mean square."""
    count = x.shape[-1]
    _check_length(e, op.name, count)
    q = e.sub(e.wide(x), op.input_zero_point)
    w = wide.product(e, _square_sum(e, q), wide.constant(e, np.full((1,) * q.rank, count, np.int64)))
    largest = max(abs(q.lo), abs(q.hi))
    bound = count * count * largest * largest + op.epsilon
    return affine(e, op, _normalised(e, e.mul(q, count), w, op.epsilon, max(bound, 1)), multiplier, bias)


def _rounded_mean(e: Emitter, q: Value) -> Value:
    """Mean of the rows, half to even; the offset leaves nothing negative to divide."""
    count = q.shape[-1]
    offset = -q.lo
    total = e.add(e.row_sum(q), offset * count, (0, (q.hi + offset) * count))
    whole = e.intdiv(total, e.const(_rows(q, count)), (0, q.hi + offset))
    rest = e.sub(total, e.mul(whole, count), (0, count - 1))
    twice = e.add(rest, rest)
    up = e.wide(e.greater(twice, count))
    if count % 2 == 0:
        odd = e.low_bits(whole if offset % 2 == 0 else e.add(whole, 1), 1)
        up = e.select(e.equal(twice, count), odd, up)
    return e.add(e.add(whole, up), -offset).within(q.lo, q.hi)


def _quotient(e: Emitter, v: wide.Limbs, k: Value) -> Value:
    """Return ``floor(v / k)`` of a proper number below 2^60, for k >= 1 and a quotient below 2^30."""
    zeros = e.sub(e.leading_zeros(k), 1).within(0, 30)
    divisor = e.shift_left(k, zeros, (1 << 30, _HIGH))
    limbs = wide.shift_left(e, v, zeros, 6)
    upper = e.add(e.shift_left(limbs[4].within(0, 1), 30), e.shift_left(limbs[3], 15), (0, _HIGH))
    high = e.add(upper, limbs[2], (0, _HIGH))
    return wide.divide(e, high, (limbs[1], limbs[0]), divisor).within(0, 1 << 30)


def i_layer_norm(e: Emitter, op: ops.ILayerNorm, x: Value, multiplier: Value, bias: Value) -> Value:
    """Rounded mean, ten Newton steps; the root is at least |y|, so z needs no clamp."""
    _check_length(e, op.name, x.shape[-1])
    q = e.wide(x)
    y = e.sub(q, _rounded_mean(e, q))
    most = max(abs(y.lo), abs(y.hi))
    bound = x.shape[-1] * most * most
    root = _newton(e, _square_sum(e, y), bound)
    scale = e.intdiv(_HIGH, root)
    return affine(e, op, e.shift_right(e.mul(y, scale, reach=(-_HIGH, _HIGH)), 1), multiplier, bias)


def _newton(e: Emitter, v: wide.Limbs, bound: int) -> Value:
    """Return ten steps of ``k <- (k + floor(v / k)) >> 1`` from 2^16."""
    if bound <= _HIGH:
        whole = v[0]
        for i, limb in enumerate(v[1:], 1):
            whole = e.add(whole, e.shift_left(limb, wide.BITS * i, (0, _HIGH)), (0, _HIGH))
        k = e.term(1 << 16, whole)
        for _ in range(_NEWTON):
            k = e.shift_right(e.add(k, e.intdiv(whole, k, (0, _HIGH >> 6)), (64, _HIGH >> 1)), 1).within(1, _HIGH >> 2)
        return k
    limbs = wide.proper(e, v, max(bound.bit_length(), 46))
    first = e.shift_right(limbs[1], 1)  # v >> 16, below 2^30 for v below 2^46
    for i, limb in enumerate(limbs[2:], 2):
        first = e.add(first, e.shift_left(limb, wide.BITS * i - 16, (0, 1 << 30)), (0, 1 << 30))
    k = e.shift_right(e.add(first, 1 << 16), 1)
    for _ in range(_NEWTON - 1):
        k = e.shift_right(e.add(k, _quotient(e, limbs, k), (1, _HIGH)), 1).within(1, 1 << 30)
    return k
