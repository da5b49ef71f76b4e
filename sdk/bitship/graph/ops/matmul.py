"""fully_connected and matmul: matrix products with int32 accumulators."""

import numpy as np

from bitship.graph.base import Array, Interval, Op, Operand, TensorType, check, check_dtype, check_rank, exact_matmul
from bitship.graph.dtypes import DType
from bitship.graph.ops.conv import dot_range
from bitship.graph.ops.rescale import Rescale, finish, finished_bounds, finished_type


class FullyConnected(Op, frozen=True, tag="fully_connected"):
    """``acc[n, o] = bias[o] + sum_i (x[n, i] - input_zero_point) * (w[o, i] - weight_zero_point)``, then the epilogue.

    x [N, I] int8 or int16; weights [O, I] int8; bias [O] int32; output int32, or the epilogue's dtype.
    """

    operands = ("x", "weights", "bias")

    input_zero_point: int = 0
    weight_zero_point: int = 0
    requant: Rescale | None = None

    def infer(self, x: TensorType, w: TensorType, bias: TensorType) -> TensorType:  # type: ignore[override]
        check_rank(x, 2, "fully_connected: x")
        check_rank(w, 2, "fully_connected: weights")
        check_dtype(x, (DType.INT8, DType.INT16), "fully_connected: x")
        check_dtype(w, (DType.INT8,), "fully_connected: weights")
        o, i = w.shape
        check(x.shape[1] == i, f"fully_connected: weights {w} do not fit x {x}")
        check(bias == TensorType((o,), DType.INT32), f"fully_connected: bias is {bias}, int32[{o}] is needed")
        for zp, t in ((self.input_zero_point, x), (self.weight_zero_point, w)):
            check(t.dtype.qmin <= zp <= t.dtype.qmax, f"fully_connected: zero point {zp} outside {t.dtype.value}")
        return finished_type((x.shape[0], o), self.requant)

    def run(self, x: Array, w: Array, bias: Array) -> Array:  # type: ignore[override]
        xz = x.astype(np.int64) - self.input_zero_point
        wz = w.astype(np.int64) - self.weight_zero_point
        return finish(exact_matmul(xz, wz.T) + bias.astype(np.int64), self.requant)

    def bounds(self, out: TensorType, x: Operand, w: Operand, bias: Operand) -> Interval:  # type: ignore[override]
        centred = Interval(x.range.lo - self.input_zero_point, x.range.hi - self.input_zero_point)
        if w.value is None:
            return _dynamic_bounds(centred, w, self.weight_zero_point, w.type.shape[1], bias, self.requant)
        acc = dot_range(centred, w.value.astype(np.int64) - self.weight_zero_point, bias, (1,))
        return finished_bounds(acc, self.requant, "fully_connected")

    def macs(self, out: TensorType, x: TensorType, w: TensorType, bias: TensorType) -> int:  # type: ignore[override]
        return x.shape[0] * w.size


def _dynamic_bounds(
    a: Interval, w: Operand, zero_point: int, depth: int, bias: Operand | None, requant: Rescale | None
) -> Interval:
    corners = [p * (q - zero_point) for p in (a.lo, a.hi) for q in (w.range.lo, w.range.hi)]
    acc = Interval(depth * min(*corners, 0), depth * max(*corners, 0))
    if bias is not None:
        acc = Interval(acc.lo + min(bias.range.lo, 0), acc.hi + max(bias.range.hi, 0))
    return finished_bounds(acc, requant, "matmul")


class MatMul(Op, frozen=True, tag="matmul"):
    """Batched product ``acc[b, m, n] = sum_k (a[b, m, k] - a_zero_point) * (b[b, k, n] - b_zero_point)``.

    a [B, M, K] int8 or int16; b [B, K, N] int8; both may be computed. TOSA 1.0 MATMUL, plus the epilogue.
    """

    operands = ("a", "b")

    a_zero_point: int = 0
    b_zero_point: int = 0
    requant: Rescale | None = None

    def infer(self, a: TensorType, b: TensorType) -> TensorType:  # type: ignore[override]
        check_rank(a, 3, "matmul: a")
        check_rank(b, 3, "matmul: b")
        check_dtype(a, (DType.INT8, DType.INT16), "matmul: a")
        check_dtype(b, (DType.INT8,), "matmul: b")
        check(a.shape[0] == b.shape[0] and a.shape[2] == b.shape[1], f"matmul: {a} and {b} do not fit")
        for zp, t in ((self.a_zero_point, a), (self.b_zero_point, b)):
            check(t.dtype.qmin <= zp <= t.dtype.qmax, f"matmul: zero point {zp} outside {t.dtype.value}")
        return finished_type((a.shape[0], a.shape[1], b.shape[2]), self.requant)

    def run(self, a: Array, b: Array) -> Array:  # type: ignore[override]
        return finish(
            exact_matmul(a.astype(np.int64) - self.a_zero_point, b.astype(np.int64) - self.b_zero_point), self.requant
        )

    def bounds(self, out: TensorType, a: Operand, b: Operand) -> Interval:  # type: ignore[override]
        centred = Interval(a.range.lo - self.a_zero_point, a.range.hi - self.a_zero_point)
        return _dynamic_bounds(centred, b, self.b_zero_point, a.type.shape[2], None, self.requant)

    def macs(self, out: TensorType, a: TensorType, b: TensorType) -> int:  # type: ignore[override]
        return out.size * a.shape[2]
