"""add, sub, mul, rescale, table, clamp, cast and the shifts in integer primitives."""

import math

import numpy as np

from bitship.converters.primitives.arithmetic import I32, I64, centred, finish, limited, plus, rescale, times
from bitship.converters.primitives.machine import Machine, Value
from bitship.errors import UnsupportedError
from bitship.graph import ops
from bitship.graph.dtypes import DType


def requantize(k: Machine, op: ops.Rescale, x: Value) -> Value:
    """The rescale op."""
    return k.cast(rescale(k, x, op), op.dtype)


def _terms(k: Machine, op: ops.Add | ops.Sub, a: Value, b: Value) -> list[Value]:
    return [k.cast(x, I32) if r is None else rescale(k, x, r) for x, r in ((a, op.a), (b, op.b))]


def add(k: Machine, op: ops.Add, a: Value, b: Value) -> Value:
    """Sum of two rescaled operands."""
    return finish(k, k.add(*_terms(k, op, a, b)), op.requant)


def sub(k: Machine, op: ops.Sub, a: Value, b: Value) -> Value:
    """Difference of two rescaled operands."""
    return finish(k, k.sub(*_terms(k, op, a, b)), op.requant)


def mul(k: Machine, op: ops.Mul, a: Value, b: Value) -> Value:
    """Product of two centred operands."""
    return finish(k, k.mul(centred(k, a, op.a_zero_point), centred(k, b, op.b_zero_point)), op.requant)


def table(k: Machine, op: ops.Table, x: Value, entries: Value) -> Value:
    """Look every element up; between two entries for int16."""
    if x.dtype is DType.INT8 and entries.array is None:
        index = plus(k, k.cast(x, I32), 128)
        found = k.take(entries, k.reshape(index, (math.prod(x.shape),)), 0)
        return k.reshape(found, x.shape)
    if entries.array is None:
        raise UnsupportedError("its table is computed; a constant one is supported")
    if x.dtype is DType.INT8:
        return k.look_up(entries.array, plus(k, k.cast(x, I32), 128))
    values = entries.array.astype(np.int32)
    wide = plus(k, k.cast(x, I32), 32768)
    i = k.shift32(wide, 7)
    fraction = k.sub(wide, times(k, i, 128))
    low, step = k.look_up(values[:-1] * 128 + 64, i), k.look_up(values[1:] - values[:-1], i)
    return k.cast(k.shift32(k.add(low, k.mul(step, fraction)), 7), DType.INT16)


def clamp(k: Machine, op: ops.Clamp, x: Value) -> Value:
    """Clamp, dtype kept."""
    return k.cast(limited(k, k.cast(x, I32), op.qmin, op.qmax), x.dtype)


def cast(k: Machine, op: ops.Cast, x: Value) -> Value:
    """Change the dtype."""
    return k.cast(x, op.dtype)


def left_shift(k: Machine, op: ops.LogicalLeftShift, x: Value) -> Value:
    """Multiply by a power of two, in int64: 2^31 is no int32."""
    return k.cast(times(k, k.cast(x, I64), 1 << op.amount), x.dtype)


def right_shift(k: Machine, op: ops.ArithmeticRightShift, x: Value) -> Value:
    """Shift with sign; half up is the shift by one less, plus one, by one more."""
    wide = k.cast(x, I32)
    if not op.amount:
        return k.cast(wide, x.dtype)
    if op.rounding is ops.ShiftRounding.HALF_UP:
        wide = k.affine(wide, 1, 1 << (op.amount - 1), op.amount)
    else:
        wide = k.shift32(wide, op.amount)
    return k.cast(wide, x.dtype)
