"""I-ViT's functions in int64 torch ops: ShiftExp of an int8 row comes from tables, what is divided is positive."""

from bitship.converters.executorch.arithmetic import (
    Constants,
    Tensor,
    finish,
    look_up,
    ratio,
    row_total,
    shift_right,
    to,
)
from bitship.converters.executorch.norm import affine
from bitship.converters.executorch.values import Value
from bitship.graph.dtypes import DType
from bitship.graph.ops import ILayerNorm, ShiftGelu, Shiftmax
from bitship.graph.ops.ivit import SHIFTGELU_N, SHIFTMAX_N, shift_exp_tables

_ONE = (1 << 31) - 1
_NEWTON = 10


def shiftmax(k: Constants, op: Shiftmax, x: Value) -> Value:
    """Exponentials by table, one division per row."""
    below, _ = shift_exp_tables(op.unit, SHIFTMAX_N)
    q = to(x.rows, DType.INT64)
    e = look_up(k.tensor(below), q.amax([-1], keepdim=True) - q)
    if op.masked:
        e = e + to(q == -128, DType.INT64) * (op.unit - e)
    total = row_total(k, e).clamp(max=_ONE)
    return Value(to(shift_right(e * ratio(_ONE, total), 16), DType.INT16))


def shiftgelu(k: Constants, op: ShiftGelu, x: Value) -> Value:
    """x times its gate, whose exponentials come from two tables."""
    below, zero = shift_exp_tables(op.unit, SHIFTGELU_N)
    q = to(x.rows, DType.INT64)
    largest = q.amax([-1], keepdim=True)
    e = look_up(k.tensor(below), largest - q)
    total = (e + look_up(k.tensor(zero), largest + 128)).clamp(max=_ONE)
    gate = shift_right(e * ratio(_ONE, total), 24)
    return Value(finish(k, q * gate, op.requant, q.dim() - 1, 128 * 127))


def _mean(k: Constants, q: Tensor) -> Tensor:
    """Mean of the rows, half to even; 2^15 is added before the division, which wants nothing negative."""
    c = q.shape[-1]
    twice = row_total(k, q) * 2 + c * (2 * (1 << 15) + 1)
    mean = ratio(twice, twice.new_full(twice.shape, 2 * c))
    if c % 2 == 0:
        odd = mean - shift_right(mean, 1) * 2
        mean = mean - odd * to(mean * (2 * c) == twice, DType.INT64)
    return mean - (1 << 15)


def i_layer_norm(k: Constants, op: ILayerNorm, x: Value, multiplier: Value, bias: Value) -> Value:
    """Rounded mean, ten Newton steps; the root is at least |y|, so z needs no clamp."""
    import torch

    q = to(x.rows, DType.INT64)
    y = q - _mean(k, q)
    v = row_total(k, y * y)
    root = torch.full_like(v, 1 << 16)
    for _ in range(_NEWTON):
        root = shift_right(root + ratio(v, root), 1)
    return affine(k, op, shift_right(y * ratio(_ONE, root), 1), multiplier, bias)
