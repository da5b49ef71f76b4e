"""layer_norm and rms_norm in int64 torch ops: the root by Newton steps from a line that is within an eighth of it."""

import numpy as np

from bitship.converters.executorch.arithmetic import (
    Constants,
    Tensor,
    count_powers,
    power,
    ratio,
    row_total,
    shift_right,
    to,
)
from bitship.converters.executorch.values import Value
from bitship.graph.dtypes import DType
from bitship.graph.ops import ILayerNorm, LayerNorm, RmsNorm

_NEWTON = 4  # relative errors 2^-3, 2^-6.8, 2^-14.5, 2^-30, then below one


def _root(x: Tensor) -> Tensor:
    """Integer square root of values of 61 or 62 bits; after one step Newton never falls below the root."""
    k = shift_right(x, 32) + (3 << 28)
    for _ in range(_NEWTON):
        k = shift_right(k + ratio(x, k), 1)
    return k - to(k * k > x, DType.INT64)


def affine(k: Constants, op: LayerNorm | RmsNorm | ILayerNorm, z: Tensor, multiplier: Value, bias: Value) -> Value:
    """Per-channel affine of normalised values, clamped; the constants are repeated to the last axis ahead of time."""
    assert multiplier.array is not None
    assert bias.array is not None
    repeats = z.shape[-1] // multiplier.array.size
    gain, offset = (np.tile(a.astype(np.int64), repeats) for a in (multiplier.array, bias.array))
    addend = (offset << (op.shift - 16)) + (1 << (op.shift - 1))
    y = shift_right(z * k.tensor(gain) + k.tensor(addend), op.shift)
    if op.output_zero_point:
        y = y + op.output_zero_point
    return Value(to(y.clamp(op.qmin, op.qmax), op.dtype))


def _normalised(k: Constants, op: LayerNorm | RmsNorm, y: Tensor, w: Tensor) -> Tensor:
    import torch

    v = (w + op.epsilon).clamp(min=1)
    t = 30 - count_powers(k, v, range(2, 62, 2))
    inverse = ratio(1 << 60, _root(torch.bitwise_left_shift(v, t * 2)))
    down = 40 - t
    return shift_right(y * inverse + power(k, 9, down - 10), down)


def layer_norm(k: Constants, op: LayerNorm, x: Value, multiplier: Value, bias: Value) -> Value:
    """Normalisation by exact mean and variance."""
    q = to(x.rows, DType.INT64)
    c, total = q.shape[-1], row_total(k, q)
    w = row_total(k, q * q) * c - total * total
    return affine(k, op, _normalised(k, op, q * c - total, w), multiplier, bias)


def rms_norm(k: Constants, op: RmsNorm, x: Value, multiplier: Value, bias: Value) -> Value:
    """Normalisation by the exact mean square."""
    q = to(x.rows, DType.INT64)
    if op.input_zero_point:
        q = q - op.input_zero_point
    c = q.shape[-1]
    return affine(k, op, _normalised(k, op, q * c, row_total(k, q * q) * c), multiplier, bias)
