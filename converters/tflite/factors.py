"""Real scales for given multipliers: the inverse of TFLite's QuantizeMultiplier.

A file holds float32 scales; TFLite makes each multiplier of 31 bits from two or three of them. So of all float32
scales only one in about 2^7 has a partner that gives a wanted multiplier, and several channels leave one at most.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bitship.errors import GraphError
from bitship.graph.base import Array
from bitship.graph.fixedpoint import quantize_multiplier, round_half_away

Pair = tuple[int, int]

_MANTISSAS = 1 << 23
_CHUNK = 1 << 20
_NONE, _RELU, _RELU_N1_TO_1, _RELU6 = 0, 1, 2, 3


def f32(x: float) -> float:
    """Return the nearest float32."""
    return float(np.float32(x))


def near(x: float) -> list[float]:
    """Return the nearest float32 and its two neighbours, as far as they are normal numbers."""
    if not 1e-36 < x < 1e36:
        return []
    middle = np.float32(x)
    found = (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf)))
    return [float(v) for v in found]


def pair(real: float) -> Pair | None:
    """Return TFLite's (multiplier, shift) of a factor; None where it has none."""
    try:
        return quantize_multiplier(real) if math.isfinite(real) else None
    except GraphError:
        return None


def real(multiplier: int, shift: int) -> float:
    """Return the factor a multiplier stands for."""
    return math.ldexp(multiplier, shift - 31)


def activation(scale: float, zero_point: int, qmin: int, qmax: int) -> int | None:
    """Return the fused activation that clamps to [qmin, qmax] (int8), as TFLite rounds it; None when there is none."""

    def code(value: float) -> int:
        return zero_point + round_half_away(float(np.float32(value) / np.float32(scale)))

    bounds = {_NONE: (-128, 127), _RELU: (code(0), 127), _RELU6: (code(0), code(6)), _RELU_N1_TO_1: (code(-1), code(1))}
    for kind, (low, high) in bounds.items():
        if (max(-128, min(low, 127)), max(-128, min(high, 127))) == (qmin, qmax):
            return kind
    return None


def weight_scales(pairs: Sequence[Pair], x: float, y: float) -> list[float] | None:
    """Return float32 scales with ``QuantizeMultiplier(x * scale / y)`` equal to every pair; None where one has none."""
    found = []
    for wanted in pairs:
        if wanted[0] == 0:
            found.append(f32(1e-18 * y / x))
            if pair(x * found[-1] / y) != wanted:
                return None
            continue
        scale = f32(real(*wanted) * y / x)
        if not 1e-36 < scale < 1e36 or pair(x * scale / y) != wanted:
            return None
        found.append(scale)
    return found


def product_scale(wanted: Pair, x: float, y: float) -> float | None:
    """Return a float32 scale w with ``QuantizeMultiplier(float32(x * w) / y)`` equal to the pair; None without one."""
    if wanted[0] == 0:
        return None
    for product in near(real(*wanted) * y):
        if pair(product / y) == wanted:
            for w in near(product / x):
                if float(np.float32(x) * np.float32(w)) == product:
                    return w
    return None


def _whole(values: Array) -> Array:
    """Return which values are float32 numbers but for 31 bits; they lie within a factor of 8 of each other."""
    scaled = values * 2.0 ** (24 - np.frexp(values)[1].astype(np.float64))
    return np.asarray(np.abs(scaled - np.rint(scaled)) < 2.0**-6)


def _close(mantissas: Array, ratio: float) -> Array:
    """Return the mantissas whose product with a ratio is a float32 number but for 31 bits."""
    scaled = mantissas * math.frexp(ratio)[0]
    scaled = np.where(scaled < _MANTISSAS, 2 * scaled, scaled)  # 24 bits, as a float32 has
    return np.asarray(mantissas[np.abs(scaled - np.rint(scaled)) < 2.0**-6])


def _search(targets: Sequence[float], most: int, fits: Callable[[float], bool]) -> Iterator[float]:
    ratios = sorted({math.frexp(t)[0] for t in targets})
    for first in range(_MANTISSAS, 2 * _MANTISSAS, _CHUNK):
        left = np.arange(first, first + _CHUNK, dtype=np.float64)
        for ratio in ratios:
            left = _close(left, ratio)
            if not left.size:
                break
        for mantissa in left:
            scale = math.ldexp(float(mantissa), -23)
            if fits(scale):
                yield scale
                most -= 1
                if not most:
                    return


def result_scales(pairs: Sequence[Pair], x: float, most: int = 4) -> Iterator[float]:
    """Yield scales in [1, 2) of a result that every pair has a weight scale for; powers of two are free."""
    targets = [real(*p) / x for p in pairs if p[0]]
    return _search(targets, most, lambda y: weight_scales(pairs, x, y) is not None)


def operand_scales(pairs: Sequence[Pair], y: float, most: int = 2) -> Iterator[float]:
    """Yield scales in [1, 2) of an operand that every pair has a weight scale for; powers of two are free."""
    reciprocals = [real(*p) * y for p in pairs if p[0]]
    for first in range(_MANTISSAS, 2 * _MANTISSAS, _CHUNK):
        left = np.arange(first, first + _CHUNK, dtype=np.float64)
        for target in reciprocals:
            left = left[_whole(math.frexp(target)[0] / left)]
            if not left.size:
                break
        for mantissa in left:
            x = math.ldexp(float(mantissa), -23)
            if weight_scales(pairs, x, y) is not None:
                yield x
                most -= 1
                if not most:
                    return
