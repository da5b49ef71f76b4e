"""layer_norm and rms_norm: exact statistics, one rounding to Q20, one per-channel affine."""

from math import isqrt

import numpy as np

from bitship.errors import OverflowProofError
from bitship.graph.base import Array, Interval, Ints, Op, Operand, TensorType, check, check_dtype
from bitship.graph.dtypes import DType

FRACTION = 20  # fraction bits of a normalised value
_WIDE = 1 << 63
_RADICAND = 62  # bits of the radicand after it is shifted up


def bit_length(x: Ints) -> Ints:
    """Return the number of bits of non-negative int64 values."""
    bits = np.zeros(x.shape, np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        high = x >= np.int64(1) << step
        bits += np.where(high, step, 0)
        x = np.where(high, x >> step, x)
    return bits + (x > 0)


def floor_sqrt(x: Ints) -> Ints:
    """Return the integer square root of values in [0, 2^62): float64's is off by one at most, and mended."""
    k = np.sqrt(x.astype(np.float64)).astype(np.int64)
    k -= k * k > x
    return k + ((k + 1) * (k + 1) <= x)


def reciprocal_root(radicand: Ints) -> tuple[Ints, Ints]:
    """Return (R, t) of values v in [1, 2^62): ``2^t / sqrt(v)`` is nearly ``R / 2^60``, R in (2^29, 2^30].

    t makes ``v * 4^t`` a number of 61 or 62 bits, so its integer square root has 31 bits whatever v is.
    """
    t = (_RADICAND - bit_length(radicand)) >> 1
    root = floor_sqrt(radicand << (2 * t))
    return (np.int64(1) << 60) // root, t


class Affine(Op, frozen=True):
    """What the norms share: the per-channel affine on a normalised fixed-point value z.

    ``y = clamp(((z * multiplier[c] + bias[c] * 2^(shift - 16) + 2^(shift - 1)) >> shift) + output_zero_point)``

    x [..., C] int8 or int16, normalised over the last axis; multiplier [P] and bias [P] int32 constants, P divides C
    and c is the index on the last axis modulo P; bias has 16 fraction bits in units of the output.
    """

    operands = ("x", "multiplier", "bias")

    shift: int
    output_zero_point: int = 0
    dtype: DType = DType.INT8
    qmin: int = -128
    qmax: int = 127

    def infer(self, x: TensorType, multiplier: TensorType, bias: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, (DType.INT8, DType.INT16), f"{self.name}: x")
        check_dtype(multiplier, (DType.INT32,), f"{self.name}: multiplier")
        check(len(x.shape) >= 1 and x.shape[-1] >= 1, f"{self.name}: x {x} has no last axis to normalise over")
        period = multiplier.shape[0] if len(multiplier.shape) == 1 else 0
        check(
            period >= 1 and x.shape[-1] % period == 0,
            f"{self.name}: multiplier is {multiplier}; one axis whose extent divides {x.shape[-1]} is needed",
        )
        check(bias == multiplier, f"{self.name}: bias is {bias}, {multiplier} is needed")
        check(16 <= self.shift <= 62, f"{self.name}: shift {self.shift} outside [16, 62]")
        check_dtype(TensorType((), self.dtype), (DType.INT8, DType.INT16), f"{self.name}: the result")
        check(
            self.dtype.qmin <= self.qmin <= self.qmax <= self.dtype.qmax,
            f"{self.name}: [qmin, qmax] = [{self.qmin}, {self.qmax}] is empty or outside {self.dtype.value}",
        )
        check(
            self.dtype.qmin <= self.output_zero_point <= self.dtype.qmax,
            f"{self.name}: zero point {self.output_zero_point} outside {self.dtype.value}",
        )
        return TensorType(x.shape, self.dtype)

    def finish(self, z: Ints, multiplier: Array, bias: Array) -> Array:
        """Return the result of normalised values [..., C]."""
        repeats = z.shape[-1] // multiplier.size
        m, b = (np.tile(a.astype(np.int64), repeats) for a in (multiplier, bias))
        y = (z * m + (b << (self.shift - 16)) + (np.int64(1) << (self.shift - 1))) >> self.shift
        return np.asarray(np.clip(y + self.output_zero_point, self.qmin, self.qmax).astype(self.dtype.numpy))

    def prove(self, reach: int, multiplier: Operand, bias: Operand) -> Interval:
        """Prove the affine for ``|z| <= reach``; multiplier and bias must be constants."""
        check(
            multiplier.value is not None and bias.value is not None,
            f"{self.name}: multiplier and bias must be constants",
        )
        m, b = (max(abs(o.range.lo), abs(o.range.hi)) for o in (multiplier, bias))
        largest = reach * m + (b << (self.shift - 16)) + (1 << (self.shift - 1))
        if reach >= 1 << 31 or largest >= _WIDE:
            raise OverflowProofError(
                f"{self.name}: |normalised| up to {reach} times {m} plus {b} << {self.shift - 16} leaves 64 bits"
            )
        return Interval(self.qmin, self.qmax)


def _reach(length: int) -> int:
    return (isqrt(length) + 1) << FRACTION


class _Norm(Affine, frozen=True):
    """Exact statistics: ``z = round(2^20 * y / sqrt(w + epsilon))`` through a 31-bit reciprocal square root."""

    epsilon: int = 0

    def normalised(self, y: Ints, w: Ints) -> Ints:
        """Return z (Q20, int64) of y [..., C] and w [..., 1]."""
        inverse, t = reciprocal_root(np.maximum(w + self.epsilon, 1))
        down = 40 - t
        return np.asarray((y * inverse + (np.int64(1) << (down - 1))) >> down)

    def _check_epsilon(self) -> None:
        check(0 <= self.epsilon < 1 << 61, f"{self.name}: epsilon {self.epsilon} outside [0, 2^61)")

    def _prove_statistics(self, length: int, y: int, w: int) -> None:
        if y >= 1 << 31 or w + self.epsilon >= 1 << 62:
            raise OverflowProofError(
                f"{self.name}: over {length} elements a centred sum can reach {y} (below 2^31 is allowed) and a "
                f"squared sum {w + self.epsilon} (below 2^62)"
            )


class LayerNorm(_Norm, frozen=True, tag="layer_norm"):
    """``(x - mean) / sqrt(variance)`` over the last axis with exact statistics, then the per-channel affine.

    y = C * x - sum(x);  w = C * sum(x^2) - sum(x)^2  (C^2 times the variance), epsilon in its units: C^2 eps / scale^2
    v = max(w + epsilon, 1);  t = (62 - bit_length(v)) >> 1;  k = floor(sqrt(v * 4^t));  R = floor(2^60 / k)
    z = (y * R + 2^(39 - t)) >> (40 - t)        Q20: y / sqrt(v)
    out[c] = clamp(((z * multiplier[p] + (bias[p] << (shift - 16)) + 2^(shift - 1)) >> shift) + output_zero_point)

    x [..., C] int8 or int16 (its zero point does not matter); multiplier, bias [P] int32, P divides C, p = c mod P;
    result int8 or int16. Ba et al. 2016 (arXiv 1607.06450); the mean is never rounded, the root always has 31 bits.
    """

    def infer(self, x: TensorType, multiplier: TensorType, bias: TensorType) -> TensorType:  # type: ignore[override]
        self._check_epsilon()
        return super().infer(x, multiplier, bias)

    def run(self, x: Array, multiplier: Array, bias: Array) -> Array:  # type: ignore[override]
        q, c = x.astype(np.int64), x.shape[-1]
        total = q.sum(axis=-1, keepdims=True)
        w = c * (q * q).sum(axis=-1, keepdims=True) - total * total
        return self.finish(self.normalised(c * q - total, w), multiplier, bias)

    def bounds(self, out: TensorType, x: Operand, multiplier: Operand, bias: Operand) -> Interval:  # type: ignore[override]
        c = out.shape[-1]
        largest = max(abs(x.range.lo), abs(x.range.hi))
        self._prove_statistics(c, c * (x.range.hi - x.range.lo), c * c * largest * largest)
        return self.prove(_reach(c), multiplier, bias)


class RmsNorm(_Norm, frozen=True, tag="rms_norm"):
    """``x / sqrt(mean(x^2))`` over the last axis with exact statistics, then the per-channel affine.

    y = C * (x - input_zero_point);  w = C * sum((x - input_zero_point)^2), epsilon in its units: C^2 eps / scale^2
    z and out as in layer_norm.

    x [..., C] int8 or int16; multiplier, bias [P] int32, P divides C; result int8 or int16.
    Zhang and Sennrich 2019 (arXiv 1910.07467). The L2 norm is this with multipliers smaller by sqrt(C).
    """

    input_zero_point: int = 0

    def infer(self, x: TensorType, multiplier: TensorType, bias: TensorType) -> TensorType:  # type: ignore[override]
        self._check_epsilon()
        zp = self.input_zero_point
        check(x.dtype.qmin <= zp <= x.dtype.qmax, f"rms_norm: zero point {zp} outside {x.dtype.value}")
        return super().infer(x, multiplier, bias)

    def run(self, x: Array, multiplier: Array, bias: Array) -> Array:  # type: ignore[override]
        q, c = x.astype(np.int64) - self.input_zero_point, x.shape[-1]
        w = c * (q * q).sum(axis=-1, keepdims=True)
        return self.finish(self.normalised(c * q, w), multiplier, bias)

    def bounds(self, out: TensorType, x: Operand, multiplier: Operand, bias: Operand) -> Interval:  # type: ignore[override]
        c, zp = out.shape[-1], self.input_zero_point
        largest = max(abs(x.range.lo - zp), abs(x.range.hi - zp))
        self._prove_statistics(c, c * largest, c * c * largest * largest)
        return self.prove(_reach(c), multiplier, bias)
