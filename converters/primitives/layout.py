"""The ops that move elements, and resize, in integer primitives."""

import numpy as np

from bitship.converters.primitives.arithmetic import I32, half_away, limited, times
from bitship.converters.primitives.machine import Machine, Value
from bitship.graph import ops
from bitship.graph.base import Array


def pad(k: Machine, op: ops.Pad, x: Value) -> Value:
    """Surround by a constant."""
    return k.pad(x, op.padding, op.value)


def concat(k: Machine, op: ops.Concat, *xs: Value) -> Value:
    """Join along an axis."""
    return k.concat(xs, op.axis)


def take_slice(k: Machine, op: ops.Slice, x: Value) -> Value:
    """Cut a box out."""
    return k.slice(x, op.start, op.size, op.steps())


def reshape(k: Machine, op: ops.Reshape, x: Value) -> Value:
    """Same elements, other shape."""
    return k.reshape(x, op.shape)


def transpose(k: Machine, op: ops.Transpose, x: Value) -> Value:
    """Permute the axes."""
    return k.transpose(x, op.perm)


def gather(k: Machine, op: ops.Gather, x: Value, indices: Value) -> Value:
    """Elements at clamped indices along an axis."""
    last = x.shape[op.axis] - 1
    if indices.array is not None:
        return k.take(x, k.constant(np.clip(indices.array, 0, last)), op.axis)
    return k.take(x, limited(k, indices, 0, last), op.axis)


def resize(k: Machine, op: ops.Resize, x: Value) -> Value:
    """Two rows, then two columns, mixed by their weights."""

    def at(x: Value, i: tuple[int, ...], axis: int) -> Value:
        return k.take(x, k.constant(np.array(i, np.int32)), axis)

    if op.bits == 0:
        for axis, m in ((1, op.rows), (2, op.columns)):
            x = at(x, tuple(hi if w else lo for lo, hi, w in zip(m.lo, m.hi, m.weight, strict=True)), axis)
        return x
    y = k.cast(x, I32)
    for axis, m in ((1, op.rows), (2, op.columns)):
        low, high = at(y, m.lo, axis), at(y, m.hi, axis)
        weight: Array = np.array(m.weight, np.int64).reshape([-1 if a == axis else 1 for a in range(4)])
        y = k.add(times(k, low, (1 << op.bits) - weight), times(k, high, weight))
    return k.cast(half_away(k, y, 2 * op.bits), x.dtype)
