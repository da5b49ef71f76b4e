"""rescale: the one requantization of the integer graph."""

import enum

import numpy as np

from bitship.graph.base import Array, Interval, Ints, Op, Operand, TensorType, check, check_dtype
from bitship.graph.dtypes import DType

_DTYPES = (DType.INT8, DType.UINT8, DType.INT16, DType.INT32)


class Rounding(enum.Enum):
    """How ``value * multiplier * 2^(shift - 31)`` becomes an integer.

    SINGLE  one rounding, half up, of the 64-bit product (TOSA SINGLE_ROUND, TFLITE_SINGLE_ROUNDING).
    DOUBLE  gemmlowp's pair, which TFLite's reference kernels, TFLM and CMSIS-NN use by default:
            half up at 2^31 (SaturatingRoundingDoublingHighMul), then half away from zero at 2^-shift
            (RoundingDivideByPOT).
    """

    SINGLE = "single"
    DOUBLE = "double"


class Rescale(Op, frozen=True, tag="rescale"):
    """Requantize: ``y = clamp(round((x - input_zero_point) * factor) + output_zero_point)``.

    The factor is ``2^pre_shift * multiplier * 2^(shift - 31)``.

    multiplier  Q31 in [0, 2^31), one entry, or one per index of the last axis
    shift       positive left, in [-31, 30], as many entries as multiplier; multiplier * 2^(shift-31) is the factor
    pre_shift   left shift of the centred input before the multiply, 0..31 (TFLite's ADD and SUB use 20)
    qmin, qmax  the output range after the zero point is added; narrower than dtype to fold a clamp in

    Formula: TOSA 1.0 RESCALE for SINGLE; Jacob et al. 2018 (arXiv 1712.05877) section 2.2, as gemmlowp has it, for
    DOUBLE. Also used inside other ops as their epilogue, where ``input_zero_point`` is 0.
    """

    multiplier: tuple[int, ...]
    shift: tuple[int, ...]
    input_zero_point: int = 0
    output_zero_point: int = 0
    rounding: Rounding = Rounding.SINGLE
    pre_shift: int = 0
    dtype: DType = DType.INT8
    qmin: int = -128
    qmax: int = 127

    @property
    def per_channel(self) -> bool:
        """Whether there is one multiplier per index of the last axis."""
        return len(self.multiplier) > 1

    def validate(self, channels: int) -> None:
        """Check the attributes against the extent of the last axis; GraphError when they do not fit."""
        n = len(self.multiplier)
        check(n in (1, channels), f"rescale: {n} multipliers for {channels} channels; 1 or {channels} are allowed")
        check(len(self.shift) == n, f"rescale: {len(self.shift)} shifts for {n} multipliers")
        check(all(0 <= m < 1 << 31 for m in self.multiplier), "rescale: multiplier outside [0, 2^31)")
        check(all(-31 <= s <= 30 for s in self.shift), "rescale: shift outside [-31, 30]")
        check(0 <= self.pre_shift <= 31, f"rescale: pre_shift {self.pre_shift} outside [0, 31]")
        check(self.dtype in _DTYPES, f"rescale: to {self.dtype.value}, allowed: {', '.join(d.value for d in _DTYPES)}")
        check(
            self.dtype.qmin <= self.qmin <= self.qmax <= self.dtype.qmax,
            f"rescale: [qmin, qmax] = [{self.qmin}, {self.qmax}] is empty or outside {self.dtype.value}",
        )
        for zero_point in (self.input_zero_point, self.output_zero_point):
            check(-(1 << 31) <= zero_point < 1 << 31, f"rescale: zero point {zero_point} outside int32")

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, _DTYPES, "rescale: x")
        self.validate(x.shape[-1] if x.shape else 1)
        return TensorType(x.shape, self.dtype)

    def apply(self, value: Ints) -> Ints:
        """Return the rescaled int64 value of an int64 accumulator (epilogue form, same array shape)."""
        m = np.array(self.multiplier, np.int64)
        s = np.array(self.shift, np.int64)
        v = (value - self.input_zero_point) << self.pre_shift
        if self.rounding is Rounding.SINGLE:
            down = 31 - s
            y = (v * m + (np.int64(1) << (down - 1))) >> down
        else:
            left, right = np.maximum(s, 0), np.maximum(-s, 0)
            high = ((v << left) * m + (1 << 30)) >> 31
            mask = (np.int64(1) << right) - 1
            y = (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))
        return np.asarray(np.clip(y + self.output_zero_point, self.qmin, self.qmax)).reshape(np.shape(value))

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return self.apply(x.astype(np.int64)).astype(self.dtype.numpy)

    def prove(self, value: Interval, what: str) -> Interval:
        """Check that no intermediate of ``apply`` overflows for values in the interval; return the output range.

        The centred value must fit int32 (after every left shift too, for DOUBLE); the product then fits int64.
        """
        left = self.pre_shift + (max((*self.shift, 0)) if self.rounding is Rounding.DOUBLE else 0)
        centred = Interval(value.lo - self.input_zero_point, value.hi - self.input_zero_point)
        Interval(centred.lo << left, centred.hi << left).require(DType.INT32, f"{what}: centred and shifted value")
        return Interval(self.qmin, self.qmax)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        return self.prove(x.range, "rescale")


def finish(acc: Ints, requant: Rescale | None) -> Array:
    """Return the int32 accumulator as it is, or requantized when the op carries an epilogue."""
    if requant is None:
        return acc.astype(np.int32)
    return requant.apply(acc).astype(requant.dtype.numpy)


def finished_type(shape: tuple[int, ...], requant: Rescale | None) -> TensorType:
    """Return the output type of an accumulating op with or without an epilogue."""
    if requant is None:
        return TensorType(shape, DType.INT32)
    requant.validate(shape[-1] if shape else 1)
    check(requant.input_zero_point == 0, "rescale: an epilogue has input_zero_point 0")
    return TensorType(shape, requant.dtype)


def finished_bounds(acc: Interval, requant: Rescale | None, what: str) -> Interval:
    """Prove the accumulator and its epilogue; return the output range."""
    acc.require(DType.INT32, f"{what}: accumulator")
    return acc if requant is None else requant.prove(acc, what)
