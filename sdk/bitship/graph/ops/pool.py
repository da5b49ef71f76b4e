"""avg_pool2d and max_pool2d."""

import enum
import functools
from collections.abc import Iterator

import numpy as np

from bitship.graph.base import Array, Interval, Ints, Op, Operand, TensorType, check, check_dtype
from bitship.graph.dtypes import DType
from bitship.graph.ops.conv import Padding, Pair, check_window, pad_nhwc, window

MAX_READS = 1 << 32


class DivRounding(enum.Enum):
    """How a division by a positive count rounds to the nearest integer when it is a tie.

    HALF_AWAY from zero (TFLite int8); HALF_UP towards plus infinity (TFLite uint8, seen through zero point -128).
    """

    HALF_AWAY = "half_away"
    HALF_UP = "half_up"


class PoolBase(Op, frozen=True):
    """What the two pools share: window, stride, padding, and the range of the result."""

    kernel: Pair
    stride: Pair
    padding: Padding = (0, 0, 0, 0)
    qmin: int = -128
    qmax: int = 127

    def infer(self, x: TensorType) -> TensorType:  # type: ignore[override]
        check_dtype(x, (DType.INT8, DType.INT16), f"{self.name}: x")
        oh, ow = check_window(x, self.kernel, self.stride, (1, 1), self.padding, self.name)
        check(
            max(self.padding[:2]) < self.kernel[0] and max(self.padding[2:]) < self.kernel[1],
            f"{self.name}: padding {self.padding} must be smaller than the kernel {self.kernel}",
        )
        last_row, last_col = (oh - 1) * self.stride[0] - self.padding[0], (ow - 1) * self.stride[1] - self.padding[2]
        check(last_row < x.shape[1] and last_col < x.shape[2], f"{self.name}: a window lies wholly in the padding")
        check(
            x.dtype.qmin <= self.qmin <= self.qmax <= x.dtype.qmax,
            f"{self.name}: [{self.qmin}, {self.qmax}] is empty or outside {x.dtype.value}",
        )
        out = TensorType((x.shape[0], oh, ow, x.shape[3]), x.dtype)
        reads = self.kernel[0] * self.kernel[1] * out.size
        check(
            reads <= MAX_READS,
            f"{self.name}: {self.kernel} windows for {out} read {reads} elements, {MAX_READS} at most",
        )
        return out

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        return Interval(min(max(x.range.lo, self.qmin), self.qmax), max(min(x.range.hi, self.qmax), self.qmin))

    def taps(self, x: Array, fill: int) -> Iterator[Ints]:
        """Yield [N, OH, OW, C] int64 for every tap: what every window reads there, ``fill`` in the padding."""
        out = self.infer(TensorType(x.shape, DType.of(x)))
        xp = pad_nhwc(x.astype(np.int64), self.padding, fill)
        span = (out.shape[1], out.shape[2])
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                yield window(xp, i, j, span, self.stride)

    def count(self, x: TensorType) -> Ints:
        """Return [N, OH, OW, C] int64: the elements inside x that every window reads."""
        return np.asarray(sum(self.taps(np.ones(x.shape, x.dtype.numpy), 0)))


class AvgPool2D(PoolBase, frozen=True, tag="avg_pool2d"):
    """Mean over the window's elements that lie inside x, rounded to nearest, clamped to [qmin, qmax].

    x [N, H, W, C] int8 or int16. Padding is not counted. No zero point: scale and zero point of output and input
    are the same. (TOSA 1.0 AVG_POOL2D multiplies by an approximate reciprocal instead; TFLite divides, as here.)
    """

    rounding: DivRounding = DivRounding.HALF_AWAY

    def run(self, x: Array) -> Array:  # type: ignore[override]
        total, count = np.asarray(sum(self.taps(x, 0))), self.count(TensorType(x.shape, DType.of(x)))
        if self.rounding is DivRounding.HALF_UP:
            mean = (total + count // 2) // count
        else:
            mean = np.sign(total) * ((np.abs(total) + count // 2) // count)
        return np.asarray(np.clip(mean, self.qmin, self.qmax), x.dtype)

    def bounds(self, out: TensorType, x: Operand) -> Interval:  # type: ignore[override]
        taps = self.kernel[0] * self.kernel[1]
        Interval(x.range.lo * taps - taps, x.range.hi * taps + taps).require(DType.INT32, "avg_pool2d: sum")
        return super().bounds(out, x)


class MaxPool2D(PoolBase, frozen=True, tag="max_pool2d"):
    """Largest element of the window inside x, clamped to [qmin, qmax]. TOSA 1.0 MAX_POOL2D plus the clamp."""

    def run(self, x: Array) -> Array:  # type: ignore[override]
        lowest = int(np.iinfo(x.dtype).min)
        largest = functools.reduce(np.maximum, self.taps(x, lowest))
        return np.asarray(np.clip(largest, self.qmin, self.qmax), x.dtype)
