"""The primitives in ONNX's integer ops, as onnxruntime's CPU provider computes them.

A shift is a division by a power of two that rounds down: Mod takes the remainder off first. The pairings of integer
products that are exact there are int8 with int8; so all products here are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bitship.converters.onnx.model import ModelBuilder
from bitship.converters.primitives import Machine, Value
from bitship.converters.primitives.arithmetic import I32, I64
from bitship.converters.primitives.machine import Ints
from bitship.graph.base import Array
from bitship.graph.dtypes import DType

_LAYOUT = (DType.INT16, DType.UINT8, DType.BOOL)


class OnnxMachine(Machine):
    """Writes nodes into a model under construction; a Value's ref is its tensor's name."""

    def __init__(self, model: ModelBuilder) -> None:
        super().__init__()
        self.model = model

    def new_constant(self, array: Array) -> Value:
        """Add an initializer."""
        return Value(self.model.initializer(array), array.shape, DType.of(array), array)

    def name_of(self, x: Value) -> str:
        """Return a tensor's name; a constant that no node has read yet joins the model here."""
        return str(self.constant(x.array).ref if x.array is not None and not x.ref else x.ref)

    def op(self, name: str, inputs: Sequence[Value], shape: Sequence[int], dtype: DType, **attributes: Any) -> Value:
        """Append a node with one result."""
        ref = self.model.node(name, [self.name_of(x) for x in inputs], **attributes)
        return Value(ref, tuple(int(n) for n in shape), dtype)

    def _ints(self, values: Sequence[int]) -> Value:
        return self.constant(np.array(values, np.int64).reshape(len(values)))

    def cast(self, x: Value, dtype: DType) -> Value:
        """Cast."""
        if x.dtype is dtype:
            return x
        if x.array is not None:
            return self.constant(x.array.astype(dtype.numpy))
        return self.op("Cast", [x], x.shape, dtype, to=self.model.type_of(dtype))

    def _binary(self, name: str, a: Value, b: Value, dtype: DType | None = None) -> Value:
        assert a.dtype is b.dtype, (name, a, b)
        return self.op(name, [a, b], np.broadcast_shapes(a.shape, b.shape), dtype or a.dtype)

    def add(self, a: Value, b: Value) -> Value:
        """Add."""
        return self._binary("Add", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        """Sub."""
        return self._binary("Sub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        """Mul."""
        return self._binary("Mul", a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        """Max; of int64, where onnxruntime compares the low words alone, a selection."""
        return self._selected(a, b) if a.dtype is I64 else self._binary("Max", a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        """Min, likewise."""
        return self._smaller(a, b) if a.dtype is I64 else self._binary("Min", a, b)

    def _selected(self, a: Value, b: Value) -> Value:
        condition = self._binary("GreaterOrEqual", a, b, DType.BOOL)
        return self.op("Where", [condition, a, b], condition.shape, a.dtype)

    def _smaller(self, a: Value, b: Value) -> Value:
        condition = self._binary("GreaterOrEqual", a, b, DType.BOOL)
        return self.op("Where", [condition, b, a], condition.shape, a.dtype)

    def at_least(self, a: Value, b: Value) -> Value:
        """GreaterOrEqual and Cast."""
        return self.cast(self._binary("GreaterOrEqual", a, b, DType.BOOL), a.dtype)

    def quotient(self, a: Value, b: Value) -> Value:
        """Div, after Mod has taken the remainder off: alone it rounds towards zero."""
        return self._binary("Div", self.sub(a, self._binary("Mod", a, b)), b)

    def affine(self, x: Value, factor: Ints, addend: Ints, down: Ints) -> Value:
        """Mul, Add and a division by powers of two, in int64."""
        return self.cast(self.affine64(x, factor, addend, down), I32)

    def affine64(self, x: Value, factor: Ints, addend: Ints, down: Ints) -> Value:
        """Do the same, and keep int64."""
        wide = self.cast(x, I64)
        if np.any(np.asarray(factor) != 1):
            wide = self.mul(wide, self.number(factor, I64))
        if np.any(addend):
            wide = self.add(wide, self.number(addend, I64))
        return self.quotient(wide, self.number(np.int64(1) << np.asarray(down, np.int64), I64))

    def shift_rows(self, x: Value, down: Value, least: int) -> Value:
        """Divide by powers of two that are looked up."""
        powers = self.look_up(np.array([1 << i for i in range(63)], np.int64), down)
        return self.cast(self.quotient(x, powers), I32)

    def shift32(self, x: Value, amount: Ints) -> Value:
        """Divide in int64: 2^31 is no int32."""
        return x if not np.any(amount) else self.affine(x, 1, 0, amount)

    def ratio(self, a: Value, b: Value, most: int) -> Value:
        """Div: nothing is negative here."""
        return self._binary("Div", a, b)

    def look_up(self, table: Array, index: Value) -> Value:
        """Gather."""
        entries = self.constant(table)
        return self.op("Gather", [entries, index], index.shape, entries.dtype, axis=0)

    def _reduce(self, name: str, x: Value, axes: Sequence[int]) -> Value:
        if not axes:
            return x
        shape = [1 if i in axes else n for i, n in enumerate(x.shape)]
        return self.op(name, [x, self._ints(axes)], shape, x.dtype, keepdims=1)

    def total(self, x: Value, axes: Sequence[int]) -> Value:
        """ReduceSum."""
        return self._reduce("ReduceSum", x, axes)

    def _extreme(self, name: str, x: Value, axes: Sequence[int]) -> Value:
        """Reduce in int32, which has a kernel for every extreme."""
        return self.cast(self._reduce(name, self.cast(x, I32), axes), x.dtype)

    def largest(self, x: Value, axes: Sequence[int]) -> Value:
        """ReduceMax."""
        return self._extreme("ReduceMax", x, axes)

    def smallest(self, x: Value, axes: Sequence[int]) -> Value:
        """ReduceMin."""
        return self._extreme("ReduceMin", x, axes)

    def argmax(self, x: Value, axis: int) -> Value:
        """ArgMax, which takes the first of equal ones."""
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        y = self.op("ArgMax", [self.cast(x, I32)], shape, I64, axis=axis, keepdims=0, select_last_index=0)
        return self.cast(y, I32)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Reshape."""
        shape = tuple(int(n) for n in shape)
        if shape == x.shape:
            return x
        if x.array is not None:
            return self.constant(x.array.reshape(shape))
        return self.op("Reshape", [x, self._ints(shape)], shape, x.dtype)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """Transpose."""
        if list(perm) == sorted(perm):
            return x
        return self.op("Transpose", [x], [x.shape[a] for a in perm], x.dtype, perm=list(perm))

    def concat(self, xs: Sequence[Value], axis: int) -> Value:
        """Concat."""
        if len(xs) == 1:
            return xs[0]
        shape = list(xs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in xs)
        return self.op("Concat", xs, shape, xs[0].dtype, axis=axis)

    def pad(self, x: Value, padding: Sequence[tuple[int, int]], value: int) -> Value:
        """Pad, in int32 where the dtype has no kernel."""
        if not any(map(any, padding)):
            return x
        if x.dtype in _LAYOUT:
            return self.cast(self.pad(self.cast(x, I32), padding, value), x.dtype)
        shape = [n + before + after for n, (before, after) in zip(x.shape, padding, strict=True)]
        amounts = self._ints([p[0] for p in padding] + [p[1] for p in padding])
        filler = self.constant(np.array(value, x.dtype.numpy))
        return self.op("Pad", [x, amounts, filler], shape, x.dtype)

    def slice(self, x: Value, start: Sequence[int], size: Sequence[int], step: Sequence[int]) -> Value:
        """Slice."""
        if tuple(size) == x.shape:
            return x
        if x.dtype in _LAYOUT:
            return self.cast(self.slice(self.cast(x, I32), start, size, step), x.dtype)
        end = [b + (n - 1) * s + 1 for b, n, s in zip(start, size, step, strict=True)]
        operands = [x, *(self._ints(v) for v in (start, end, range(x.rank), step))]
        return self.op("Slice", operands, size, x.dtype)

    def take(self, x: Value, indices: Value, axis: int) -> Value:
        """Gather."""
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        return self.op("Gather", [x, indices], shape, x.dtype, axis=axis)

    def product(self, a: Value, b: Value) -> Value:
        """MatMulInteger."""
        return self.op("MatMulInteger", [a, b], (max(a.shape[0], b.shape[0]), a.shape[1], b.shape[2]), I32)

    def _conv(self, x: Value, weights: Array, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Value:
        """ConvInteger between transposes; weights [O, C / groups, KH, KW]."""
        kernel = weights.shape[2:]
        size = [(x.shape[i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
        planes = self.transpose(x, (0, 3, 1, 2))
        acc = self.op(
            "ConvInteger",
            [planes, self.constant(np.ascontiguousarray(weights))],
            (x.shape[0], weights.shape[0], *size),
            I32,
            strides=list(stride),
            dilations=list(dilation),
            group=groups,
            kernel_shape=list(kernel),
        )
        return self.transpose(acc, (0, 2, 3, 1))

    def convolve(
        self, x: Value, weights: Array, stride: tuple[int, int], dilation: tuple[int, int], groups: int
    ) -> Value:
        """ConvInteger."""
        return self._conv(x, weights.transpose(0, 3, 1, 2), stride, dilation, groups)

    def depthwise(self, x: Value, weights: Array, stride: tuple[int, int], dilation: tuple[int, int]) -> Value:
        """ConvInteger with one group per channel."""
        height, width, channels, times = weights.shape
        planes = weights.transpose(2, 3, 0, 1).reshape(channels * times, 1, height, width)
        return self._conv(x, planes, stride, dilation, channels)

    def max_pool(self, x: Value, kernel: tuple[int, int], stride: tuple[int, int]) -> Value:
        """Max of what every tap of the window reads, in int32."""
        wide = self.cast(x, I32)
        rows, columns = ((x.shape[i + 1] - kernel[i]) // stride[i] + 1 for i in (0, 1))
        size = (x.shape[0], rows, columns, x.shape[3])
        taps = [
            self.slice(wide, (0, i, j, 0), size, (1, *stride, 1)) for i in range(kernel[0]) for j in range(kernel[1])
        ]
        result = taps[0]
        for tap in taps[1:]:
            result = self.maximum(result, tap)
        return self.cast(result, x.dtype)
