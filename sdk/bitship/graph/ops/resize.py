"""resize: nearest and bilinear in integers, from index and weight tables."""

import msgspec
import numpy as np

from bitship.graph.base import Array, Interval, Op, Operand, TensorType, check, check_dtype, check_rank
from bitship.graph.dtypes import DType


class AxisMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For every output row (or column): the two input rows it mixes, and the weight of the second in 1 / 2^bits.

    ``out = (2^bits - weight) * in[lo] + weight * in[hi]``; nearest has bits = 0 and weight = 0.
    """

    lo: tuple[int, ...]
    hi: tuple[int, ...]
    weight: tuple[int, ...]

    def validate(self, extent: int, bits: int) -> None:
        """Check the tables against the input extent; GraphError when they do not fit."""
        check(len(self.lo) == len(self.hi) == len(self.weight) > 0, "resize: the tables of an axis differ in length")
        check(all(0 <= i < extent for i in self.lo + self.hi), f"resize: an index leaves [0, {extent})")
        check(all(0 <= w <= 1 << bits for w in self.weight), f"resize: a weight leaves [0, {1 << bits}]")


class Resize(Op, frozen=True, tag="resize"):
    """``y = round_half_away(sum of the four weighted neighbours / 2^(2 * bits))``.

    x [N, H, W, C] int8 or int16; rows and columns map the output grid to the input's; bits 0 (nearest) to 11.
    The tables hold what TFLite's (Q10) or TOSA's integer coordinates come to, so both are this one op.
    """

    rows: AxisMap
    columns: AxisMap
    bits: int = 0

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check_rank(x, 4, "resize: x")
        check_dtype(x, (DType.INT8, DType.INT16), "resize: x")
        check(0 <= self.bits <= 11, f"resize: bits {self.bits} outside [0, 11]")
        self.rows.validate(x.shape[1], self.bits)
        self.columns.validate(x.shape[2], self.bits)
        return TensorType((x.shape[0], len(self.rows.lo), len(self.columns.lo), x.shape[3]), x.dtype)

    def run(self, x: Array) -> Array:  # type: ignore[override]
        one, x64 = 1 << self.bits, x.astype(np.int64)
        wy = np.array(self.rows.weight, np.int64)[None, :, None, None]
        wx = np.array(self.columns.weight, np.int64)[None, None, :, None]
        tall = (one - wy) * x64[:, list(self.rows.lo)] + wy * x64[:, list(self.rows.hi)]
        acc = (one - wx) * tall[:, :, list(self.columns.lo)] + wx * tall[:, :, list(self.columns.hi)]
        half = (1 << 2 * self.bits) >> 1
        y: Array = np.sign(acc) * ((np.abs(acc) + half) >> 2 * self.bits)
        return y.astype(x.dtype)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        one = 1 << 2 * self.bits
        Interval((x.range.lo - 1) * one, (x.range.hi + 1) * one).require(DType.INT32, "resize: weighted sum")
        return x.range
