"""table_softmax and softmax_matmul in int64 torch ops; the product itself in int32, as the range proof allows."""

import numpy as np

from bitship.converters.executorch.arithmetic import (
    Constants,
    Tensor,
    centred,
    count_powers,
    look_up,
    power,
    ratio,
    row_total,
    shift_right,
    to,
)
from bitship.converters.executorch.values import Value
from bitship.graph.dtypes import DType
from bitship.graph.ops import SoftmaxMatMul, TableSoftmax


def _exponentials(k: Constants, x: Tensor, table: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
    """Return (e, sum of e, at least 1) of int8 rows."""
    rows = to(x, DType.INT64)
    e = look_up(table, rows.amax([-1], keepdim=True) - rows)
    if masked:
        e = e * to(rows != -128, DType.INT64)
    return e, row_total(k, e).clamp(min=1)


def _reciprocal(k: Constants, total: Tensor) -> tuple[Tensor, Tensor]:
    """Return (R, b): b = bit_length(total) - 1, R = floor(2^(b + 30) / total)."""
    b = count_powers(k, total, range(1, 31))
    return ratio(power(k, 30, b), total), b


def table_softmax(k: Constants, op: TableSoftmax, x: Value, exp_table: Value) -> Value:
    """Exponentials times the reciprocal of their sum, rounded to 15 bits."""
    e, total = _exponentials(k, x.rows, exp_table.rows, op.masked)
    inverse, b = _reciprocal(k, total)
    y = shift_right(e * inverse + power(k, 14, b), b + 15)
    return Value(to(y.clamp(max=32767), DType.INT16))


def softmax_matmul(k: Constants, op: SoftmaxMatMul, x: Value, v: Value, exp_table: Value) -> Value:
    """Product of the exponentials' codes; the reciprocal joins the multipliers."""
    import torch

    r = op.requant
    e, total = _exponentials(k, x.rows, exp_table.rows, op.masked)
    acc = to(torch.bmm(to(e, DType.INT32), centred(v.rows, op.v_zero_point)), DType.INT64)
    inverse, b = _reciprocal(k, total)
    m = shift_right(inverse * k.vector(r.multiplier, 2, 3) + (1 << 29), 30)
    down = b + k.vector([31 - s for s in r.shift], 2, 3)
    one = k.tensor(np.array([1], np.int64))
    y = shift_right(acc * m + torch.bitwise_left_shift(one, down - 1), down)
    if r.output_zero_point:
        y = y + r.output_zero_point
    return Value(to(y.clamp(r.qmin, r.qmax), r.dtype))
