"""The integerize step of the norms: real gains and offsets become per-channel multipliers and biases."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import isqrt, prod

import numpy as np

from bitship.errors import UnsupportedError
from bitship.graph.base import Array
from bitship.graph.ops import ILayerNorm, LayerNorm, RmsNorm
from bitship.graph.ops.norm import FRACTION
from bitship.importers import functions
from bitship.importers.integerize import Integerizer, QParams, QuantizedTensor

_I_FRACTION = 30  # fraction bits of I-LayerNorm's value, which is sqrt(C) times smaller
_BIAS_FRACTION = 16
_WORD = (1 << 31) - 1


def _root(n: int) -> Fraction:
    """Square root to 100 fraction bits."""
    return Fraction(isqrt(n << 200), 1 << 100)


def affine(
    gain: Sequence[float] | Array, offset: Sequence[float] | Array, unit: Fraction, reach: int, out: QParams
) -> tuple[Array, Array, int]:
    """Return (multiplier, bias, shift) of ``unit * z * gain + offset`` in steps of the output, ``|z| <= reach``.

    The shift is the largest for which multipliers and biases are int32 and no intermediate leaves 63 bits.
    """
    step = Fraction(out.scale)
    gains = [Fraction(float(g)) * unit / step for g in gain]
    biases = [functions.round_half_up(Fraction(float(o)) / step * (1 << _BIAS_FRACTION)) for o in offset]
    largest = max((abs(g) for g in gains), default=Fraction(0))
    bias = max((abs(b) for b in biases), default=0)
    if bias > _WORD:
        raise UnsupportedError(f"norm: an offset is {bias >> _BIAS_FRACTION} output steps; below 32768 is allowed")
    for shift in range(62, 15, -1):
        m = functions.round_half_up(largest * (1 << shift))
        if m <= _WORD and reach * m + (bias << (shift - _BIAS_FRACTION)) + (1 << (shift - 1)) < 1 << 63:
            multiplier = [functions.round_half_up(g * (1 << shift)) for g in gains]
            return np.array(multiplier, np.int32), np.array(biases, np.int32), shift
    raise UnsupportedError(f"norm: a gain is {float(largest):.3g} output steps; the output's scale is too small for it")


def _rows(g: Integerizer, x: QuantizedTensor, axes: int) -> tuple[QuantizedTensor, str, int]:
    """Return x in natural order, its view with the normalised axes as one, and their size."""
    x = g.natural(x)
    length = prod(x.shape[len(x.shape) - axes :])
    return x, g.view(x.name, (*x.shape[: len(x.shape) - axes], length)), length


def _write(
    g: Integerizer,
    name: str,
    op: LayerNorm | RmsNorm | ILayerNorm,
    x: QuantizedTensor,
    rows: str,
    constants: tuple[Array, Array],
    out: QParams,
) -> QuantizedTensor:
    multiplier, bias = (
        g.b.constant(f"{name}.{part}", c) for part, c in zip(("gain", "offset"), constants, strict=True)
    )
    made = g.b.node(name, op, rows, multiplier, bias)
    return replace(x, name=g.view(made, x.shape), q=out)


def layer_norm(
    g: Integerizer, name: str, x: QuantizedTensor, axes: int, gain: Array, offset: Array, eps: float, out: QParams
) -> QuantizedTensor:
    """Layer norm over the last ``axes`` axes; gain and offset real, of the axes' size or of a divisor of it."""
    x, rows, length = _rows(g, x, axes)
    unit, reach = Fraction(1, 1 << FRACTION), (isqrt(length) + 1) << FRACTION
    multiplier, bias, shift = affine(gain.reshape(-1), offset.reshape(-1), unit, reach, out)
    epsilon = functions.round_half_up(length * length * Fraction(eps) / Fraction(x.q.scale) ** 2)
    qmin, qmax = out.ends
    op = LayerNorm(shift, out.zero_point, out.dtype, qmin, qmax, min(epsilon, (1 << 61) - 1))
    return _write(g, name, op, x, rows, (multiplier, bias), out)


def rms_norm(
    g: Integerizer, name: str, x: QuantizedTensor, axes: int, gain: Array, eps: float, out: QParams
) -> QuantizedTensor:
    """Root-mean-square norm over the last ``axes`` axes."""
    x, rows, length = _rows(g, x, axes)
    unit, reach = Fraction(1, 1 << FRACTION), (isqrt(length) + 1) << FRACTION
    gains = gain.reshape(-1)
    multiplier, bias, shift = affine(gains, np.zeros(gains.size), unit, reach, out)
    epsilon = functions.round_half_up(length * length * Fraction(eps) / Fraction(x.q.scale) ** 2)
    qmin, qmax = out.ends
    op = RmsNorm(shift, out.zero_point, out.dtype, qmin, qmax, min(epsilon, (1 << 61) - 1), x.q.zero_point)
    return _write(g, name, op, x, rows, (multiplier, bias), out)


def i_layer_norm(
    g: Integerizer, name: str, x: QuantizedTensor, axes: int, gain: Array, offset: Array, out: QParams
) -> QuantizedTensor:
    """I-ViT's layer norm: ``sqrt(C) * z / 2^30`` is the normalised value; eps is ignored, as published."""
    x, rows, length = _rows(g, x, axes)
    unit = _root(length) / (1 << _I_FRACTION)
    multiplier, bias, shift = affine(gain.reshape(-1), offset.reshape(-1), unit, _WORD, out)
    qmin, qmax = out.ends
    op = ILayerNorm(shift, out.zero_point, out.dtype, qmin, qmax)
    return _write(g, name, op, x, rows, (multiplier, bias), out)
