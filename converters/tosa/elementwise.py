"""rescale, add, sub, mul, table, clamp, cast and the shifts."""

import numpy as np

from bitship.converters.tosa import requant
from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import ELEMENTS, UINT8_OFFSET, Element, Value
from bitship.graph import ops
from bitship.graph.dtypes import DType

_BYTES = 256
_STEP = 7  # fraction bits of an int16 TABLE


def rescale(e: Emitter, op: ops.Rescale, x: Value, unsigned: bool = False) -> Value:
    """RESCALE; of uint8 the zero point is that of the tensor less 128."""
    return requant.rescale(e, x, op, op.input_zero_point - (UINT8_OFFSET if unsigned else 0))


def _term(e: Emitter, x: Value, r: ops.Rescale | None) -> Value:
    return e.wide(x) if r is None else requant.rescale(e, x, r)


def add(e: Emitter, op: ops.Add, a: Value, b: Value) -> Value:
    """Sum of two rescaled operands."""
    return requant.finish(e, e.add(_term(e, a, op.a), _term(e, b, op.b)), op.requant)


def sub(e: Emitter, op: ops.Sub, a: Value, b: Value) -> Value:
    """Difference of two rescaled operands."""
    return requant.finish(e, e.sub(_term(e, a, op.a), _term(e, b, op.b)), op.requant)


def mul(e: Emitter, op: ops.Mul, a: Value, b: Value) -> Value:
    """Product of two centred operands."""
    p, q = e.sub(e.wide(a), op.a_zero_point), e.sub(e.wide(b), op.b_zero_point)
    return requant.finish(e, e.mul(p, q), op.requant)


def table(e: Emitter, op: ops.Table, x: Value, entries: Value) -> Value:
    """TABLE for int8 to int8 and for int16, whose 7 fraction bits are rounded off; GATHER for int8 to int16."""
    if x.element is Element.INT16 and not _gentle(entries):
        return _interpolated(e, x, entries)
    if x.element is Element.INT16:
        # TOSA interpolates with the same formula and keeps the fraction: 16 + 7 bits
        wide = e.custom("TABLE", [x, entries], x.shape, Element.INT32, (-(1 << 22), (1 << 22) - 1))
        return e.cast(e.shift_right(wide, _STEP, rounded=True).within(*Element.INT16.range), Element.INT16)
    if entries.element is Element.INT8 and entries.array is not None:
        return e.custom("TABLE", [x, entries], x.shape, Element.INT8, (entries.lo, entries.hi))
    rows = e.reshape(entries, (1, _BYTES, 1))
    index = e.reshape(e.add(e.wide(x), 128), (1, x.size))
    return e.reshape(e.gather(rows, index), x.shape)


def _gentle(entries: Value) -> bool:
    """Whether every step of an int16 table fits int16, as TABLE wants it."""
    return entries.array is not None and int(np.abs(np.diff(entries.array.astype(np.int64))).max()) < 1 << 15


def _interpolated(e: Emitter, x: Value, entries: Value) -> Value:
    """Two entries by GATHER, and the line between them."""
    wide = e.add(e.wide(x), 1 << 15)
    rows = e.reshape(e.wide(entries), (1, entries.size, 1))
    at = e.reshape(e.shift_right(wide, _STEP), (1, x.size))
    first, second = (e.reshape(e.gather(rows, e.add(at, i)), x.shape) for i in (0, 1))
    rise = e.mul(e.sub(second, first), e.low_bits(wide, _STEP))
    y = e.shift_right(e.add(e.mul(first, 1 << _STEP), rise), _STEP, rounded=True)
    return e.cast(y.within(*Element.INT16.range), Element.INT16)


def clamp(e: Emitter, op: ops.Clamp, x: Value, unsigned: bool = False) -> Value:
    """CLAMP, or MAXIMUM and MINIMUM on int32."""
    offset = UINT8_OFFSET if unsigned else 0
    return e.clamp(x, max(op.qmin - offset, x.element.range[0]), min(op.qmax - offset, x.element.range[1]))


def cast(e: Emitter, op: ops.Cast, x: Value, unsigned: bool = False) -> Value:
    """CAST through int32; uint8 is stored less 128, so its low byte's highest bit is the other one."""
    if op.dtype is DType.UINT8:
        if unsigned:
            return x
        low = e.low_bits(e.wide(x), 8)
        return e.cast(e.sub(low, UINT8_OFFSET), Element.INT8)
    if unsigned:
        x = e.add(e.wide(x), UINT8_OFFSET)
    if op.dtype is DType.BOOL and x.element is not Element.BOOL:
        equal = e.equal(e.wide(x), 0)
        return e.custom("LOGICAL_NOT", [equal], x.shape, Element.BOOL)
    return e.cast(x, ELEMENTS[op.dtype])


def left_shift(e: Emitter, op: ops.LogicalLeftShift, x: Value) -> Value:
    """LOGICAL_LEFT_SHIFT."""
    return e.shift_left(x, op.amount)


def right_shift(e: Emitter, op: ops.ArithmeticRightShift, x: Value) -> Value:
    """ARITHMETIC_RIGHT_SHIFT on int32: narrower types have no shift by more than their bits."""
    rounded = op.rounding is ops.ShiftRounding.HALF_UP
    return e.cast(e.shift_right(e.wide(x), op.amount, rounded), x.element)


def resize(e: Emitter, op: ops.Resize, x: Value) -> Value:
    """Two rows, then two columns, mixed by their weights; GATHER takes them."""
    if op.bits == 0:
        for axis, m in ((1, op.rows), (2, op.columns)):
            x = _taken(e, x, [hi if w else lo for lo, hi, w in zip(m.lo, m.hi, m.weight, strict=True)], axis)
        return x
    y, one = e.wide(x), 1 << op.bits
    for axis, m in ((1, op.rows), (2, op.columns)):
        shape = [1] * 4
        shape[axis] = len(m.weight)
        second = e.const(np.array(m.weight, np.int64).reshape(shape))
        first = e.const(one - np.array(m.weight, np.int64).reshape(shape))
        low, high = _taken(e, y, m.lo, axis), _taken(e, y, m.hi, axis)
        reach = (min(y.lo * one, 0), max(y.hi * one, 0))
        y = e.add(e.mul(low, first), e.mul(high, second), reach)
    negative = e.shift_right(y, 31)
    half = e.add(y, 1 << (2 * op.bits - 1))
    return e.cast(e.shift_right(e.add(half, negative), 2 * op.bits).within(x.lo, x.hi), x.element)


def _taken(e: Emitter, x: Value, indices: "list[int] | tuple[int, ...]", axis: int) -> Value:
    """Return the slices of an axis at constant indices."""
    if list(indices) == list(range(x.shape[axis])):
        return x
    before = int(np.prod(x.shape[:axis], dtype=np.int64))
    after = int(np.prod(x.shape[axis + 1 :], dtype=np.int64))
    at = np.tile(np.array(indices, np.int32), (before, 1))
    rows = e.reshape(x, (before, x.shape[axis], after))
    found = e.gather(rows, e.const(at))
    return e.reshape(found, (*x.shape[:axis], len(indices), *x.shape[axis + 1 :]))
