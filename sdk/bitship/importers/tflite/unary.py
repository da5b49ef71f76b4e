"""Functions of one int8 code that LiteRT computes itself, in float32 or fixed point: every one becomes a table.

Where LiteRT calls the C library (exp, tanh, erf), the last bit is the library's own business. A table is taken only
when every result within a few units in the last place of the true value gives the same code; else it is refused.
"""

import math
from collections.abc import Callable

import numpy as np

from bitship.graph.fixedpoint import (
    doubling_high_mul,
    left_shift,
    quantize_multiplier,
    rescale_double,
    round_half_away,
    rounding_shift,
)
from bitship.graph.ops import Table
from bitship.importers.tflite.context import EIGHT_BIT, Context

_CODES = range(-128, 128)
_ULPS = 2.0**-21  # relative: four units in the last place of a float32


def emit_table(ctx: Context, function: Callable[[int], int], *types: str) -> None:
    """Emit a table of ``function(code - zero_point)``, clamped, over all codes of an operand of one of the types."""
    index = ctx.operand(0)
    if ctx.info(index).type not in (types or EIGHT_BIT):
        raise ctx.refuse(f"{ctx.info(index).where} is {ctx.info(index).type}; {', '.join(types)} is supported")
    zero_point = ctx.zero_point(index)
    table = np.array([max(-128, min(127, function(q - zero_point))) for q in _CODES], np.int8)
    ctx.emit(Table(), ctx.name(index), ctx.builder.constant("table", table))


def _float_table(function: Callable[[float], tuple[float, float]], *types: str) -> Callable[[Context], None]:
    """Lower a function given as (value, largest error of a float32 implementation; 0 where it is exact)."""

    def lower(ctx: Context) -> None:
        scale = np.float32(ctx.scale(ctx.operand(0)))
        inverse = np.float32(1) / np.float32(ctx.scale(ctx.result))
        zero_point = ctx.zero_point(ctx.result)

        def code(q: int) -> int:
            value, error = function(float(scale * np.float32(q)))
            found = set()
            for v in (value - error, value, value + error):
                with np.errstate(all="ignore"):
                    real = float(np.float32(v) * inverse)
                if not abs(real) < 1 << 30:
                    raise ctx.refuse("a value of the function is not finite or too large for the result's scale")
                found.add(max(-128, min(127, round_half_away(real) + zero_point)))
            if len(found) > 1:
                raise ctx.refuse("a code lies so near a tie that it depends on the C library's last bit")
            return found.pop()

        emit_table(ctx, code, *types)

    return lower


def _elu(x: float) -> tuple[float, float]:
    return (x, 0.0) if x >= 0 else (math.expm1(x), -math.expm1(x) * _ULPS)


def _exp(x: float) -> tuple[float, float]:
    value = math.exp(min(x, 700.0))
    return value, 0.0 if x == 0 else value * _ULPS


def _gelu_exact(x: float) -> tuple[float, float]:
    return 0.5 * x * math.erfc(-x * math.sqrt(0.5)), abs(x) * _ULPS


def _gelu_tanh(x: float) -> tuple[float, float]:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + math.tanh(inner)), abs(x) * _ULPS


elu = _float_table(_elu, "INT8")
exp = _float_table(_exp, "INT8")


def gelu(ctx: Context) -> None:
    """Lower GELU, exact or by its tanh."""
    _float_table(_gelu_tanh if ctx.option("Approximate", False) else _gelu_exact, "INT8", "UINT8")(ctx)


def abs_(ctx: Context) -> None:
    """Lower ABS: one rescale of the magnitude, none where the scales agree."""
    index = ctx.operand(0)
    zero_point = ctx.zero_point(ctx.result)
    same = ctx.scale(index) == ctx.scale(ctx.result)
    factor = float(np.float32(ctx.scale(index)) / np.float32(ctx.scale(ctx.result)))
    multiplier, shift = quantize_multiplier(factor)
    emit_table(ctx, lambda q: (abs(q) if same else rescale_double(abs(q), multiplier, shift)) + zero_point, "INT8")


def _inverse_sqrt(value: int) -> tuple[int, int]:
    """Return (multiplier, shift) of ``1 / sqrt(value)``: five Newton steps in Q3.28, as TFLite takes them."""
    if value <= 1:
        return (1 << 31) - 1, 0
    pairs = (31 - value.bit_length()) // 2 - 1
    x_in, shift = (value << 2 * pairs) >> 1, 11 - pairs
    half, one_and_half = rounding_shift(x_in, 1), (1 << 28) + (1 << 27)
    x = 1 << 28
    for _ in range(5):
        cube = left_shift(doubling_high_mul(doubling_high_mul(x, x), x), 6)
        x = left_shift(doubling_high_mul(one_and_half, x) - doubling_high_mul(half, cube), 3)
    x = doubling_high_mul(x, 1518500250)
    return (x << -shift, 0) if shift < 0 else (x, -shift)


def rsqrt(ctx: Context) -> None:
    """Lower RSQRT of codes that are not negative: fixed point throughout."""
    kept = 20
    real = 1 / (math.sqrt(np.float32(ctx.scale(ctx.operand(0)))) * ctx.scale(ctx.result))
    multiplier, shift = quantize_multiplier(real)
    if ctx.zero_point(ctx.operand(0)) != -128:
        raise ctx.refuse("codes below the zero point have no square root; zero point -128 is supported")

    def code(q: int) -> int:
        if q == 0:
            return 127
        root, root_shift = _inverse_sqrt(q)
        data = rescale_double(1, root, root_shift + kept)
        return rescale_double(data, multiplier, shift - kept) + ctx.zero_point(ctx.result)

    emit_table(ctx, code, "INT8")
