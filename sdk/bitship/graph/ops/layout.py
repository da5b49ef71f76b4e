"""pad, concat, slice, reshape, transpose and gather: ops that move elements and change none."""

import numpy as np

from bitship.graph.base import MAX_RANK, Array, Interval, Op, Operand, TensorType, check, check_dtype
from bitship.graph.dtypes import DType


class Pad(Op, frozen=True, tag="pad"):
    """Surround x by a constant: ``padding`` has (before, after) for every axis. TOSA 1.0 PAD."""

    padding: tuple[tuple[int, int], ...]
    value: int = 0

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check(len(self.padding) == len(x.shape), f"pad: {len(self.padding)} pairs for rank {len(x.shape)}")
        check(all(0 <= p <= 1 << 20 for pair in self.padding for p in pair), f"pad: {self.padding} is out of range")
        check(x.dtype.qmin <= self.value <= x.dtype.qmax, f"pad: value {self.value} outside {x.dtype.value}")
        return TensorType(tuple(n + a + b for n, (a, b) in zip(x.shape, self.padding, strict=True)), x.dtype)

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return np.pad(x, self.padding, constant_values=self.value) if self.padding else x.copy()

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        return x.range.union(Interval(self.value, self.value))


class Concat(Op, frozen=True, tag="concat"):
    """Join operands of one dtype along an axis; the other extents are equal. TOSA 1.0 CONCAT."""

    operands = ("x*",)

    axis: int

    def infer(self, *xs: TensorType) -> TensorType:
        check(len(xs) > 0, "concat: no operands")
        first, rank = xs[0], len(xs[0].shape)
        check(0 <= self.axis < rank, f"concat: axis {self.axis} outside rank {rank}")
        for x in xs:
            same = len(x.shape) == rank and all(
                m == n or i == self.axis for i, (m, n) in enumerate(zip(x.shape, first.shape, strict=False))
            )
            check(same and x.dtype is first.dtype, f"concat: {first} and {x} do not join along axis {self.axis}")
        extent = sum(x.shape[self.axis] for x in xs)
        return TensorType((*first.shape[: self.axis], extent, *first.shape[self.axis + 1 :]), first.dtype)

    def run(self, *xs: Array) -> Array:
        return np.concatenate(xs, axis=self.axis)

    def bounds(self, out: TensorType, *xs: Operand) -> Interval:
        result = xs[0].range
        for x in xs[1:]:
            result = result.union(x.range)
        return result


class Slice(Op, frozen=True, tag="slice"):
    """``size`` elements from ``start`` on every axis, each ``stride`` apart (1 unless given). TOSA 1.0 SLICE."""

    start: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...] = ()

    def steps(self) -> tuple[int, ...]:
        """Return the stride of every axis."""
        return self.stride or (1,) * len(self.start)

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        steps = self.steps()
        check(
            len(self.start) == len(self.size) == len(steps) == len(x.shape),
            f"slice: start {self.start}, size {self.size}, stride {self.stride} do not fit rank {len(x.shape)}",
        )
        inside = all(
            b >= 0 and n >= 1 and 1 <= s <= 1 << 20 and b + (n - 1) * s < e
            for b, n, s, e in zip(self.start, self.size, steps, x.shape, strict=True)
        )
        check(inside, f"slice: start {self.start}, size {self.size}, stride {steps} leave {x}")
        return TensorType(self.size, x.dtype)

    def run(self, x: Array) -> Array:  # type: ignore[override]
        index = tuple(
            slice(b, b + (n - 1) * s + 1, s) for b, n, s in zip(self.start, self.size, self.steps(), strict=True)
        )
        return np.array(x[index], order="C")  # ascontiguousarray would make rank 1 of rank 0

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        return x.range


class Reshape(Op, frozen=True, tag="reshape"):
    """The same elements in row-major order under another shape. TOSA 1.0 RESHAPE."""

    shape: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check(
            len(self.shape) <= MAX_RANK and all(n >= 0 for n in self.shape), f"reshape: shape {self.shape} is invalid"
        )
        out = TensorType(self.shape, x.dtype)
        check(out.size == x.size, f"reshape: {x} has {x.size} elements, {self.shape} has {out.size}")
        return out

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return x.reshape(self.shape)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        return x.range


class Transpose(Op, frozen=True, tag="transpose"):
    """Axis i of the result is axis ``perm[i]`` of x. TOSA 1.0 TRANSPOSE."""

    perm: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check(
            sorted(self.perm) == list(range(len(x.shape))),
            f"transpose: {self.perm} does not permute rank {len(x.shape)}",
        )
        return TensorType(tuple(x.shape[p] for p in self.perm), x.dtype)

    def run(self, x: Array) -> Array:  # type: ignore[override]
        return np.array(x.transpose(self.perm), order="C")

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        return x.range


class Gather(Op, frozen=True, tag="gather"):
    """Elements of x along ``axis`` at the given indices; an index outside x is clamped to its ends.

    x any shape; indices int32, rank 1; the result has len(indices) in place of the axis. TOSA 1.0 GATHER has no
    clamp: it is added here so that a computed index can never read outside a tensor on a device.
    """

    operands = ("x", "indices")

    axis: int

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(indices, (DType.INT32,), "gather: indices")
        check(len(indices.shape) == 1, f"gather: indices are {indices}, rank 1 is needed")
        check(0 <= self.axis < len(x.shape), f"gather: axis {self.axis} outside rank {len(x.shape)}")
        check(x.shape[self.axis] > 0, "gather: the axis is empty")
        return TensorType(x.shape[: self.axis] + indices.shape + x.shape[self.axis + 1 :], x.dtype)

    def run(self, x: Array, indices: Array) -> Array:  # type: ignore[override]
        return np.take(x, np.clip(indices, 0, x.shape[self.axis] - 1), axis=self.axis)

    def bounds(self, out: TensorType, x: Operand, indices: Operand) -> Interval:  # type: ignore[override]
        return x.range
