"""add, sub, mul, clamp, table, cast and the shifts: one output element from one element of each operand."""

import enum

import numpy as np

from bitship.graph.base import Array, Interval, Op, Operand, TensorType, broadcast, check, check_dtype
from bitship.graph.dtypes import DType
from bitship.graph.ops.rescale import Rescale, finish, finished_bounds, finished_type

_NUMBERS = (DType.INT8, DType.INT16, DType.INT32)


class Sum(Op, frozen=True):
    """What add and sub share: optional rescale of each operand to int32, the sum, an optional epilogue.

    a, b  equal rank, broadcasting as in NumPy; int8, int16 or int32; without a rescale the raw value is taken
    TFLite's quantized ADD is: each operand with pre_shift 20, DOUBLE; the epilogue likewise.
    """

    operands = ("a", "b")

    a: Rescale | None = None
    b: Rescale | None = None
    requant: Rescale | None = None

    def infer(self, a: TensorType, b: TensorType) -> TensorType:  # type: ignore[override]
        for what, t, r in (("a", a, self.a), ("b", b, self.b)):
            check_dtype(t, _NUMBERS, f"{self.name}: {what}")
            if r is not None:
                check(r.dtype is DType.INT32, f"{self.name}: rescale of {what} must give int32")
                check(not r.per_channel, f"{self.name}: rescale of {what} must have one multiplier")
                r.infer(t)
        return finished_type(broadcast(a, b), self.requant)

    def _terms(self, a: Array, b: Array) -> tuple[Array, Array]:
        a64, b64 = a.astype(np.int64), b.astype(np.int64)
        return (self.a.apply(a64) if self.a else a64, self.b.apply(b64) if self.b else b64)

    def _term_ranges(self, a: Operand, b: Operand) -> tuple[Interval, Interval]:
        return _term_range(self.a, a, f"{self.name}: a"), _term_range(self.b, b, f"{self.name}: b")


def _term_range(r: Rescale | None, x: Operand, what: str) -> Interval:
    if r is None:
        return x.range
    r.prove(x.range, what)
    ends = r.apply(np.array([x.range.lo, x.range.hi], np.int64))  # apply is monotonic: multipliers are not negative
    return Interval(int(ends[0]), int(ends[1]))


class Add(Sum, frozen=True, tag="add"):
    """``y = rescale_a(a) + rescale_b(b)``, then the epilogue. TOSA 1.0 ADD on int32."""

    def run(self, a: Array, b: Array) -> Array:  # type: ignore[override]
        ta, tb = self._terms(a, b)
        return finish(ta + tb, self.requant)

    def bounds(self, out: TensorType, a: Operand, b: Operand) -> Interval:  # type: ignore[override]
        p, q = self._term_ranges(a, b)
        return finished_bounds(Interval(p.lo + q.lo, p.hi + q.hi), self.requant, "add")


class Sub(Sum, frozen=True, tag="sub"):
    """``y = rescale_a(a) - rescale_b(b)``, then the epilogue. TOSA 1.0 SUB on int32."""

    def run(self, a: Array, b: Array) -> Array:  # type: ignore[override]
        ta, tb = self._terms(a, b)
        return finish(ta - tb, self.requant)

    def bounds(self, out: TensorType, a: Operand, b: Operand) -> Interval:  # type: ignore[override]
        p, q = self._term_ranges(a, b)
        return finished_bounds(Interval(p.lo - q.hi, p.hi - q.lo), self.requant, "sub")


class Mul(Op, frozen=True, tag="mul"):
    """``y = (a - a_zero_point) * (b - b_zero_point)``, then the epilogue. Broadcasting as in NumPy, equal rank."""

    operands = ("a", "b")

    a_zero_point: int = 0
    b_zero_point: int = 0
    requant: Rescale | None = None

    def infer(self, a: TensorType, b: TensorType) -> TensorType:  # type: ignore[override]
        for what, t in (("a", a), ("b", b)):
            check_dtype(t, _NUMBERS, f"mul: {what}")
        return finished_type(broadcast(a, b), self.requant)

    def run(self, a: Array, b: Array) -> Array:  # type: ignore[override]
        return finish((a.astype(np.int64) - self.a_zero_point) * (b.astype(np.int64) - self.b_zero_point), self.requant)

    def bounds(self, out: TensorType, a: Operand, b: Operand) -> Interval:  # type: ignore[override]
        for what, x, zp in (("a", a.range, self.a_zero_point), ("b", b.range, self.b_zero_point)):
            Interval(x.lo - zp, x.hi - zp).require(DType.INT32, f"mul: centred {what}")
        corners = [
            (p - self.a_zero_point) * (q - self.b_zero_point)
            for p in (a.range.lo, a.range.hi)
            for q in (b.range.lo, b.range.hi)
        ]
        return finished_bounds(Interval(min(corners), max(corners)), self.requant, "mul")


class Clamp(Op, frozen=True, tag="clamp"):
    """``y = min(max(x, qmin), qmax)``, dtype kept. TOSA 1.0 CLAMP."""

    qmin: int
    qmax: int

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check(x.dtype is not DType.BOOL, "clamp: x is bool")
        check(
            x.dtype.qmin <= self.qmin <= self.qmax <= x.dtype.qmax,
            f"clamp: [{self.qmin}, {self.qmax}] is empty or outside {x.dtype.value}",
        )
        return x

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return np.clip(x, self.qmin, self.qmax).astype(x.dtype)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        return Interval(min(max(x.range.lo, self.qmin), self.qmax), max(min(x.range.hi, self.qmax), self.qmin))


class Table(Op, frozen=True, tag="table"):
    """A function of one variable by a constant table. TOSA 1.0 TABLE.

    int8 x, table [256] int8 or int16: ``y = table[x + 128]``
    int16 x, table [513] int16: with i = (x + 32768) >> 7 and f = x & 127,
    ``y = (table[i] * 128 + (table[i + 1] - table[i]) * f + 64) >> 7`` (TOSA's value, its 7 fraction bits rounded off)
    """

    operands = ("x", "table")

    def infer(self, x: TensorType, table: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, (DType.INT8, DType.INT16), "table: x")
        wide = x.dtype is DType.INT16
        check_dtype(table, (DType.INT16,) if wide else (DType.INT8, DType.INT16), "table: table")
        entries = 513 if wide else 256
        check(table.shape == (entries,), f"table: table is {table}, {entries} entries are needed")
        return TensorType(x.shape, table.dtype)

    def run(self, x: Array, table: Array) -> Array:  # type: ignore[override]
        q = x.astype(np.int64)
        if x.dtype != np.int16:
            return np.asarray(table[q + 128])
        t, i = table.astype(np.int64), (q + 32768) >> 7
        return np.asarray(((t[i] * 128 + (t[i + 1] - t[i]) * (q & 127) + 64) >> 7).astype(np.int16))

    def bounds(self, out: TensorType, x: Operand, table: Operand) -> Interval:  # type: ignore[override]
        if table.value is None:
            return Interval.of(out.dtype)
        if x.type.dtype is DType.INT16:
            reachable = table.value[(x.range.lo + 32768) >> 7 : ((x.range.hi + 32768) >> 7) + 2]
        else:
            reachable = table.value[x.range.lo + 128 : x.range.hi + 129]
        return Interval(int(reachable.min()), int(reachable.max()))


class Cast(Op, frozen=True, tag="cast"):
    """Convert to another dtype; narrowing keeps the low bits, to bool it is ``x != 0``. TOSA 1.0 CAST."""

    dtype: DType

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        return TensorType(x.shape, self.dtype)

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return x.astype(self.dtype.numpy)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        if self.dtype is not DType.BOOL and self.dtype.qmin <= x.range.lo and x.range.hi <= self.dtype.qmax:
            return x.range
        return Interval.of(self.dtype)


class ShiftRounding(enum.Enum):
    """How a right shift drops its low bits: DOWN floors, HALF_UP adds half first (TOSA's ``round = true``)."""

    DOWN = "down"
    HALF_UP = "half_up"


class LogicalLeftShift(Op, frozen=True, tag="logical_left_shift"):
    """``y = x << amount`` for int32 x and one amount 0..31; refused when a bit could be lost. TOSA 1.0."""

    amount: int

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, (DType.INT32,), "logical_left_shift: x")
        check(0 <= self.amount <= 31, f"logical_left_shift: amount {self.amount} outside [0, 31]")
        return x

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return (x.astype(np.int64) << self.amount).astype(x.dtype)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        shifted = Interval(x.range.lo << self.amount, x.range.hi << self.amount)
        return shifted.require(out.dtype, "logical_left_shift: result")


class ArithmeticRightShift(Op, frozen=True, tag="arithmetic_right_shift"):
    """``y = x >> amount`` with sign, int8, int16 or int32; amount 0..31. TOSA 1.0 ARITHMETIC_RIGHT_SHIFT."""

    amount: int
    rounding: ShiftRounding = ShiftRounding.DOWN

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, _NUMBERS, "arithmetic_right_shift: x")
        check(0 <= self.amount <= 31, f"arithmetic_right_shift: amount {self.amount} outside [0, 31]")
        return x

    def _shift(self, x: Array) -> Array:
        half = (1 << self.amount) >> 1 if self.rounding is ShiftRounding.HALF_UP else 0
        return (x.astype(np.int64) + half) >> self.amount

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return self._shift(x).astype(x.dtype)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        ends = self._shift(np.array([x.range.lo, x.range.hi], np.int64))
        return Interval(int(ends[0]), int(ends[1]))
