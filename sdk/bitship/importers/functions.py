"""Real functions of one variable, exact or to 60 digits, and the int8 tables made of them.

Rational functions are computed in fractions, so ties are seen and rounded half up, as ``rescale`` does it.
Transcendental ones are irrational at every rational argument but a few (Lindemann), so 60 digits decide.
"""

import decimal
import functools
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


@functools.lru_cache(maxsize=256)
def leaky_relu(slope: float) -> Function:
    """``x`` above zero, ``slope * x`` below."""
    return lambda x: x if x >= 0 else x * Fraction(slope)


@functools.lru_cache(maxsize=256)
def elu(alpha: float) -> Function:
    """``x`` above zero, ``alpha * (e^x - 1)`` below."""
    return lambda x: x if x >= 0 else Fraction(alpha) * (exp(x) - 1)


@functools.lru_cache(maxsize=256)
def clamp(low: float, high: float) -> Function:
    """X limited to [low, high]; infinite limits are open ends."""
    ends = [Fraction(v) if math.isfinite(v) else Fraction(10) ** 30 * (1 if v > 0 else -1) for v in (low, high)]
    return lambda x: clip(x, ends[0], ends[1])


@functools.lru_cache(maxsize=256)
def affine(factor: float, offset: float) -> Function:
    """``factor * x + offset``."""
    return lambda x: x * Fraction(factor) + Fraction(offset)


@functools.lru_cache(maxsize=256)
def power(exponent: Fraction) -> Function:
    """``x`` to a rational power; negative x only to whole powers, and 0 to a negative power is 10^30."""

    def raised(x: Fraction) -> Fraction:
        if exponent.denominator == 1 and (x != 0 or exponent >= 0):
            return x ** int(exponent)
        if x <= 0:
            return Fraction(0) if exponent > 0 or x < 0 else Fraction(10) ** 30
        return Fraction(_CONTEXT.power(_decimal(x), _decimal(exponent)))

    return raised


def reciprocal(x: Fraction) -> Fraction:
    """``1 / x``; 10^30 at 0."""
    return 1 / x if x else Fraction(10) ** 30


def softplus(x: Fraction) -> Fraction:
    """``log(1 + e^x)``."""
    return x if x > 100 else Fraction(_CONTEXT.ln(_decimal(1 + exp(x))))


def mish(x: Fraction) -> Fraction:
    """``x * tanh(softplus(x))`` (Misra, arXiv 1908.08681)."""
    return x * tanh(softplus(x))


def log(x: Fraction) -> Fraction:
    """Natural logarithm; -10^30 at 0 and below."""
    return Fraction(_CONTEXT.ln(_decimal(x))) if x > 0 else -(Fraction(10) ** 30)


def negative(x: Fraction) -> Fraction:
    """``-x``."""
    return -x


def square(x: Fraction) -> Fraction:
    """``x * x``."""
    return x * x


def round_half_up(x: Fraction) -> int:
    """Nearest integer, ties towards plus infinity."""
    return math.floor(x + Fraction(1, 2))


def within(function: Function, limits: tuple[float, float]) -> Function:
    """Return the function with its value limited."""
    bound = clamp(*limits)
    return lambda x: bound(function(x))


@functools.lru_cache(maxsize=512)
def table(
    function: Function,
    limits: tuple[float, float],
    scale: float,
    zero_point: int,
    out_scale: float,
    out_zero_point: int,
    low: int = -128,
    high: int = 127,
) -> Array:
    """Return [256] of int8, or int16 where [low, high] asks for it.

    Entry i is ``function`` of the real value of ``i - 128``, within real limits, quantized, rounded half up.
    """
    limited, step, inverse = within(function, limits), Fraction(scale), 1 / Fraction(out_scale)
    entries = [round_half_up(limited(step * (q - zero_point)) * inverse) + out_zero_point for q in range(-128, 128)]
    return np.array([min(max(e, low), high) for e in entries], np.int8 if high < 128 else np.int16)


@functools.lru_cache(maxsize=512)
def wide_table(function: Function, limits: tuple[float, float], scale: float, out_scale: float) -> Array:
    """Return int16 [513]: ``function`` at every 128th int16 value, zero points 0, interpolated between by ``table``.

    The last entry stands for 32768, which only interpolation reads.
    """
    limited, step, inverse = within(function, limits), Fraction(scale), 1 / Fraction(out_scale)
    entries = [round_half_up(limited(step * (128 * i - 32768)) * inverse) for i in range(513)]
    return np.array([min(max(e, -32768), 32767) for e in entries], np.int16)


@functools.lru_cache(maxsize=512)
def exp_table(scale: float, one: int = 1 << 31, dtype: str = "int32") -> Array:
    """Return [256]: ``one * exp(-scale * d)`` rounded half up and capped to the dtype, for the softmax ops.

    int32 in Q0.31 for softmax, int16 of 32767 for table_softmax, uint8 of 255 for softmax_matmul.
    """
    step = Fraction(scale)
    entries = [min(round_half_up(exp(-step * d) * one), int(np.iinfo(dtype).max)) for d in range(256)]
    return np.array(entries, np.int64).astype(dtype)
