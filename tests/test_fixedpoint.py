"""quantize_multiplier against the real number it stands for."""

import math
from fractions import Fraction

import numpy as np
import pytest

from bitship.errors import GraphError
from bitship.graph.fixedpoint import quantize_multiplier


def test_the_pair_is_the_nearest_31_bit_mantissa() -> None:
    r = np.random.default_rng(0)
    for real in np.exp(r.uniform(-18, 20, 500)).tolist():
        multiplier, shift = quantize_multiplier(real)
        mantissa, exponent = math.frexp(real)
        assert (1 << 30) <= multiplier < 1 << 31
        assert abs(Fraction(multiplier) * Fraction(2) ** (shift - 31) - Fraction(real)) <= Fraction(2) ** (shift - 32)
        assert shift == exponent
        assert multiplier == math.floor(mantissa * 2**31 + 0.5)


@pytest.mark.parametrize(
    ("real", "pair"),
    [
        (0.0, (0, 0)),
        (1.0, (1 << 30, 1)),
        (0.5, (1 << 30, 0)),
        (math.nextafter(1.0, 0.0), (1 << 30, 1)),
        (2.0**-32, (1 << 30, -31)),
        (2.0**-33, (0, 0)),
        (Fraction(1, 3), (1431655765, -1)),
        (Fraction(2, 3), (1431655765, 0)),
    ],
)
def test_corners(real: float | Fraction, pair: tuple[int, int]) -> None:
    assert quantize_multiplier(real) == pair


@pytest.mark.parametrize("real", [-0.1, math.nan, math.inf, 2.0**31])
def test_factors_without_a_pair_are_refused(real: float) -> None:
    with pytest.raises(GraphError, match="rescale factor"):
        quantize_multiplier(real)
