"""I-ViT's functions in integer primitives: ShiftExp of an int8 row comes from tables."""

import numpy as np

from bitship.converters.primitives.arithmetic import I32, I64, finish, limited, plus, times
from bitship.converters.primitives.machine import Machine, Value
from bitship.converters.primitives.norm import affine
from bitship.converters.primitives.softmax import below_largest
from bitship.graph.dtypes import DType
from bitship.graph.ops import ILayerNorm, ShiftGelu, Shiftmax
from bitship.graph.ops.ivit import SHIFTGELU_N, SHIFTMAX_N, shift_exp_tables

_ONE = (1 << 31) - 1
_NEWTON = 10


def shiftmax(k: Machine, op: Shiftmax, x: Value) -> Value:
    """Exponentials by table, one division per row."""
    below, _ = shift_exp_tables(op.unit, SHIFTMAX_N)
    q, d = below_largest(k, x)
    e = k.look_up(below.astype(np.int64), d)
    if op.masked:
        taking = k.cast(k.at_least(q, k.number(-127, I32)), I64)
        e = plus(k, k.mul(taking, plus(k, e, -op.unit)), op.unit)
    total = limited(k, k.total(e, (x.rank - 1,)), I64.qmin, _ONE)
    inverse = k.ratio(k.number(_ONE, I64), total, _ONE)
    return k.cast(k.affine(k.mul(e, inverse), 1, 0, 16), DType.INT16)


def shiftgelu(k: Machine, op: ShiftGelu, x: Value) -> Value:
    """x times its gate, whose exponentials come from two tables."""
    below, zero = shift_exp_tables(op.unit, SHIFTGELU_N)
    q, d = below_largest(k, x)
    e = k.look_up(below.astype(np.int64), d)
    e0 = k.look_up(zero.astype(np.int64), plus(k, k.largest(q, (x.rank - 1,)), 128))
    total = limited(k, k.add(e, e0), I64.qmin, _ONE)
    gate = k.affine(k.mul(e, k.ratio(k.number(_ONE, I64), total, _ONE)), 1, 0, 24)
    return finish(k, k.mul(q, gate), op.requant, 128 * 127)


def _mean(k: Machine, q: Value) -> Value:
    """Mean of int64 rows, half to even; 2^15 is added before the division, which wants nothing negative."""
    c = q.shape[-1]
    twice = plus(k, times(k, k.total(q, (q.rank - 1,)), 2), c * (2 * (1 << 15) + 1))
    mean = k.ratio(twice, k.number(2 * c, I64), 2 * c * ((1 << 16) + 1))
    if c % 2 == 0:
        odd = k.sub(mean, times(k, k.cast(k.affine(mean, 1, 0, 1), I64), 2))
        tie = k.at_least(times(k, mean, 2 * c), twice)
        mean = k.sub(mean, k.mul(odd, tie))
    return plus(k, mean, -(1 << 15))


def i_layer_norm(k: Machine, op: ILayerNorm, x: Value, multiplier: Value, bias: Value) -> Value:
    """Rounded mean, ten Newton steps; the root is at least |y|, so z needs no clamp."""
    q = k.cast(x, I64)
    y = k.sub(q, _mean(k, q))
    v = k.total(k.mul(y, y), (q.rank - 1,))
    root, most = k.number(1 << 16, I64), q.shape[-1] * (1 << (16 if x.dtype is DType.INT8 else 32))
    for _ in range(_NEWTON):
        root = k.cast(k.affine(k.add(root, k.ratio(v, root, most)), 1, 0, 1), I64)
    z = k.affine(k.mul(y, k.ratio(k.number(_ONE, I64), root, _ONE)), 1, 0, 1)
    return affine(k, op, z, multiplier, bias)
