"""Real functions of one variable, exact or to 60 digits, and the int8 tables made of them.

Rational functions are computed in fractions, so ties are seen and rounded half up, as ``rescale`` does it.
Transcendental ones are irrational at every rational argument but a few (Lindemann), so 60 digits decide.
"""

import decimal
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from bitship.graph.base import Array

Real = Fraction
Function = Callable[[Fraction], Fraction]

_CONTEXT = decimal.Context(prec=60)
_FAR = 60  # beyond this exp is below 10^-26 of one: no table entry can tell


def _decimal(x: Fraction) -> decimal.Decimal:
    return _CONTEXT.divide(decimal.Decimal(x.numerator), decimal.Decimal(x.denominator))


def exp(x: Fraction) -> Fraction:
    """``e^x``; arguments are cut at +-400."""
    return Fraction(_CONTEXT.exp(_decimal(min(max(x, Fraction(-400)), Fraction(400)))))


def sigmoid(x: Fraction) -> Fraction:
    """``1 / (1 + e^-x)``."""
    return 1 / (1 + exp(-x))


def tanh(x: Fraction) -> Fraction:
    """Hyperbolic tangent."""
    return 2 * sigmoid(2 * x) - 1


def silu(x: Fraction) -> Fraction:
    """``x * sigmoid(x)``."""
    return x * sigmoid(x)


def erf(x: Fraction) -> Fraction:
    """Error function: its Taylor series with enough guard digits for |x| < 8, else +-1."""
    if abs(x) >= 8:
        return Fraction(1 if x > 0 else -1)
    context = decimal.Context(prec=100)
    z = context.divide(decimal.Decimal(x.numerator), decimal.Decimal(x.denominator))
    square, term, total, n = context.multiply(z, z), z, z, 0
    while abs(term) > decimal.Decimal(10) ** -65:
        n += 1
        term = context.divide(context.multiply(-term, square), decimal.Decimal(n))
        total = context.add(total, context.divide(term, decimal.Decimal(2 * n + 1)))
    return Fraction(context.multiply(total, _TWO_OVER_ROOT_PI))


# 2 / sqrt(pi), Abramowitz and Stegun table 1.1
_TWO_OVER_ROOT_PI = decimal.Decimal("1.12837916709551257389615890312154517168810125865799771368817144")
_HALF_ROOT = Fraction(decimal.Context(prec=60).sqrt(decimal.Decimal("0.5")))


def gelu(x: Fraction) -> Fraction:
    """``x * Phi(x)`` with the error function (Hendrycks and Gimpel, arXiv 1606.08415)."""
    return x * (1 + erf(x * _HALF_ROOT)) / 2


def gelu_tanh(x: Fraction) -> Fraction:
    """The tanh approximation of gelu."""
    inner = Fraction(math.sqrt(2 / math.pi)) * (x + Fraction(44715, 1000000) * x**3)
    return x * (1 + tanh(inner)) / 2


def clip(x: Fraction, low: Fraction | int, high: Fraction | int) -> Fraction:
    """X limited to [low, high]."""
    return Fraction(min(max(x, low), high))


def hardsigmoid(x: Fraction) -> Fraction:
    """``relu6(x + 3) / 6``."""
    return clip(x + 3, 0, 6) / 6


def hardswish(x: Fraction) -> Fraction:
    """``x * relu6(x + 3) / 6`` (Howard et al., arXiv 1905.02244)."""
    return x * hardsigmoid(x)


def relu(x: Fraction) -> Fraction:
    """``max(x, 0)``."""
    return max(x, Fraction(0))


def leaky_relu(slope: float) -> Function:
    """``x`` above zero, ``slope * x`` below."""
    return lambda x: x if x >= 0 else x * Fraction(slope)


def elu(alpha: float) -> Function:
    """``x`` above zero, ``alpha * (e^x - 1)`` below."""
    return lambda x: x if x >= 0 else Fraction(alpha) * (exp(x) - 1)


def clamp(low: float, high: float) -> Function:
    """X limited to [low, high]; infinite limits are open ends."""
    ends = [Fraction(v) if math.isfinite(v) else Fraction(10) ** 30 * (1 if v > 0 else -1) for v in (low, high)]
    return lambda x: clip(x, ends[0], ends[1])


def affine(factor: float, offset: float) -> Function:
    """``factor * x + offset``."""
    return lambda x: x * Fraction(factor) + Fraction(offset)


def round_half_up(x: Fraction) -> int:
    """Nearest integer, ties towards plus infinity."""
    return math.floor(x + Fraction(1, 2))


def table(function: Function, scale: float, zero_point: int, out_scale: float, out_zero_point: int) -> Array:
    """Return int8 [256]: entry i is ``function`` of the real value of ``i - 128``, quantized, rounded half up."""
    step, inverse = Fraction(scale), 1 / Fraction(out_scale)
    entries = [round_half_up(function(step * (q - zero_point)) * inverse) + out_zero_point for q in range(-128, 128)]
    return np.array([min(max(e, -128), 127) for e in entries], np.int8)


def exp_table(scale: float) -> Array:
    """Return int32 [256] in Q0.31: ``exp(-scale * d)`` for softmax, one capped at 2^31 - 1."""
    step = Fraction(scale)
    entries = [min(round_half_up(exp(-step * d) * (1 << 31)), (1 << 31) - 1) for d in range(256)]
    return np.array(entries, np.int64).astype(np.int32)
