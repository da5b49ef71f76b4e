"""reduce_sum, reduce_max, reduce_min, reduce_any and argmax: TOSA reduces one axis at a time."""

import math

import numpy as np

from bitship.converters.tosa import products, requant
from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import Element, Value
from bitship.graph import ops


def reduce_sum(e: Emitter, op: ops.ReduceSum, x: Value) -> Value:
    """Sum of centred elements; every partial sum fits int32, as ``verify`` has proven of the whole."""
    if x.rank == 4 and op.axes == (1, 2) and x.element is Element.INT8 and -128 <= op.input_zero_point <= 127:
        return _image_sum(e, op, x)
    y = e.sub(e.wide(x), op.input_zero_point)
    for axis in op.axes:
        y = e.reduce("SUM", y, axis)
    return requant.finish(e, y, op.requant)


def _image_sum(e: Emitter, op: ops.ReduceSum, x: Value) -> Value:
    """Return the sum of an image as one depthwise window of ones, which an NPU has an engine for."""
    channels = x.shape[3]
    ones = e.const(np.ones((x.shape[1], x.shape[2], channels, 1), np.int8), Element.INT8)
    window = ops.DepthwiseConv2D(input_zero_point=op.input_zero_point, requant=op.requant)
    return products.depthwise_conv2d(e, window, x, ones, e.const(np.zeros(channels, np.int64)))


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
