"""The graph's softmax in torch ops: gemmlowp's fixed point in int64."""

import numpy as np

from bitship.converters.executorch.arithmetic import (
    Constants,
    Tensor,
    count_powers,
    half_away_shift,
    look_up,
    row_total,
    shift_right,
    to,
)
from bitship.converters.executorch.values import Value
from bitship.graph.dtypes import DType
from bitship.graph.ops import Softmax

_ONE = (1 << 31) - 1
_48_OVER_17 = 1515870810  # Q2.29
_NEG_32_OVER_17 = -1010580540  # Q2.29


def _high_mul(a: Tensor, b: Tensor | int) -> Tensor:
    return shift_right(a * b + (1 << 30), 31).clamp(-(1 << 31), _ONE)


def _reciprocal(k: Constants, total: Tensor) -> tuple[Tensor, Tensor]:
    """Return (1 / mantissa in Q0.31, headroom) of int64 totals [..., 1] in [1, 2^31)."""
    powers = k.tensor(np.array([1 << i for i in range(32)], np.int64))
    headroom = 32 - count_powers(k, total, range(32))
    shifted = total * look_up(powers, headroom)
    half_denominator = shift_right(shifted - (1 << 31) + _ONE + 1, 1)
    x = _high_mul(half_denominator, _NEG_32_OVER_17) + _48_OVER_17
    for _ in range(3):
        one_minus = (1 << 29) - _high_mul(half_denominator, x)
        x = x + (_high_mul(x, one_minus) * 4).clamp(-(1 << 31), _ONE)
    return (x * 2).clamp(-(1 << 31), _ONE), headroom


def softmax(k: Constants, op: Softmax, x: Value, exp_table: Value) -> Value:
    """``256 * e / sum(e) - 128`` over the last axis; the rounding shift by 35 - headroom is that of each row."""
    import torch

    rows = to(x.rows, DType.INT64)
    e = look_up(exp_table.rows, rows.amax([-1], keepdim=True) - rows)
    scale, headroom = _reciprocal(k, row_total(k, half_away_shift(k, e, [12], 0)))
    amount = 35 - headroom
    product = _high_mul(e, scale)  # never negative, so half away from zero is half up
    half = shift_right(torch.bitwise_left_shift(torch.ones_like(amount), amount), 1)
    y = shift_right(product + half, amount)
    return Value(to((y - 128).clamp(-128, 127), DType.INT8))
