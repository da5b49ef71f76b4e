"""Scales for one convolution alone, where nothing says what its operand's is: from its multipliers' ratios.

The multipliers of a file's channels are ``x * scale_c / y`` for scales of 24 bits: they lie on a line through an
integer point, off by half a unit in 2^31. A short vector of the lattice below is that point (Lenstra, Lenstra and
Lovasz 1982), and any x and y whose ratio lies where every channel rounds to its multiplier will do.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from bitship.converters.tflite.factors import Pair, weight_scales
from bitship.graph.base import Array

_CHANNELS = 12  # of a lattice: 31 bits each tell the 24 bits of every scale and of the ratio from chance
_FEWEST = 9
_WEIGHT = 1 << 31
_DELTA = 0.99
_ROUNDS = 4000


def reduced(basis: list[list[int]]) -> list[list[int]]:
    """Return an LLL-reduced basis; float64 Gram-Schmidt is enough for entries of 32 bits in a dozen dimensions."""
    rows = [list(r) for r in basis]
    k = 1
    for _ in range(_ROUNDS):
        if k == len(rows):
            break
        for j in range(k - 1, -1, -1):
            upper = np.linalg.qr(np.array(rows[: k + 1], np.float64).T)[1]
            q = round(upper[j, k] / upper[j, j])
            if q:
                rows[k] = [a - q * b for a, b in zip(rows[k], rows[j], strict=True)]
        upper = np.linalg.qr(np.array(rows[: k + 1], np.float64).T)[1]
        if upper[k, k] ** 2 + upper[k - 1, k] ** 2 >= _DELTA * upper[k - 1, k - 1] ** 2:
            k += 1
        else:
            rows[k], rows[k - 1] = rows[k - 1], rows[k]
            k = max(k - 1, 1)
    return rows


def _reference(multipliers: Sequence[int]) -> int:
    """Return the 24-bit number that stands to the first multiplier as all the others' do to theirs; 0 without one."""
    first = multipliers[0]
    basis = [[1, *(round(_WEIGHT * m / first) for m in multipliers[1:])]]
    for i in range(1, len(multipliers)):
        basis.append([_WEIGHT if j == i else 0 for j in range(len(multipliers))])
    return abs(reduced(basis)[0][0])


def _interval(multipliers: Sequence[int], ratio: Fraction) -> tuple[Fraction, Fraction] | None:
    """Return the ratios near one for which every multiplier comes from a 24-bit number; None where there is none."""
    low, high = Fraction(0), Fraction(1 << 40)
    for m in multipliers:
        exact = m / ratio
        shift = 24 - (exact.numerator // exact.denominator).bit_length()
        scale = Fraction(round(exact * Fraction(2) ** shift)) / Fraction(2) ** shift
        low, high = max(low, (m - Fraction(1, 2)) / scale), min(high, (m + Fraction(1, 2)) / scale)
    return (low, high) if low < high else None


def free_scales(pairs: Sequence[Pair]) -> tuple[float, float] | None:
    """Return float32 scales (operand, result) that every pair has a weight scale for; None where there are none."""
    multipliers = sorted({m for m, _ in pairs if m})
    if len(multipliers) < _FEWEST:
        return None
    middle = (len(multipliers) - _CHANNELS) // 2
    for start in dict.fromkeys((0, max(len(multipliers) - _CHANNELS, 0), max(middle, 0))):
        window = multipliers[start : start + _CHANNELS]
        known = _reference(window)
        if not 1 << 10 < known < 1 << 25:
            continue
        found = _interval(multipliers, Fraction(window[0], known))
        scales = None if found is None else _pair_in(*found, pairs)
        if scales is not None:
            return scales
    return None


def _pair_in(low: Fraction, high: Fraction, pairs: Sequence[Pair]) -> tuple[float, float] | None:
    """Return two float32 numbers whose ratio, but for a power of two, lies in an interval, and fits the pairs."""
    exponent = math.frexp(float(low))[1]
    bottom, top = (float(v / Fraction(2) ** exponent) for v in (low, high))
    y: Array = np.arange(1 << 23, 1 << 24, 5, dtype=np.float64)
    x = np.rint(y * (bottom + top) / 2)
    inside = (x >= y * bottom) & (x <= y * top)
    for a, b in zip(x[inside][:64], y[inside][:64], strict=True):
        scales = math.ldexp(float(a), -26), math.ldexp(float(b), -26)
        if weight_scales(pairs, *scales) is not None:
            return scales
    return None
