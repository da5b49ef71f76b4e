"""reduce_sum, reduce_max, reduce_min, reduce_any and argmax."""

import numpy as np

from bitship.graph.base import Array, Interval, Op, Operand, TensorType, check, check_dtype
from bitship.graph.dtypes import DType
from bitship.graph.ops.rescale import Rescale, finish, finished_bounds, finished_type

_NUMBERS = (DType.INT8, DType.INT16, DType.INT32)


def _kept(shape: tuple[int, ...], axes: tuple[int, ...], name: str) -> tuple[int, ...]:
    check(len(axes) > 0, f"{name}: no axes")
    check(
        all(0 <= a < len(shape) for a in axes) and list(axes) == sorted(set(axes)),
        f"{name}: axes {axes} must be distinct, ascending and inside rank {len(shape)}",
    )
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


class ReduceSum(Op, frozen=True, tag="reduce_sum"):
    """``y = sum over axes of (x - input_zero_point)``, reduced axes kept with extent 1, then the epilogue.

    x int8, int16 or int32; output int32, or the epilogue's dtype. A mean is this with the count in the multiplier.
    """

    axes: tuple[int, ...]
    input_zero_point: int = 0
    requant: Rescale | None = None

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, _NUMBERS, "reduce_sum: x")
        return finished_type(_kept(x.shape, self.axes, "reduce_sum"), self.requant)

    def run(self, x: Array) -> Array:  # type: ignore[override]
        total = (x.astype(np.int64) - self.input_zero_point).sum(axis=self.axes, keepdims=True)
        return finish(total, self.requant)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        n = x.type.size // max(out.size, 1)
        lo, hi = n * (x.range.lo - self.input_zero_point), n * (x.range.hi - self.input_zero_point)
        return finished_bounds(Interval(min(lo, 0), max(hi, 0)), self.requant, "reduce_sum")


class ReduceExtreme(Op, frozen=True):
    """What reduce_max and reduce_min share."""

    axes: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, _NUMBERS, f"{self.name}: x")
        check(x.size > 0, f"{self.name}: x is empty")
        return TensorType(_kept(x.shape, self.axes, self.name), x.dtype)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        return x.range


class ReduceMax(ReduceExtreme, frozen=True, tag="reduce_max"):
    """Largest element over the axes, which are kept with extent 1. TOSA 1.0 REDUCE_MAX."""

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return np.asarray(x.max(axis=self.axes, keepdims=True))


class ReduceMin(ReduceExtreme, frozen=True, tag="reduce_min"):
    """Smallest element over the axes, which are kept with extent 1. TOSA 1.0 REDUCE_MIN."""

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return np.asarray(x.min(axis=self.axes, keepdims=True))


class ReduceAny(Op, frozen=True, tag="reduce_any"):
    """Whether any element over the axes is true; bool in, bool out. TOSA 1.0 REDUCE_ANY."""

    axes: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, (DType.BOOL,), "reduce_any: x")
        return TensorType(_kept(x.shape, self.axes, "reduce_any"), DType.BOOL)

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return np.asarray(x.any(axis=self.axes, keepdims=True))


class ArgMax(Op, frozen=True, tag="argmax"):
    """Index of the first largest element along one axis, which is removed; int32. TOSA 1.0 ARGMAX."""

    axis: int

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, _NUMBERS, "argmax: x")
        check(0 <= self.axis < len(x.shape), f"argmax: axis {self.axis} outside rank {len(x.shape)}")
        check(x.shape[self.axis] > 0, "argmax: the axis is empty")
        return TensorType(x.shape[: self.axis] + x.shape[self.axis + 1 :], DType.INT32)

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return np.asarray(x.argmax(axis=self.axis), np.int32)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        return Interval(0, x.type.shape[self.axis] - 1)
