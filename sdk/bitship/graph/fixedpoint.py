"""Real factors as Q31 multiplier and shift: how every importer and the quantizer turn scales into integers."""

import math
from fractions import Fraction

from bitship.errors import GraphError

_ONE = 1 << 31


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
    multiplier = math.floor(mantissa * _ONE + Fraction(1, 2))
    if multiplier == _ONE:
        multiplier, shift = multiplier // 2, shift + 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        raise GraphError(f"rescale factor {float(exact):g}: the largest factor is below 2^30")
    return multiplier, shift
