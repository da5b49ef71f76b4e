"""The primitives in TFLite's integer kernels, as LiteRT's reference kernels compute them.

int64 is multiplied, added, compared and summed there, but neither shifted nor divided: a shift is the high word of a
product (BITCAST to two int32), and the rest of it an int32 shift.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bitship.converters.primitives import Machine, Value
from bitship.converters.primitives.arithmetic import I32, I64, plus
from bitship.converters.primitives.machine import Ints
from bitship.converters.tflite.file import FileBuilder
from bitship.errors import UnsupportedError
from bitship.graph.base import Array
from bitship.graph.dtypes import DType

PENDING = -1
_PADDED = 5  # PADV2 takes this rank at most
_EVEN = 4  # RIGHT_SHIFT and the comparisons broadcast up to this rank


class TfliteMachine(Machine):
    """Writes operators into a file under construction; a Value's ref is its tensor's number."""

    def __init__(self, file: FileBuilder) -> None:
        super().__init__()
        self.file = file

    def new_constant(self, array: Array) -> Value:
        """Add a constant tensor."""
        ref = self.file.constant(array)
        return Value(ref, array.shape, DType.of(array), array)

    def number_of(self, x: Value) -> int:
        """Return a tensor's number; a constant that no operator has read yet joins the file here."""
        return int(self.constant(x.array).ref if x.array is not None and x.ref == PENDING else x.ref)

    def op(
        self,
        name: str,
        inputs: Sequence[Value],
        shape: Sequence[int],
        dtype: DType,
        options: str | None = None,
        version: int = 1,
        **fields: Any,
    ) -> Value:
        """Append an operator with one result that has no scale."""
        shape = tuple(int(n) for n in shape)
        ref = self.file.tensor(shape, dtype)
        self.file.operator(name, [self.number_of(x) for x in inputs], [ref], options, version, **fields)
        return Value(ref, shape, dtype)

    def _axes(self, axes: Sequence[int]) -> Value:
        return self.constant(np.array(axes, np.int32))

    def cast(self, x: Value, dtype: DType) -> Value:
        """CAST."""
        if x.dtype is dtype:
            return x
        if x.array is not None:
            return self.constant(x.array.astype(dtype.numpy))
        return self.op("CAST", [x], x.shape, dtype, "CastOptions")

    def _binary(self, name: str, options: str, a: Value, b: Value, dtype: DType | None = None) -> Value:
        assert a.dtype is b.dtype, (name, a, b)
        return self.op(name, [a, b], np.broadcast_shapes(a.shape, b.shape), dtype or a.dtype, options)

    def add(self, a: Value, b: Value) -> Value:
        """ADD."""
        return self._binary("ADD", "AddOptions", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        """SUB."""
        return self._binary("SUB", "SubOptions", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        """MUL."""
        return self._binary("MUL", "MulOptions", a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        """MAXIMUM."""
        return self._binary("MAXIMUM", "MaximumMinimumOptions", a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        """MINIMUM."""
        return self._binary("MINIMUM", "MaximumMinimumOptions", a, b)

    def at_least(self, a: Value, b: Value) -> Value:
        """GREATER_EQUAL and CAST."""
        dtype = a.dtype
        return self.cast(self._binary("GREATER_EQUAL", "GreaterEqualOptions", a, b, DType.BOOL), dtype)

    def _high(self, x: Value) -> Value:
        """Return the high words of int64."""
        return self._word(x, 1)

    def _word(self, x: Value, index: int) -> Value:
        """Return the low (0) or high (1) words of int64."""
        if not x.shape:
            return self.reshape(self._word(self.reshape(x, (1,)), index), ())
        words = self.op("BITCAST", [x], (*x.shape, 2), I32, "BitcastOptions")
        flat = self.reshape(words, (math.prod(x.shape), 2))
        return self.reshape(self.slice(flat, (0, index), (flat.shape[0], 1), (1, 1)), x.shape)

    def affine64(self, x: Value, factor: Ints, addend: Ints, down: Ints) -> Value:
        """Shift the words: the high one, and below 32 the low one, whose sign is a bit like any other."""
        factor, addend, down = (np.asarray(v, np.int64) for v in (factor, addend, down))
        wide = self.cast(x, I64)
        if np.any(factor != 1):
            wide = self.mul(wide, self.number(factor, I64))
        wide = plus(self, wide, addend)
        above, below = down >= 32, np.minimum(down, 31)
        scale = np.where(above, 1, np.int64(1) << (32 - below))
        high = self.cast(self.shift32(self._high(wide), np.maximum(down - 32, 0)), I64)
        high = self.mul(high, self.number(scale, I64))
        if above.all():
            return high
        low = self._word(wide, 0)
        logical = self.sub(
            self.cast(self.shift32(low, below), I64),
            self.mul(self.cast(self.shift32(low, 31), I64), self.number(np.int64(1) << (32 - below), I64)),
        )
        return self.add(high, self.mul(logical, self.number((~above).astype(np.int64), I64)))

    def affine(self, x: Value, factor: Ints, addend: Ints, down: Ints) -> Value:
        """Scale so that the result's first bit is that of the high word; shift on where it must be less."""
        factor, addend, down = (np.asarray(v, np.int64) for v in (factor, addend, down))
        up = np.maximum(32 - down, 0)
        wide = self.cast(x, I64)
        scaled = factor << up
        if np.any(scaled != 1):
            wide = self.mul(wide, self.number(scaled, I64))
        return self.shift32(self._high(plus(self, wide, addend << up)), np.maximum(down - 32, 0))

    def shift_rows(self, x: Value, down: Value, least: int) -> Value:
        """Do as ``affine`` does, with powers of two looked up."""
        zero = self.number(0, I32)
        if least < 32:
            up = self.maximum(self.sub(self.number(32, I32), down), zero)
            x = self.mul(x, self.look_up(np.array([1 << i for i in range(33)], np.int64), up))
        amount = self.maximum(plus(self, down, -32), zero)
        return self._shift(self._high(x), amount)

    def _shift(self, x: Value, amount: Value) -> Value:
        shape = np.broadcast_shapes(x.shape, amount.shape)
        if len(shape) > _EVEN:
            if amount.rank > 1 and amount.shape != x.shape:
                last = amount.shape[-1]
                flat = self.reshape(amount, (math.prod(amount.shape) // last, last))
            else:
                flat = amount if amount.rank <= 1 else self.reshape(amount, (math.prod(amount.shape[:-1]), x.shape[-1]))
            rows = self.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
            return self.reshape(self._shift(rows, flat), shape)
        return self.op("RIGHT_SHIFT", [x, amount], shape, I32, "RightShiftOptions")

    def shift32(self, x: Value, amount: Ints) -> Value:
        """RIGHT_SHIFT."""
        return x if not np.any(amount) else self._shift(x, self.number(amount, I32))

    def quotient(self, a: Value, b: Value) -> Value:
        """FLOOR_DIV."""
        return self._binary("FLOOR_DIV", "FloorDivOptions", a, b)

    def ratio(self, a: Value, b: Value, most: int) -> Value:
        """FLOOR_DIV where int32 holds the numerator; else bit by bit."""
        if most < 1 << 31:
            return self.cast(self.quotient(self.cast(a, I32), self.cast(b, I32)), I64)
        q: Value | None = None
        for bit in range(31, -1, -1):
            step = self.mul(b, self.number(1 << bit, I64))
            taken = self.at_least(a, step)
            a = self.sub(a, self.mul(taken, step))
            part = self.mul(taken, self.number(1 << bit, I64))
            q = part if q is None else self.add(q, part)
        assert q is not None
        return q

    def look_up(self, table: Array, index: Value) -> Value:
        """GATHER."""
        entries = self.constant(table)
        return self.op("GATHER", [entries, index], index.shape, entries.dtype, "GatherOptions", axis=0)

    def _reduce(self, name: str, x: Value, axes: Sequence[int]) -> Value:
        shape = [1 if i in axes else n for i, n in enumerate(x.shape)]
        return self.op(name, [x, self._axes(axes)], shape, x.dtype, "ReducerOptions", keepDims=True)

    def total(self, x: Value, axes: Sequence[int]) -> Value:
        """SUM."""
        return self._reduce("SUM", x, axes)

    def largest(self, x: Value, axes: Sequence[int]) -> Value:
        """REDUCE_MAX."""
        return self._reduce("REDUCE_MAX", x, axes)

    def smallest(self, x: Value, axes: Sequence[int]) -> Value:
        """REDUCE_MIN."""
        return self._reduce("REDUCE_MIN", x, axes)

    def argmax(self, x: Value, axis: int) -> Value:
        """ARG_MAX."""
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        return self.op("ARG_MAX", [x, self._axes([axis])], shape, I32, "ArgMaxOptions", outputType=2)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """RESHAPE."""
        shape = tuple(int(n) for n in shape)
        if shape == x.shape:
            return x
        if x.array is not None:
            return self.constant(x.array.reshape(shape))
        return self.op("RESHAPE", [x, self._axes(shape)], shape, x.dtype, "ReshapeOptions", newShape=list(shape))

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """TRANSPOSE."""
        if list(perm) == sorted(perm):
            return x
        shape = [x.shape[a] for a in perm]
        return self.op("TRANSPOSE", [x, self._axes(perm)], shape, x.dtype, "TransposeOptions")

    def concat(self, xs: Sequence[Value], axis: int) -> Value:
        """CONCATENATION."""
        if len(xs) == 1:
            return xs[0]
        shape = list(xs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in xs)
        return self.op("CONCATENATION", xs, shape, xs[0].dtype, "ConcatenationOptions", axis=axis)

    def pad(self, x: Value, padding: Sequence[tuple[int, int]], value: int) -> Value:
        """PADV2."""
        if not any(map(any, padding)):
            return x
        if x.rank > _PADDED:
            return self._surrounded(x, padding, value)
        shape = [n + before + after for n, (before, after) in zip(x.shape, padding, strict=True)]
        amounts = self.constant(np.array(padding, np.int32))
        return self.op("PADV2", [x, amounts, self.number(value, x.dtype)], shape, x.dtype, "PadV2Options", 2)

    def _surrounded(self, x: Value, padding: Sequence[tuple[int, int]], value: int) -> Value:
        """Pad by CONCATENATION, axis by axis."""
        for axis, amounts in enumerate(padding):
            ends = [
                self.constant(np.full((*x.shape[:axis], n, *x.shape[axis + 1 :]), value, x.dtype.numpy))
                for n in amounts
            ]
            x = self.concat([v for v in (ends[0], x, ends[1]) if v.shape[axis]], axis)
        return x

    def slice(self, x: Value, start: Sequence[int], size: Sequence[int], step: Sequence[int]) -> Value:
        """STRIDED_SLICE."""
        if tuple(size) == x.shape:
            return x
        end = [b + (n - 1) * s + 1 for b, n, s in zip(start, size, step, strict=True)]
        operands = [x, *(self.constant(np.array(v, np.int32)) for v in (start, end, step))]
        return self.op("STRIDED_SLICE", operands, size, x.dtype, "StridedSliceOptions")

    def take(self, x: Value, indices: Value, axis: int) -> Value:
        """GATHER."""
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        return self.op("GATHER", [x, indices], shape, x.dtype, "GatherOptions", axis=axis)

    def product(self, a: Value, b: Value) -> Value:
        """BATCH_MATMUL with an int32 result, which takes no zero points."""
        batch = max(a.shape[0], b.shape[0])
        if a.shape[-1] == 0:
            raise UnsupportedError("a product over nothing")
        return self.op("BATCH_MATMUL", [a, b], (batch, a.shape[1], b.shape[2]), I32, "BatchMatMulOptions", 2)

    def _windows(
        self, x: Value, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]
    ) -> list[Value]:
        """Return what every tap reads, [N, OH, OW, C]."""
        rows, columns = ((x.shape[i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1))
        return [
            self.slice(
                x,
                (0, i * dilation[0], j * dilation[1], 0),
                (x.shape[0], rows, columns, x.shape[3]),
                (1, *stride, 1),
            )
            for i in range(kernel[0])
            for j in range(kernel[1])
        ]

    def convolve(
        self, x: Value, weights: Array, stride: tuple[int, int], dilation: tuple[int, int], groups: int
    ) -> Value:
        """One product per group, of the windows as rows."""
        out, height, width, deep = weights.shape
        taps = self._windows(x, (height, width), stride, dilation)
        n, rows, columns = taps[0].shape[:3]
        results = []
        for g in range(groups):
            cut = [self.slice(t, (0, 0, 0, g * deep), (n, rows, columns, deep), (1, 1, 1, 1)) for t in taps]
            flat = self.reshape(self.concat(cut, 3), (1, n * rows * columns, height * width * deep))
            part = weights[g * out // groups : (g + 1) * out // groups].reshape(out // groups, -1)
            results.append(self.product(flat, self.constant(np.ascontiguousarray(part.T[None]))))
        return self.reshape(self.concat(results, 2), (n, rows, columns, out))

    def depthwise(self, x: Value, weights: Array, stride: tuple[int, int], dilation: tuple[int, int]) -> Value:
        """Sum of the taps' products."""
        height, width, channels, times = weights.shape
        if times > 1:
            x = self.take(x, self.constant(np.repeat(np.arange(channels, dtype=np.int32), times)), 3)
        wide = self.cast(x, I32)
        acc: Value | None = None
        for tap, w in zip(
            self._windows(wide, (height, width), stride, dilation), weights.reshape(-1, channels * times), strict=True
        ):
            term = tap if (w == 1).all() else self.mul(tap, self.number(w, I32))
            acc = term if acc is None else self.add(acc, term)
        assert acc is not None
        return acc

    def max_pool(self, x: Value, kernel: tuple[int, int], stride: tuple[int, int]) -> Value:
        """MAXIMUM of the taps: MAX_POOL_2D wants scales."""
        taps = self._windows(x, kernel, stride, (1, 1))
        result = taps[0]
        for tap in taps[1:]:
            result = self.maximum(result, tap)
        return result
