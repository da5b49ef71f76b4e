"""I-ViT's published integer functions (Li and Gu, arXiv 2207.01405), every division and shift defined.

The reading is that of the released PyTorch simulation with integer inputs: n = 15 and 16-bit output for Shiftmax,
n = 23 for ShiftGELU, floor division, halves kept until after the shift.
"""

import numpy as np

from bitship.graph.base import Array, Interval, Ints, Op, Operand, TensorType, check, check_dtype
from bitship.graph.dtypes import DType
from bitship.graph.ops.norm import Affine
from bitship.graph.ops.rescale import Rescale, finish, finished_bounds, finished_type

_ONE = (1 << 31) - 1
SHIFTMAX_N = 15
SHIFTGELU_N = 23


def shift_exp(d: Ints, unit: int, n: int) -> Ints:
    """Return I-ViT's ShiftExp: about ``unit * 2^n * exp(d / unit)`` for integers d, saturated at 2^31 - 1.

    t = max(d + (d >> 1) - (d >> 4), -n * unit);  k = floor(-t / unit);  r = t + k * unit in (-unit, 0]
    e = ((r + 2 * unit) * 2^(n - k)) >> 1
    """
    t = np.maximum(d + (d >> 1) - (d >> 4), -n * unit)
    k = (-t) // unit
    r = t + k * unit
    shift = np.minimum(n - k, 31)  # r + 2 * unit > 1: from 31 on the result is 2^31 - 1 in any case
    return np.asarray(np.minimum(((r + 2 * unit) << shift) >> 1, _ONE))


def shift_exp_tables(unit: int, n: int) -> tuple[Ints, Ints]:
    """Return (below, zero), all values of ShiftExp on int8 rows: of x - max by max - x, of -max by max + 128."""
    return shift_exp(-np.arange(256), unit, n), shift_exp(-np.arange(-128, 128), unit, n)


def _check_unit(name: str, unit: int) -> None:
    check(1 <= unit <= 1 << 15, f"{name}: unit {unit} outside [1, 2^15]")


class Shiftmax(Op, frozen=True, tag="shiftmax"):
    """I-ViT's Shiftmax over the last axis, to 16 bits.

    e = ShiftExp(x - max(x)) with n = 15 and unit = ceil(1 / scale);  S = min(sum(e), 2^31 - 1)
    y = (e * floor((2^31 - 1) / S)) >> 16
    ShiftExp(d): t = max(d + (d >> 1) - (d >> 4), -n * unit);  k = floor(-t / unit);  r = t + k * unit
                 e = ((r + 2 * unit) * 2^(n - k)) >> 1

    x [..., C] int8; unit in [1, 2^15]; y int16, scale 2^-15, zero point 0. Li and Gu, arXiv 2207.01405, section 3.3.
    masked: an element of code -128 has e = unit, the least there is, as the release's -100 on a logit has.
    """

    unit: int
    masked: bool = False

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, (DType.INT8,), "shiftmax: x")
        check(len(x.shape) >= 1 and 1 <= x.shape[-1] <= 1 << 20, f"shiftmax: the last axis of {x} is not 1..2^20")
        _check_unit("shiftmax", self.unit)
        return TensorType(x.shape, DType.INT16)

    def run(self, x: Array) -> Array:  # type: ignore[override]
        q = x.astype(np.int64)
        e = shift_exp(q - q.max(axis=-1, keepdims=True), self.unit, SHIFTMAX_N)
        e = np.where(q == -128, self.unit, e) if self.masked else e
        total = np.minimum(e.sum(axis=-1, keepdims=True), _ONE)
        return np.asarray(((e * (_ONE // total)) >> 16).astype(np.int16))

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        return Interval(0, 32767)


class ShiftGelu(Op, frozen=True, tag="shiftgelu"):
    """I-ViT's ShiftGELU: x times a sigmoid of 1.702 x that is normalised by the maximum of its row (last axis).

    e = ShiftExp(x - max(x)), e0 = ShiftExp(-max(x)) with n = 23 and unit = ceil(1 / (1.702 * scale))
    S = min(e + e0, 2^31 - 1);  g = (e * floor((2^31 - 1) / S)) >> 24;  y = x * g, then the epilogue

    x [..., C] int8, zero point 0; result int32 of scale 2^-7 times x's, or the epilogue's. ShiftExp as in shiftmax,
    saturated at 2^31 - 1. An element depends on its row: this op can not be tiled along the last axis.
    Li and Gu, arXiv 2207.01405, section 3.4.
    """

    unit: int
    requant: Rescale | None = None

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, (DType.INT8,), "shiftgelu: x")
        check(len(x.shape) >= 1, "shiftgelu: x has no last axis")
        _check_unit("shiftgelu", self.unit)
        return finished_type(x.shape, self.requant)

    def run(self, x: Array) -> Array:  # type: ignore[override]
        q = x.astype(np.int64)
        largest = q.max(axis=-1, keepdims=True)
        e = shift_exp(q - largest, self.unit, SHIFTGELU_N)
        total = np.minimum(e + shift_exp(-largest, self.unit, SHIFTGELU_N), _ONE)
        gate = (e * (_ONE // total)) >> 24
        return finish(q * gate, self.requant)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        return finished_bounds(Interval(-128 * 127, 127 * 127), self.requant, "shiftgelu")


class ILayerNorm(Affine, frozen=True, tag="i_layer_norm"):
    """I-ViT's I-LayerNorm over the last axis: rounded mean, ten Newton steps from 2^16, then a per-channel affine.

    y = x - round_half_even(sum(x) / C);  V = sum(y^2);  k = 2^16, ten times k <- (k + floor(V / k)) >> 1
    z = clamp((y * floor((2^31 - 1) / k)) >> 1, -(2^31 - 1), 2^31 - 1)
    out[c] = clamp(((z * multiplier[p] + (bias[p] << (shift - 16)) + 2^(shift - 1)) >> shift) + output_zero_point)

    x [..., C] int8 or int16, C <= 2^20; multiplier, bias [P] int32, P divides C, p = c mod P; result int8 or int16.
    The affine stands for the published ``z + floor(beta / gamma ...)``, which overflows when gamma is small.
    Li and Gu, arXiv 2207.01405, section 3.5.
    """

    def infer(self, x: TensorType, multiplier: TensorType, bias: TensorType) -> TensorType:  # type: ignore[override]
        out = super().infer(x, multiplier, bias)
        check(x.shape[-1] <= 1 << 20, f"i_layer_norm: the last axis of {x} is longer than 2^20")
        return out

    def run(self, x: Array, multiplier: Array, bias: Array) -> Array:  # type: ignore[override]
        q, c = x.astype(np.int64), x.shape[-1]
        mean, rest = np.divmod(q.sum(axis=-1, keepdims=True), c)
        mean += (2 * rest > c) | ((2 * rest == c) & (mean % 2 == 1))
        y = q - mean
        v = (y * y).sum(axis=-1, keepdims=True)
        k = np.full_like(v, 1 << 16)
        for _ in range(10):
            k = (k + v // k) >> 1
        z = np.clip((y * (_ONE // k)) >> 1, -_ONE, _ONE)
        return self.finish(z, multiplier, bias)

    def bounds(self, out: TensorType, x: Operand, multiplier: Operand, bias: Operand) -> Interval:  # type: ignore[override]
        return self.prove(_ONE, multiplier, bias)
