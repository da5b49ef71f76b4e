"""table_softmax and softmax_matmul: softmax by a 256-entry exponential table, normalised late."""

import numpy as np

from bitship.errors import OverflowProofError
from bitship.graph.base import (
    Array,
    Interval,
    Ints,
    Op,
    Operand,
    TensorType,
    check,
    check_dtype,
    check_rank,
    exact_matmul,
)
from bitship.graph.dtypes import DType
from bitship.graph.ops.norm import bit_length
from bitship.graph.ops.rescale import Rescale, Rounding, finished_type

_MASKED = -128


def codes(x: Array, table: Array, masked: bool) -> Ints:
    """Return ``table[max(x) - x]`` over the last axis; a masked element (code -128) counts nothing."""
    e = table.astype(np.int64)[x.max(axis=-1, keepdims=True).astype(np.int64) - x]
    return np.where(x == _MASKED, 0, e) if masked else e


def row_reciprocal(total: Ints) -> tuple[Ints, Ints]:
    """Return (R, b) of sums S in [1, 2^31): b = bit_length(S) - 1, R = floor(2^(b + 30) / S) in (2^29, 2^30]."""
    b = bit_length(total) - 1
    return (np.int64(1) << (b + 30)) // total, b


def _check_table(name: str, table: Operand, least: int) -> None:
    check(table.value is not None, f"{name}: exp_table is computed, a constant is needed")
    assert table.value is not None
    check(
        int(table.value.min()) >= 0 and int(table.value[0]) >= least,
        f"{name}: exp_table must not be negative, and its first entry at least {least}",
    )


class TableSoftmax(Op, frozen=True, tag="table_softmax"):
    """Softmax over the last axis to 16 bits: ``y = 2^15 * e / sum(e)`` with ``e = exp_table[max(x) - x]``.

    S = max(sum(e), 1);  b = bit_length(S) - 1;  R = floor(2^(b + 30) / S)
    y = min((e * R + 2^(b + 14)) >> (b + 15), 32767)

    x [..., C] int8, C <= 65535; exp_table [256] int16 constant: round(32767 * exp(-scale * d)); y int16, scale 2^-15,
    zero point 0. masked: an element of code -128 takes no part (a row of nothing else gives 0).
    """

    operands = ("x", "exp_table")

    masked: bool = False

    def infer(self, x: TensorType, exp_table: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, (DType.INT8,), "table_softmax: x")
        needed = TensorType((256,), DType.INT16)
        check(exp_table == needed, f"table_softmax: exp_table is {exp_table}, {needed} is needed")
        check(len(x.shape) >= 1 and 1 <= x.shape[-1] <= 65535, f"table_softmax: the last axis of {x} is not 1..65535")
        return TensorType(x.shape, DType.INT16)

    def run(self, x: Array, exp_table: Array) -> Array:  # type: ignore[override]
        e = codes(x, exp_table, self.masked)
        inverse, b = row_reciprocal(np.maximum(e.sum(axis=-1, keepdims=True), 1))
        y = (e * inverse + (np.int64(1) << (b + 14))) >> (b + 15)
        return np.asarray(np.minimum(y, 32767).astype(np.int16))

    def bounds(self, out: TensorType, x: Operand, exp_table: Operand) -> Interval:  # type: ignore[override]
        _check_table(self.name, exp_table, 1 << 14)
        return Interval(0, 32767)


class SoftmaxMatMul(Op, frozen=True, tag="softmax_matmul"):
    """``softmax(x) @ v`` with the normalisation in the requantization: no probability is ever stored.

    e[m, n] = exp_table[max_n(x[m]) - x[m, n]];  S[m] = max(sum_n e[m, n], 1)
    acc[m, k] = sum_n e[m, n] * (v[n, k] - v_zero_point)
    b = bit_length(S) - 1;  R = floor(2^(b + 30) / S);  M[m, k] = (R * multiplier[k] + 2^29) >> 30
    y = clamp(((acc * M + 2^(d - 1)) >> d) + output_zero_point) with d = 31 - shift[k] + b

    x [B, M, N] int8; v [B, N, K] int8; exp_table [256] uint8 constant: round(255 * exp(-scale * d)); result [B, M, K]
    of requant's dtype. requant rounds once, has one multiplier or one per k, and no pre_shift or input zero point.
    masked: an element of code -128 takes no part (a row of nothing else gives the zero point).
    """

    operands = ("x", "v", "exp_table")

    requant: Rescale
    v_zero_point: int = 0
    masked: bool = False

    def infer(self, x: TensorType, v: TensorType, exp_table: TensorType) -> TensorType:  # type: ignore[override]
        for what, t in (("x", x), ("v", v)):
            check_rank(t, 3, f"softmax_matmul: {what}")
            check_dtype(t, (DType.INT8,), f"softmax_matmul: {what}")
        check(x.shape[0] == v.shape[0] and x.shape[2] == v.shape[1], f"softmax_matmul: {x} and {v} do not fit")
        needed = TensorType((256,), DType.UINT8)
        check(exp_table == needed, f"softmax_matmul: exp_table is {exp_table}, {needed} is needed")
        check(-128 <= self.v_zero_point <= 127, f"softmax_matmul: zero point {self.v_zero_point} outside int8")
        r = self.requant
        check(r.rounding is Rounding.SINGLE and r.pre_shift == 0, "softmax_matmul: requant rounds once, pre_shift 0")
        check_dtype(TensorType((), r.dtype), (DType.INT8, DType.INT16), "softmax_matmul: the result")
        zero_point = r.output_zero_point
        check(
            r.dtype.qmin <= zero_point <= r.dtype.qmax,
            f"softmax_matmul: zero point {zero_point} outside {r.dtype.value}",
        )
        return finished_type((x.shape[0], x.shape[1], v.shape[2]), r)

    def run(self, x: Array, v: Array, exp_table: Array) -> Array:  # type: ignore[override]
        r = self.requant
        e = codes(x, exp_table, self.masked)
        acc = exact_matmul(e, v.astype(np.int64) - self.v_zero_point)
        inverse, b = row_reciprocal(np.maximum(e.sum(axis=-1, keepdims=True), 1))
        m = (inverse * np.array(r.multiplier, np.int64) + (1 << 29)) >> 30
        down = 31 - np.array(r.shift, np.int64) + b
        y = (acc * m + (np.int64(1) << (down - 1))) >> down
        return np.asarray(np.clip(y + r.output_zero_point, r.qmin, r.qmax).astype(r.dtype.numpy))

    def bounds(self, out: TensorType, x: Operand, v: Operand, exp_table: Operand) -> Interval:  # type: ignore[override]
        _check_table(self.name, exp_table, 128)
        assert exp_table.value is not None
        depth, largest = x.type.shape[2], int(exp_table.value.max())
        centred = max(abs(v.range.lo - self.v_zero_point), abs(v.range.hi - self.v_zero_point))
        reach = depth * largest * max(centred, 1)
        Interval(-reach, reach).require(DType.INT32, "softmax_matmul: accumulator")
        lowest = 0 if self.masked else int(exp_table.value[0]).bit_length() - 1
        down = (
            31 - max(self.requant.shift) + lowest,
            31 - min(self.requant.shift) + (depth * largest).bit_length() - 1,
        )
        if down[0] < 1 or down[1] > 62:
            raise OverflowProofError(f"softmax_matmul: a right shift can be {down}; [1, 62] is allowed")
        return Interval(self.requant.qmin, self.requant.qmax)

    def macs(self, out: TensorType, x: TensorType, v: TensorType, exp_table: TensorType) -> int:  # type: ignore[override]
        return out.size * x.shape[2]
