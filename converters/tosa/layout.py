"""pad, concat, slice, reshape, transpose and gather."""

import math

import numpy as np

from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import UINT8_OFFSET, Element, Value
from bitship.graph import ops


def pad(e: Emitter, op: ops.Pad, x: Value, unsigned: bool = False) -> Value:
    """PAD."""
    return e.pad(x, op.padding, op.value - (UINT8_OFFSET if unsigned else 0)) if op.padding else x


def concat(e: Emitter, op: ops.Concat, *xs: Value) -> Value:
    """CONCAT."""
    return e.concat(xs, op.axis)


def take_slice(e: Emitter, op: ops.Slice, x: Value) -> Value:
    """SLICE; a stride is a reshape to [.., size, stride, ..] of which the first is taken."""
    if not op.start:
        return x
    steps = op.steps()
    spans = [min((n - 1) * s + s, m - b) for b, n, s, m in zip(op.start, op.size, steps, x.shape, strict=True)]
    y = e.slice(x, op.start, spans)
    for axis, (size, step) in enumerate(zip(op.size, steps, strict=True)):
        if step == 1:
            continue
        missing = size * step - y.shape[axis]
        y = e.pad(y, [(0, missing if a == axis else 0) for a in range(y.rank)], 0).within(x.lo, x.hi)
        before, after = math.prod(y.shape[:axis]), math.prod(y.shape[axis + 1 :])
        shape = (*y.shape[:axis], size, *y.shape[axis + 1 :])
        y = e.reshape(e.part(e.reshape(y, (before, size, step, after)), 2, 0, 1), shape)
    return y


def reshape(e: Emitter, op: ops.Reshape, x: Value) -> Value:
    """RESHAPE; a scalar has shape [1]."""
    return e.reshape(x, op.shape or (1,))


def transpose(e: Emitter, op: ops.Transpose, x: Value) -> Value:
    """TRANSPOSE of the fewest axes: those of extent 1 are dropped, neighbours that stay neighbours are one.

    An NPU's compiler takes a permutation of many axes apart into many passes.
    """
    shape = tuple(x.shape[p] for p in op.perm) or (1,)
    groups: list[list[int]] = []
    for axis in (p for p in op.perm if x.shape[p] > 1):
        last = groups[-1][-1] if groups else None
        between = range((axis if last is None else last) + 1, axis)
        if last is not None and last < axis and all(x.shape[a] == 1 for a in between):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    order = sorted(range(len(groups)), key=lambda g: groups[g][0])
    extents = [math.prod(x.shape[a] for a in groups[g]) for g in order]
    perm = [order.index(g) for g in range(len(groups))]
    if perm == sorted(perm):
        return e.reshape(x, shape)
    return e.reshape(e.transpose(e.reshape(x, extents), perm), shape)


def gather(e: Emitter, op: ops.Gather, x: Value, indices: Value) -> Value:
    """GATHER at clamped indices; bool goes as int8."""
    count = x.shape[op.axis]
    before, after = math.prod(x.shape[: op.axis]), math.prod(x.shape[op.axis + 1 :])
    rows = e.reshape(x, (before, count, after))
    if x.element is Element.BOOL:
        rows = e.cast(rows, Element.INT8)
    index = e.reshape(e.clamp(indices, 0, count - 1), (1, indices.size))
    if before > 1:
        index = e.add(index, e.const(np.zeros((before, 1), np.int32)))
    found = e.gather(rows, index)
    if x.element is Element.BOOL:
        found = e.cast(found, Element.BOOL)
    return e.reshape(found, (*x.shape[: op.axis], indices.size, *x.shape[op.axis + 1 :]))
