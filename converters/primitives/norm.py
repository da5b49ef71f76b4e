"""layer_norm and rms_norm in integer primitives."""

import numpy as np

from bitship.converters.primitives.arithmetic import I32, I64, count_powers, limited, plus, power, times
from bitship.converters.primitives.machine import Ints, Machine, Value
from bitship.converters.primitives.roots import reciprocal, root
from bitship.errors import UnsupportedError
from bitship.graph.ops import ILayerNorm, LayerNorm, RmsNorm


def affine(k: Machine, op: LayerNorm | RmsNorm | ILayerNorm, z: Value, multiplier: Value, bias: Value) -> Value:
    """Per-channel affine of normalised int32 values, clamped."""
    if multiplier.array is None or bias.array is None:
        raise UnsupportedError("its multiplier and bias are computed; constant ones are supported")
    repeats = z.shape[-1] // multiplier.array.size
    gain, offset = (np.tile(a.astype(np.int64), repeats) for a in (multiplier.array, bias.array))
    addend = (offset << (op.shift - 16)) + (1 << (op.shift - 1))
    reach = max(abs(op.qmin - op.output_zero_point), abs(op.qmax - op.output_zero_point)) + 2
    y = saturating(k, z, gain, addend, op.shift, reach)
    return k.cast(limited(k, plus(k, y, op.output_zero_point), op.qmin, op.qmax), op.dtype)


def saturating(k: Machine, z: Value, gain: Ints, addend: Ints, shift: int, reach: int) -> Value:
    """``(z * gain + addend) >> shift`` as int32 where it is within ``reach``; beyond, anything farther out."""
    wide = k.add(k.mul(k.cast(z, I64), k.number(gain, I64)), k.number(addend, I64))
    bound = reach << shift
    if bound < 1 << 62:
        wide = limited(k, wide, -bound, bound)
    return k.affine(wide, 1, 0, shift)


def _normalised(k: Machine, op: LayerNorm | RmsNorm, y: Value, w: Value) -> Value:
    """Return int32 Q20 of y and w, int64."""
    v = limited(k, plus(k, w, op.epsilon), 1, I64.qmax)
    t = k.sub(k.number(30, I32), count_powers(k, v, range(2, 62, 2)))
    inverse = reciprocal(k, root(k, k.mul(v, power(k, k.add(t, t), 60))))
    down = k.sub(k.number(40, I32), t)
    return k.shift_rows(k.add(k.mul(y, inverse), power(k, plus(k, down, -1), 39)), down, 10)


def layer_norm(k: Machine, op: LayerNorm, x: Value, multiplier: Value, bias: Value) -> Value:
    """Normalisation by exact mean and variance."""
    q = k.cast(x, I64)
    c, last = q.shape[-1], (q.rank - 1,)
    total = k.total(q, last)
    w = k.sub(times(k, k.total(k.mul(q, q), last), c), k.mul(total, total))
    return affine(k, op, _normalised(k, op, k.sub(times(k, q, c), total), w), multiplier, bias)


def rms_norm(k: Machine, op: RmsNorm, x: Value, multiplier: Value, bias: Value) -> Value:
    """Normalisation by the exact mean square."""
    q = plus(k, k.cast(x, I64), -op.input_zero_point)
    c = q.shape[-1]
    w = times(k, k.total(k.mul(q, q), (q.rank - 1,)), c)
    return affine(k, op, _normalised(k, op, times(k, q, c), w), multiplier, bias)
