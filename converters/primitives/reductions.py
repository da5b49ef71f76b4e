"""Sums, extremes, argmax and pools in integer primitives."""

import math

import numpy as np

from bitship.converters.primitives.arithmetic import I32, I64, finish, limited, plus, times
from bitship.converters.primitives.machine import Machine, Value
from bitship.converters.primitives.products import bytes_of, offset, padded, summed
from bitship.graph import ops
from bitship.graph.base import TensorType
from bitship.graph.dtypes import DType


def reduce_sum(k: Machine, op: ops.ReduceSum, x: Value) -> Value:
    """Sum of centred elements."""
    count = math.prod(x.shape[a] for a in op.axes)
    acc = k.total(k.cast(x, I64 if x.dtype is I32 else I32), op.axes)
    return finish(k, plus(k, acc, -op.input_zero_point * count) if op.input_zero_point else acc, op.requant)


def reduce_max(k: Machine, op: ops.ReduceMax, x: Value) -> Value:
    """Largest element over the axes."""
    return k.largest(x, op.axes)


def reduce_min(k: Machine, op: ops.ReduceMin, x: Value) -> Value:
    """Smallest element over the axes."""
    return k.smallest(x, op.axes)


def reduce_any(k: Machine, op: ops.ReduceAny, x: Value) -> Value:
    """Whether any element over the axes is true."""
    return k.cast(k.largest(k.cast(x, I32), op.axes), DType.BOOL)


def argmax(k: Machine, op: ops.ArgMax, x: Value) -> Value:
    """Index of the first largest element."""
    return k.argmax(k.cast(x, I32) if x.dtype is DType.INT16 else x, op.axis)


def max_pool2d(k: Machine, op: ops.MaxPool2D, x: Value) -> Value:
    """Maximum over the window; padding holds the lowest value."""
    y = k.max_pool(padded(k, x, op.padding, x.dtype.qmin), op.kernel, op.stride)
    if (op.qmin, op.qmax) == (x.dtype.qmin, x.dtype.qmax):
        return y
    return k.cast(limited(k, k.cast(y, I32), op.qmin, op.qmax), x.dtype)


def avg_pool2d(k: Machine, op: ops.AvgPool2D, x: Value) -> Value:
    """Window sums as a depthwise convolution with ones, divided by the number of elements inside x."""
    ones = np.ones((*op.kernel, x.shape[3], 1), np.int8)
    counts = op.count(TensorType((1, *x.shape[1:3], 1), x.dtype)).astype(np.int32)
    terms = [(k.depthwise(part, ones, op.stride, (1, 1)), f) for part, f in bytes_of(k, padded(k, x, op.padding, 0))]
    lacking = offset(x, 0)
    acc = plus(k, summed(k, terms), lacking * op.kernel[0] * op.kernel[1])
    count, half = k.number(counts, I32), k.number(counts // 2, I32)
    if op.rounding is ops.DivRounding.HALF_UP:
        mean = k.quotient(k.add(acc, half), count)
    else:
        sign = plus(k, times(k, k.shift32(acc, 31), 2), 1)
        mean = k.mul(sign, k.quotient(k.add(k.mul(sign, acc), half), count))
    return k.cast(limited(k, mean, op.qmin, op.qmax), x.dtype)
