"""Makers of the ops a transformer needs, for ``graph_fuzz``."""

from collections.abc import Callable
from math import isqrt

import numpy as np
from graph_maker import I8, I16, Maker
from msgspec.structs import replace

from bitship.graph import ops
from bitship.graph.base import Array
from bitship.graph.ops import Rescale, Rounding

_ANY_SHIFT = (16, 17, 31, 32, 33, 34, 47, 48, 62)


def _span(m: Maker, lo: int, hi: int) -> tuple[int, int]:
    if m.chance(0.7):
        return lo, hi
    a, b = sorted((m.whole(lo, hi), m.whole(lo, hi)))
    return a, b


def _gains(m: Maker, count: int, reach: int, shift: int, largest: int) -> tuple[Array, Array]:
    """Multipliers and biases that the range proof accepts for ``|z| <= reach``, most of them with useful results."""
    room = ((1 << 63) - (1 << (shift - 1)) - 1) // 2
    most = min((1 << 31) - 1, room // reach)
    if m.chance(0.7):
        most = min(most, max(1, (2 * largest << shift) // reach))
    bias = min((1 << 31) - 1, room >> (shift - 16))
    if m.chance(0.8):
        bias = min(bias, largest << 16)
    edges = m.chance(0.1)
    return tuple(  # type: ignore[return-value]
        m.r.choice([-n, 0, n], count).astype(np.int32) if edges else m.r.integers(-n, n, count, endpoint=True)
        for n in (most, bias)
    )


def norms(m: Maker) -> None:
    x = m.pick((I8, I16))
    known = m.known[x].type
    kind = m.one((ops.LayerNorm, ops.LayerNorm, ops.RmsNorm, ops.ILayerNorm))
    c = known.shape[-1] if known.shape else 1
    period = m.one([n for n in range(1, c + 1) if c % n == 0]) if m.chance(0.3) else c
    out, shift = m.one((I8, I16)), m.one((m.one(_ANY_SHIFT), m.whole(33, 48)))
    reach = (1 << 31) - 1 if kind is ops.ILayerNorm else (isqrt(c) + 1) << 20
    constants = [m.value(a.astype(np.int32)) for a in _gains(m, period, reach, shift, out.qmax)]
    lo, hi = _span(m, out.qmin, out.qmax)
    more = {}
    if kind is not ops.ILayerNorm:
        more["epsilon"] = m.one((0, 0, 1, m.whole(0, 1 << 30), (1 << m.whole(0, 61)) - 1))
    if kind is ops.RmsNorm:
        more["input_zero_point"] = m.zero_point(known.dtype)
    m.node(kind(shift, m.zero_point(out), out, lo, hi, **more), x, *constants)


def _exponentials(m: Maker, one: int, least: int, dtype: type) -> Array:
    values = m.r.integers(0, one, 256, endpoint=True)
    if m.chance(0.6):
        values = np.rint(np.exp(-float(m.r.random()) * np.arange(256)) * one).astype(np.int64)
    values[0] = max(int(values[0]), least)
    return values.astype(dtype)


def table_softmax(m: Maker) -> None:
    x = m.pick((I8,))
    m.node(ops.TableSoftmax(m.chance(0.4)), x, m.value(_exponentials(m, 32767, 1 << 14, np.int16)))


def softmax_matmul(m: Maker) -> None:
    x = m.pick((I8,), 3)
    batch, _, depth = m.known[x].type.shape
    fits = [n for n in m.made if m.known[n].type.dtype is I8 and m.known[n].type.shape[:2] == (batch, depth)]
    fits = [n for n in fits if len(m.known[n].type.shape) == 3]
    fresh = (batch, depth, m.whole(1, 24))
    fits = [n for n in fits if m.chance(0.6)] or [m.constant(fresh, I8) if m.chance(0.4) else m.input(fresh, I8)]
    v = m.one(fits)
    table = m.value(_exponentials(m, 255, 128, np.uint8))
    masked, zero_point, columns = m.chance(0.4), m.zero_point(I8), m.known[v].type.shape[2]
    for _ in range(6):
        made: Rescale = m.rescale(1 << m.whole(4, 16), columns, (I8, I8, I16))
        requant = replace(made, rounding=Rounding.SINGLE, pre_shift=0)
        if m.node(ops.SoftmaxMatMul(requant, zero_point, masked), x, v, table) is not None:
            return


def ivit(m: Maker) -> None:
    x = m.pick((I8,))
    unit = m.one((1, 2, 1 << 15, m.whole(3, 60), m.whole(1, 1 << 15)))
    if m.chance(0.5):
        m.node(ops.Shiftmax(unit, m.chance(0.4)), x)
    else:
        m.finished(lambda q: ops.ShiftGelu(unit, q), x)


def wide_table(m: Maker) -> None:
    x = m.pick((I16,))
    m.node(ops.Table(), x, m.constant((513,), I16))


TRANSFORMER_MAKERS: tuple[Callable[[Maker], None], ...] = (
    norms,
    norms,
    table_softmax,
    softmax_matmul,
    ivit,
    wide_table,
)
