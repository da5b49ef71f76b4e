"""Reciprocals and square roots of 60 bits from tables, products and shifts: no division, no float.

Both start below the result, from a table of the leading bits. A step adds the remainder times a lower bound of the
derivative's reciprocal, so it never passes the result; last, what is missing is counted up. Bounds in the comments are
of what is missing, in units of the result.
"""

import math

import numpy as np

from bitship.converters.primitives.arithmetic import I32, I64, plus
from bitship.converters.primitives.machine import Machine, Value

_RECIPROCALS = np.array([(1 << 60) // ((i + 1) << 20) for i in range(1024, 2048)], np.int64)
_ROOTS = np.array([math.isqrt(i << 52) for i in range(256, 1024)], np.int64)
_HALVES = np.array([(1 << 60) // (2 * (math.isqrt((i + 1) << 52) + 1)) for i in range(256, 1024)], np.int64)


def reciprocal(k: Machine, d: Value) -> Value:
    """``floor(2^60 / d)`` of int64 in [2^30, 2^31)."""
    index = plus(k, k.shift32(k.cast(d, I32), 20), -1024)
    slope = q = k.look_up(_RECIPROCALS, index)  # short of 2^60 / d by 2^-10 of it
    rest = k.sub(k.number(1 << 60, I64), k.mul(q, d))
    for first in (20, 10):  # missing: 2^20, then 2^10 + 2, then 3
        step = k.affine(k.mul(k.cast(k.affine(rest, 1, 0, first), I64), slope), 1, 0, 60 - first)
        wide = k.cast(step, I64)
        q, rest = k.add(q, wide), k.sub(rest, k.mul(wide, d))
    for _ in range(3):
        more = k.at_least(rest, d)
        q, rest = k.add(q, more), k.sub(rest, k.mul(more, d))
    return q


def root(k: Machine, x: Value) -> Value:
    """``floor(sqrt(x))`` of int64 in [2^60, 2^62)."""
    index = plus(k, k.affine(x, 1, 0, 52), -256)
    y, slope = k.look_up(_ROOTS, index), k.look_up(_HALVES, index)
    for first in (24, 15, 7):  # missing: 2^22, then 2^13 + 3, then 2^4 + 4, then 4
        rest = k.sub(x, k.mul(y, y))
        step = k.affine(k.mul(k.cast(k.affine(rest, 1, 0, first), I64), slope), 1, 0, 60 - first)
        y = k.add(y, k.cast(step, I64))
    for _ in range(4):
        above = plus(k, y, 1)
        y = k.add(y, k.at_least(x, k.mul(above, above)))
    return y
