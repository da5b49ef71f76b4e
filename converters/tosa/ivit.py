"""I-ViT's functions: ShiftExp of an int8 row comes from tables, what is divided is positive and fits int32."""

import numpy as np

from bitship.converters.tosa import requant
from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import Element, Value
from bitship.errors import UnsupportedError
from bitship.graph import ops
from bitship.graph.ops.ivit import SHIFTGELU_N, SHIFTMAX_N, shift_exp_tables

_HIGH = (1 << 31) - 1
_LIMB = 15


def _saturated_sum(e: Emitter, x: Value) -> Value:
    """Return ``min(sum of the last axis, 2^31 - 1)`` of values below 2^31 that are not negative."""
    if x.hi * x.shape[-1] <= _HIGH:
        return e.row_sum(x)
    if x.shape[-1] > 1 << 15:
        raise UnsupportedError(f"tosa: node '{e.scope}': shiftmax over {x.shape[-1]} elements; 32768 are allowed")
    low, high = e.row_sum(e.low_bits(x, _LIMB)), e.row_sum(e.shift_right(x, _LIMB))
    high = e.add(high, e.shift_right(low, _LIMB), (0, _HIGH))
    whole = e.shift_left(e.minimum(high, 65535), _LIMB)
    return e.select(e.greater(high, 65535), _HIGH, e.add(whole, e.low_bits(low, _LIMB)))


def shiftmax(e: Emitter, op: ops.Shiftmax, x: Value) -> Value:
    """Exponentials by table, one division a row; e times the quotient is at most 2^31 - 1."""
    below, _ = shift_exp_tables(op.unit, SHIFTMAX_N)
    q = e.wide(x)
    codes = e.look_up(below, e.sub(e.wide(e.row_max(x)), q).within(0, 255))
    if op.masked:
        codes = e.select(e.equal(q, -128), op.unit, codes)
    inverse = e.intdiv(e.const(np.full((1,) * q.rank, _HIGH)), _saturated_sum(e, codes).within(1, _HIGH))
    return e.cast(e.shift_right(e.mul(codes, inverse, reach=(0, _HIGH)), 16), Element.INT16)


def shiftgelu(e: Emitter, op: ops.ShiftGelu, x: Value) -> Value:
    """x times its gate, whose exponentials come from two tables."""
    below, zero = shift_exp_tables(op.unit, SHIFTGELU_N)
    q = e.wide(x)
    largest = e.wide(e.row_max(x))
    codes = e.look_up(below, e.sub(largest, q).within(0, 255))
    floor = e.look_up(zero, e.add(largest, 128))
    total = e.add(e.minimum(codes, e.sub(_HIGH, floor)), floor, (1, _HIGH))
    inverse = e.intdiv(e.const(np.full((1,) * q.rank, _HIGH)), total)
    gate = e.shift_right(e.mul(codes, inverse, reach=(0, _HIGH)), 24)
    return requant.finish(e, e.mul(q, gate).within(-128 * 127, 128 * 128), op.requant)
