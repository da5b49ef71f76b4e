"""From real factors to (multiplier, shift), and gemmlowp's fixed-point functions in Python integers.

Everything here runs on the host, ahead of time: its results are constants of the graph.
"""

import math
from fractions import Fraction

from bitship.errors import GraphError

_ONE = (1 << 31) - 1
_LOW = -(1 << 31)
_UNIT = 1 << 31


def round_half_away(x: float) -> int:
    """Round to the nearest integer, ties away from zero (C's ``round``)."""
    whole = math.floor(abs(x))
    nearest = whole + (abs(x) - whole >= 0.5)
    return nearest if x >= 0 else -nearest


def quantize_multiplier(real: float | Fraction) -> tuple[int, int]:
    """Return (multiplier, shift) with ``real ~ multiplier * 2^(shift - 31)``, as TFLite's QuantizeMultiplier has it.

    real        finite, not negative; taken exactly, a Fraction too
    multiplier  in [2^30, 2^31), or 0 for a factor of 0 and for one below 2^-32, with shift 0
    shift       positive left, in [-31, 30]; GraphError for a factor of 2^30 or more

    The mantissa in [0.5, 1) times 2^31 is rounded half away from zero, so the relative error is at most 2^-31.
    """
    if isinstance(real, float) and not math.isfinite(real):
        raise GraphError(f"rescale factor {real}: a finite factor is needed")
    exact = Fraction(real)
    if exact < 0:
        raise GraphError(f"rescale factor {float(exact):g}: negative factors cannot be represented")
    if exact == 0:
        return 0, 0
    shift = exact.numerator.bit_length() - exact.denominator.bit_length()
    mantissa = exact / Fraction(2) ** shift
    if mantissa >= 1:
        mantissa, shift = mantissa / 2, shift + 1
    elif mantissa < Fraction(1, 2):
        mantissa, shift = mantissa * 2, shift - 1
    multiplier = math.floor(mantissa * _UNIT + Fraction(1, 2))
    if multiplier == _UNIT:
        multiplier, shift = multiplier // 2, shift + 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        raise GraphError(f"rescale factor {float(exact):g}: the largest factor is below 2^30")
    return multiplier, shift


def doubling_high_mul(a: int, b: int) -> int:
    """Rounded high half of 2ab, saturated: gemmlowp's SaturatingRoundingDoublingHighMul."""
    return min((a * b + (1 << 30)) >> 31, _ONE)


def rounding_shift(x: int, amount: int) -> int:
    """``x / 2^amount`` rounded half away from zero: gemmlowp's RoundingDivideByPOT."""
    mask = (1 << amount) - 1
    return (x >> amount) + ((x & mask) > (mask >> 1) + (x < 0))


def left_shift(x: int, amount: int) -> int:
    """``x * 2^amount`` saturated to int32."""
    return max(_LOW, min(x << amount, _ONE))


def rescale_double(x: int, multiplier: int, shift: int) -> int:
    """TFLite's MultiplyByQuantizedMultiplier with two roundings."""
    return rounding_shift(doubling_high_mul(x << max(shift, 0), multiplier), max(-shift, 0))


def input_radius(integer_bits: int, input_left_shift: int, total_bits: int = 31) -> int:
    """Largest input a fixed-point function takes after its left shift: TFLite's CalculateInputRadius."""
    rescaled = ((1 << integer_bits) - 1) * (1 << (total_bits - integer_bits)) / (1 << input_left_shift)
    return math.floor(rescaled)


def exp_on_negative_values(a: int, integer_bits: int) -> int:
    """``exp(a)`` in Q0.31 for a <= 0 with ``integer_bits`` integer bits (at most 5): gemmlowp's, bit for bit."""
    if a == 0:
        return _ONE
    fractional = 31 - integer_bits
    quarter = 1 << (fractional - 2)
    remainder_of_quarter = (a & (quarter - 1)) - quarter
    result = _exp_between_minus_quarter_and_zero(remainder_of_quarter << integer_bits)
    remainder = remainder_of_quarter - a
    factors = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
    for exponent, factor in zip(range(-2, 5), factors, strict=True):
        if integer_bits > exponent and remainder & (1 << (fractional + exponent)):
            result = doubling_high_mul(result, factor)
    return result


def _exp_between_minus_quarter_and_zero(a: int) -> int:
    constant, third = 1895147668, 715827883
    x = a + (1 << 28)
    x2 = doubling_high_mul(x, x)
    x3 = doubling_high_mul(x2, x)
    x4 = doubling_high_mul(x2, x2)
    inner = rounding_shift(doubling_high_mul(rounding_shift(x4, 2) + x3, third) + x2, 1)
    return constant + doubling_high_mul(constant, x + inner)


def _newton_reciprocal(half_denominator: int) -> int:
    """Return ``1 / half_denominator / 2`` ... of gemmlowp in Q2.29 for a half denominator in [1/2, 1] (Q0.31)."""
    x = 1515870810 + doubling_high_mul(half_denominator, -1010580540)
    for _ in range(3):
        one_minus = (1 << 29) - doubling_high_mul(half_denominator, x)
        x += left_shift(doubling_high_mul(x, one_minus), 2)
    return x


def _rounding_half_sum(a: int, b: int) -> int:
    total = a + b
    return (total + 1) >> 1 if total >= 0 else -((-total + 1) >> 1)


def one_over_one_plus(a: int) -> int:
    """``1 / (1 + a)`` in Q0.31 for a in [0, 1] (Q0.31)."""
    return left_shift(_newton_reciprocal(_rounding_half_sum(a, _ONE)), 1)


def logistic(x: int, integer_bits: int) -> int:
    """``1 / (1 + exp(-x))`` in Q0.31: gemmlowp's logistic, bit for bit."""
    if x == 0:
        return 1 << 30
    positive = one_over_one_plus(exp_on_negative_values(-abs(x), integer_bits))
    return positive if x > 0 else _ONE - positive


def tanh(x: int, integer_bits: int) -> int:
    """``tanh(x)`` in Q0.31: gemmlowp's tanh, bit for bit."""
    if x == 0:
        return 0
    e = exp_on_negative_values(-abs(x), integer_bits + 1)  # the same raw value read with one more integer bit: 2x
    twice = _newton_reciprocal(_rounding_half_sum(e, _ONE)) - (1 << 29)
    result = left_shift(twice, 2)
    return result if x > 0 else -result
