"""softmax: TFLite's fixed-point softmax over the last axis, int8 to int8."""

import numpy as np

from bitship.graph.base import Array, Interval, Ints, Op, Operand, TensorType, check, check_dtype
from bitship.graph.dtypes import DType

_ONE = (1 << 31) - 1
_48_OVER_17 = 1515870810  # Q2.29
_NEG_32_OVER_17 = -1010580540  # Q2.29


def doubling_high_mul(a: Ints, b: Ints) -> Ints:
    """Rounded high half of 2ab (gemmlowp SaturatingRoundingDoublingHighMul): floor((ab + 2^30) / 2^31)."""
    return np.asarray(np.minimum((a * b + (1 << 30)) >> 31, _ONE))


def rounding_shift(x: Ints, amount: Ints) -> Ints:
    """``x / 2^amount`` rounded half away from zero (gemmlowp RoundingDivideByPOT)."""
    mask = (np.int64(1) << amount) - 1
    return (x >> amount) + ((x & mask) > (mask >> 1) + (x < 0))


def saturating_left_shift(x: Ints, amount: int) -> Ints:
    """``x * 2^amount`` clamped to int32."""
    return np.asarray(np.clip(x << amount, -(1 << 31), _ONE))


def reciprocal(total: Ints) -> tuple[Ints, Ints]:
    """Return (1 / mantissa of total in Q0.31, headroom): gemmlowp's GetReciprocal, three Newton steps.

    total  int64 in [1, 2^31), Q12.19; the mantissa is total shifted left until bit 31 is set, read as 1.x
    """
    headroom = np.array([32 - int(t).bit_length() for t in total.reshape(-1)], np.int64).reshape(total.shape)
    a = (total << headroom) - (1 << 31)
    half_sum = a + _ONE
    half_denominator = (half_sum + 1) >> 1  # RoundingHalfSum of two non-negative numbers
    x = _48_OVER_17 + doubling_high_mul(half_denominator, np.array(_NEG_32_OVER_17, np.int64))
    for _ in range(3):
        one_minus = (1 << 29) - doubling_high_mul(half_denominator, x)
        x = x + saturating_left_shift(doubling_high_mul(x, one_minus), 2)
    return saturating_left_shift(x, 1), headroom


class Softmax(Op, frozen=True, tag="softmax"):
    """``y[i] = 256 * e[i] / sum(e) - 128`` with ``e[i] = exp_table[max(x) - x[i]]``, in gemmlowp's fixed point.

    x [..., C] int8, C <= 4095; exp_table [256] int32, Q0.31: exp(-scale * beta * d), 0 below TFLite's diff_min.
    The sum is Q12.19 (each term rounded), its reciprocal three Newton steps; output int8, scale 1/256, zero point
    -128. The same bits as TFLite's reference Softmax on int8, whose exponential depends on max(x) - x alone.
    """

    operands = ("x", "exp_table")

    def infer(self, x: TensorType, exp_table: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, (DType.INT8,), "softmax: x")
        check(exp_table == TensorType((256,), DType.INT32), f"softmax: exp_table is {exp_table}, int32[256] is needed")
        check(len(x.shape) >= 1 and 1 <= x.shape[-1] <= 4095, f"softmax: the last axis of {x} must lie in [1, 4095]")
        return x

    def run(self, x: Array, exp_table: Array) -> Array:  # type: ignore[override]
        difference = x.max(axis=-1, keepdims=True).astype(np.int64) - x
        e = exp_table.astype(np.int64)[difference]
        total = rounding_shift(e, np.int64(12)).sum(axis=-1, keepdims=True)  # type: ignore[arg-type]
        scale, headroom = reciprocal(total)
        y = rounding_shift(doubling_high_mul(scale, e), 12 - headroom + 31 - 8)
        return np.clip(y - 128, -128, 127).astype(np.int8)

    def bounds(self, out: TensorType, x: Operand, exp_table: Operand) -> Interval:  # type: ignore[override]
        check(exp_table.value is not None, "softmax: exp_table is computed, a constant is needed")
        assert exp_table.value is not None
        check(
            int(exp_table.value.min()) >= 0 and int(exp_table.value[0]) >= 1 << 30,
            "softmax: exp_table must not be negative, and its first entry at least 2^30",
        )
        return Interval.of(DType.INT8)
