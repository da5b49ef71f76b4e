"""reduce_sum, reduce_max, reduce_min, reduce_any and argmax: TOSA reduces one axis at a time."""

import math

import numpy as np

from bitship.converters.tosa import requant
from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import Element, Value
from bitship.graph import ops


def reduce_sum(e: Emitter, op: ops.ReduceSum, x: Value) -> Value:
    """Sum of centred elements; every partial sum fits int32, as ``verify`` has proven of the whole."""
    y = e.sub(e.wide(x), op.input_zero_point)
    for axis in op.axes:
        y = e.reduce("SUM", y, axis)
    return requant.finish(e, y, op.requant)


def reduce_extreme(e: Emitter, op: ops.ReduceMax | ops.ReduceMin | ops.ReduceAny, x: Value) -> Value:
    """Largest, smallest, or any."""
    kind = {ops.ReduceMax: "MAX", ops.ReduceMin: "MIN", ops.ReduceAny: "ANY"}[type(op)]
    for axis in op.axes:
        x = e.reduce(kind, x, axis)
    return x


def argmax(e: Emitter, op: ops.ArgMax, x: Value) -> Value:
    """ARGMAX of int8; of wider types, which TOSA's has not, the smallest index whose element is the largest."""
    shape = (*x.shape[: op.axis], *x.shape[op.axis + 1 :]) or (1,)
    count, axis = x.shape[op.axis], op.axis
    if x.rank == 1:  # the operator has no result of rank 0
        x, axis = e.reshape(x, (1, count)), 1
    if x.element is Element.INT8:
        return e.custom(
            "ARGMAX",
            [x],
            shape,
            Element.INT32,
            (0, count - 1),
            "ArgMax",
            axis=axis,
            nan_mode=e.tosa.NanPropagationMode.PROPAGATE,
        )
    rows = [1] * x.rank
    rows[axis] = count
    places = e.const(np.arange(count).reshape(rows))
    wide = e.wide(x)
    best = e.equal(wide, e.reduce("MAX", wide, axis))
    found = e.reduce("MIN", e.select(best, places, count), axis)
    assert math.prod(shape) == found.size
    return e.reshape(found, shape).within(0, count - 1)
