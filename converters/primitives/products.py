"""Convolutions and matrix products from products of int8 tensors in int32.

Wider operands are split: centred weights into two int8 parts, int16 inputs into a high and a low byte.
"""

import numpy as np

from bitship.converters.primitives.arithmetic import I32, centred, finish, plus, times
from bitship.converters.primitives.machine import Machine, Value
from bitship.errors import UnsupportedError
from bitship.graph.base import Array
from bitship.graph.dtypes import DType
from bitship.graph.ops import Conv2D, DepthwiseConv2D, FullyConnected, MatMul


def parts(weights: Value, zero_point: int) -> list[Array]:
    """Return int8 arrays whose sum is the centred weights; UnsupportedError when they are computed."""
    if weights.array is None:
        raise UnsupportedError("its weights are computed; constant ones are supported")
    wide = weights.array.astype(np.int64) - zero_point
    found: list[Array] = []
    while not found or wide.any():
        found.append(np.clip(wide, -128, 127).astype(np.int8))
        wide = wide - found[-1]
    return found


def bytes_of(k: Machine, x: Value) -> list[tuple[Value, int]]:
    """Return int8 tensors and factors whose weighted sum is an int16 x, less 128; an int8 x as it is."""
    if x.dtype is DType.INT8:
        return [(x, 1)]
    wide = k.cast(x, I32)
    high = k.shift32(wide, 8)
    low = plus(k, k.sub(wide, times(k, high, 256)), -128)
    return [(k.cast(high, DType.INT8), 256), (k.cast(low, DType.INT8), 1)]


def offset(x: Value, zero_point: int) -> int:
    """What every element of the tensors of ``bytes_of`` lacks of the centred x."""
    return -zero_point if x.dtype is DType.INT8 else 128 - zero_point


def summed(k: Machine, terms: list[tuple[Value, int]]) -> Value:
    """Return the weighted sum of int32 tensors."""
    acc: Value | None = None
    for value, factor in terms:
        scaled = times(k, value, factor)
        acc = scaled if acc is None else k.add(acc, scaled)
    assert acc is not None
    return acc


def _added(k: Machine, acc: Value, bias: Value, sums: Array, lacking: int) -> Value:
    """Add the bias and ``lacking * sums``; both run along the last axis."""
    if bias.array is not None:
        total = bias.array.astype(np.int64) + lacking * sums
        return plus(k, acc, ((total + (1 << 31)) % (1 << 32)) - (1 << 31))
    return k.add(plus(k, acc, lacking * sums), bias)


def padded(k: Machine, x: Value, padding: tuple[int, int, int, int], value: int) -> Value:
    """Pad the rows and columns of NHWC."""
    top, bottom, left, right = padding
    return k.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), value) if any(padding) else x


def conv2d(k: Machine, op: Conv2D, x: Value, w: Value, bias: Value) -> Value:
    """Convolution: padding holds the zero point, which the sums of the weights take out again."""
    x = padded(k, x, op.padding, op.input_zero_point)
    terms = [
        (k.convolve(part, weights, op.stride, op.dilation, op.groups), factor)
        for part, factor in bytes_of(k, x)
        for weights in parts(w, op.weight_zero_point)
    ]
    assert w.array is not None
    sums = (w.array.astype(np.int64) - op.weight_zero_point).sum(axis=(1, 2, 3))
    return finish(k, _added(k, summed(k, terms), bias, sums, offset(x, op.input_zero_point)), op.requant)


def depthwise_conv2d(k: Machine, op: DepthwiseConv2D, x: Value, w: Value, bias: Value) -> Value:
    """Depthwise convolution, padded likewise."""
    x = padded(k, x, op.padding, op.input_zero_point)
    terms = [
        (k.depthwise(part, weights, op.stride, op.dilation), factor)
        for part, factor in bytes_of(k, x)
        for weights in parts(w, op.weight_zero_point)
    ]
    assert w.array is not None
    sums = (w.array.astype(np.int64) - op.weight_zero_point).sum(axis=(0, 1)).reshape(-1)
    return finish(k, _added(k, summed(k, terms), bias, sums, offset(x, op.input_zero_point)), op.requant)


def fully_connected(k: Machine, op: FullyConnected, x: Value, w: Value, bias: Value) -> Value:
    """One batch of rows times the transposed weights, which may be computed."""
    rows = k.reshape(x, (1, *x.shape))
    if w.array is None:
        turned = k.reshape(k.transpose(w, (1, 0)), (1, w.shape[1], w.shape[0]))
        acc = k.reshape(dot(k, rows, turned, op.input_zero_point, op.weight_zero_point), (x.shape[0], w.shape[0]))
        return finish(k, k.add(acc, bias), op.requant)
    terms = [
        (k.product(part, k.constant(weights.T[None])), factor)
        for part, factor in bytes_of(k, rows)
        for weights in parts(w, op.weight_zero_point)
    ]
    assert w.array is not None
    sums = (w.array.astype(np.int64) - op.weight_zero_point).sum(axis=1)
    acc = k.reshape(summed(k, terms), (x.shape[0], w.shape[0]))
    return finish(k, _added(k, acc, bias, sums, offset(x, op.input_zero_point)), op.requant)


def dot(k: Machine, a: Value, b: Value, a_zero_point: int, b_zero_point: int) -> Value:
    """``(a - a_zero_point) @ (b - b_zero_point)`` in int32, b int8; zero points leave through sums."""
    acc = summed(k, [(k.product(part, b), factor) for part, factor in bytes_of(k, a)])
    lacking = offset(a, a_zero_point)
    if lacking:
        acc = k.add(acc, times(k, k.total(k.cast(b, I32), (1,)), lacking))
    if b_zero_point:
        acc = k.sub(acc, times(k, k.total(centred(k, a, a_zero_point), (2,)), b_zero_point))
    return acc


def matmul(k: Machine, op: MatMul, a: Value, b: Value) -> Value:
    """Batched product."""
    return finish(k, dot(k, a, b, op.a_zero_point, op.b_zero_point), op.requant)
