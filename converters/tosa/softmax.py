"""softmax, table_softmax and softmax_matmul: exponentials by GATHER, the rest in int32 and 15-bit limbs."""

import numpy as np

from bitship.converters.tosa import products, wide
from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import UINT8_OFFSET, Element, Value
from bitship.errors import UnsupportedError
from bitship.graph import ops
from bitship.graph.base import Array
from bitship.graph.dtypes import DType

_HIGH = (1 << 31) - 1
_48_OVER_17 = 1515870810  # Q2.29
_NEG_32_OVER_17 = -1010580540  # Q2.29
_LIMB = 15
_CODE_BITS = 9  # |accumulator| < 2^(b + 9): a row's codes sum to less than 2^(b + 1), a centred v is at most 255


def softmax(e: Emitter, op: ops.Softmax, x: Value, exp_table: Value) -> Value:
    """gemmlowp's fixed point: MUL with a shift of 31 is its doubling high product."""
    assert exp_table.array is not None
    codes = _exponentials(e, x, exp_table.array, masked=False)
    total = e.row_sum(e.shift_right(codes, 12, rounded=True), (1 << 18, _HIGH))
    headroom = e.leading_zeros(total)
    half = e.shift_left(total, e.sub(headroom, 1), (1 << 30, _HIGH))  # half the denominator, Q0.31
    y = e.add(e.mul(half, _NEG_32_OVER_17, 31), _48_OVER_17)
    estimate = (1 << 29, (1 << 30) + (1 << 27))  # of 1 / half in Q2.29, to 1/17 and better
    y = y.within(*estimate)
    for _ in range(3):
        rest = e.sub(1 << 29, e.mul(half, y, 31)).within(-(1 << 26), 1 << 26)
        step = e.mul(y, rest, 31)
        y = e.add(y, e.shift_left(step, 2)).within(*estimate)
    scale = e.add(e.minimum(y, (1 << 30) - 1), e.minimum(y, 1 << 30), (1 << 30, _HIGH))  # 2 y, saturated
    high = e.mul(scale, codes, 31)
    amount = e.sub(35, headroom)
    rounded = e.shift_right(high, e.minimum(amount, 31), rounded=True)
    rounded = e.select(e.greater(amount, 31), 0, rounded)  # less than a half
    return e.cast(e.clamp(e.add(rounded, -128), -128, 127), Element.INT8)


def _exponentials(e: Emitter, x: Value, table: Array, masked: bool) -> Value:
    """Return ``table[max(x) - x]``, 0 for a masked element."""
    rows = e.wide(x)
    below = e.sub(e.wide(e.row_max(x)), rows).within(0, 255)
    if int(table.max()) > 255:
        codes = e.look_up(table.astype(np.int64), below)
    else:  # 8 bits are a TABLE of int8, less 128 on both sides
        entries = e.const(table.astype(np.int64) - 128, Element.INT8)
        index = e.cast(e.sub(below, 128), Element.INT8)
        looked = e.custom("TABLE", [index, entries], x.shape, Element.INT8, (entries.lo, entries.hi))
        codes = e.add(e.wide(looked), 128)
    return e.select(e.equal(rows, -128), 0, codes) if masked else codes


def _row_reciprocal(e: Emitter, total: Value) -> tuple[Value, Value]:
    """Return (R, b) of sums in [1, 2^31): b = bit_length - 1, R = floor(2^(b + 30) / S)."""
    zeros = e.leading_zeros(total).within(1, 31)
    divisor = e.shift_left(total, e.sub(zeros, 1), (1 << 30, _HIGH))
    return wide.reciprocal(e, divisor), e.sub(31, zeros)


def table_softmax(e: Emitter, op: ops.TableSoftmax, x: Value, exp_table: Value) -> Value:
    """A product of 15 by 31 bits in two parts: what lies below 2^15 cannot reach the rounding of a shift by 15 + b."""
    assert exp_table.array is not None
    codes = _exponentials(e, x, exp_table.array, op.masked)
    total = e.maximum(e.row_sum(codes, (0, min(_HIGH, codes.hi * x.shape[-1]))), 1)
    inverse, b = _row_reciprocal(e, total)
    upper, lower = e.shift_right(inverse, _LIMB), e.low_bits(inverse, _LIMB)
    product = e.add(e.mul(codes, upper), e.shift_right(e.mul(codes, lower), _LIMB), (0, _HIGH))
    y = e.shift_right(product, b, rounded=True).within(0, 1 << 15)
    if op.masked:  # b is 0 in a row with nothing in it alone, and that gives 0
        y = e.select(e.equal(b, 0), 0, y)
    return e.cast(e.minimum(y, 32767), Element.INT16)


def softmax_matmul(e: Emitter, op: ops.SoftmaxMatMul, x: Value, v: Value, exp_table: Value) -> Value:
    """The product of codes less 128, with zero point -128, and a scale of its own for every row.

    With g the largest b there can be, ``acc << (g - b)`` fits int32, and the row's own shift is gone: what is left
    is one constant shift a channel.
    """
    assert exp_table.array is not None
    r, count = op.requant, x.shape[2]
    table = exp_table.array.astype(np.int64) + UINT8_OFFSET
    most = int(table.max())
    g = (most * count).bit_length() - 1
    if g + _CODE_BITS > 31:
        raise UnsupportedError(f"tosa: node '{e.scope}': softmax_matmul over {count} elements; 16448 are allowed")
    codes = _exponentials(e, x, table, op.masked)
    total = e.maximum(e.row_sum(codes), 1)
    inverse, b = _row_reciprocal(e, total)
    b = b.within(0, g)
    acc = products.product(e, e.cast(e.sub(codes, 128), Element.INT8), v, -128, op.v_zero_point)
    lifted = e.shift_left(acc, e.sub(g, b), (-(1 << (g + _CODE_BITS)) + 1, (1 << (g + _CODE_BITS)) - 1))
    shifts = np.broadcast_to(np.array(r.shift, np.int64), v.shape[2])
    multipliers = np.broadcast_to(np.array(r.multiplier, np.int64), v.shape[2])
    y: Value | None = None
    for s in sorted(set(shifts.tolist())):
        here = np.where(shifts == s, multipliers, 0)
        part = _scaled(e, lifted, inverse, here, 31 - s + g, g + _CODE_BITS)
        y = part if y is None else e.add(y, part, (-(1 << 30), 1 << 30))
    assert y is not None
    y = e.clamp(e.add(y, r.output_zero_point), r.qmin, r.qmax)
    return e.cast(y, {DType.INT8: Element.INT8, DType.INT16: Element.INT16}[r.dtype])


def _scaled(e: Emitter, x: Value, inverse: Value, multipliers: Array, down: int, bits: int) -> Value:
    """Return ``round(x * M >> down)``, 0 in channels whose multiplier is 0, saturated far outside int16."""
    limits = np.array([(1 << (18 + down)) // m + 1 if m else 1 << 31 for m in multipliers.tolist()], object)
    if any(limit < 1 << bits for limit in limits):
        rows = np.array([min(limit, _HIGH) for limit in limits], np.int64).reshape(1, 1, -1)
        x = e.maximum(e.minimum(x, e.const(rows)), e.const(-rows))
    m = e.mul(inverse, e.const(multipliers.reshape(1, 1, -1)), 30)
    if down > 62:
        raise UnsupportedError(f"tosa: node '{e.scope}': softmax_matmul needs a right shift by {down}; 62 is allowed")
    return e.mul(x, m, down, (-(1 << 20), 1 << 20))
