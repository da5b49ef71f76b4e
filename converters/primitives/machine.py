"""What a runtime must compute exactly for the graph to run on it."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitship.graph.base import Array
from bitship.graph.dtypes import DType

Ints = Array | int


@dataclass(frozen=True)
class Value:
    """One tensor of a program under construction.

    ref    the back end's own name or number of it
    array  its value where it is a constant
    """

    ref: int | str
    shape: tuple[int, ...]
    dtype: DType
    array: Array | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)


class Machine(abc.ABC):
    """Integer primitives. Elementwise ones broadcast as NumPy does and take two operands of one dtype.

    Nothing wraps unless a method says so: the range proof of ``verify`` covers every int32 and int64 value here.
    """

    def __init__(self) -> None:
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}

    def constant(self, array: Array) -> Value:
        """Return the tensor that holds an array; equal ones are one."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.new_constant(array)
        return self._constants[key]

    def number(self, value: Ints, dtype: DType) -> Value:
        """Return one number, or several as a tensor, of a dtype; equal ones along every axis shrink to one."""
        array = np.asarray(value, np.int64)
        if array.size and (array == array.flat[0]).all():
            array = array.reshape(-1)[:1]
        return self.constant(array.astype(dtype.numpy))

    @abc.abstractmethod
    def new_constant(self, array: Array) -> Value:
        """Add a constant."""

    @abc.abstractmethod
    def cast(self, x: Value, dtype: DType) -> Value:
        """Convert; narrowing keeps the low bits, to bool it is ``x != 0``; no op when x has the dtype."""

    @abc.abstractmethod
    def add(self, a: Value, b: Value) -> Value:
        """Sum of int32 or int64."""

    @abc.abstractmethod
    def sub(self, a: Value, b: Value) -> Value:
        """Difference of int32 or int64."""

    @abc.abstractmethod
    def mul(self, a: Value, b: Value) -> Value:
        """Product of int32 or int64."""

    @abc.abstractmethod
    def maximum(self, a: Value, b: Value) -> Value:
        """Larger of two int32 or int64."""

    @abc.abstractmethod
    def minimum(self, a: Value, b: Value) -> Value:
        """Smaller of two int32 or int64."""

    @abc.abstractmethod
    def at_least(self, a: Value, b: Value) -> Value:
        """1 where ``a >= b``, else 0, in the operands' dtype (int32 or int64)."""

    @abc.abstractmethod
    def affine(self, x: Value, factor: Ints, addend: Ints, down: Ints) -> Value:
        """``floor((x * factor + addend) / 2^down)`` as int32, where it fits; the bracket fits int64.

        x int32 or int64; factor, addend and down (1..62) are constants that broadcast against x.
        """

    @abc.abstractmethod
    def affine64(self, x: Value, factor: Ints, addend: Ints, down: Ints) -> Value:
        """Do as ``affine`` does, for results that need not fit int32; int64."""

    @abc.abstractmethod
    def shift_rows(self, x: Value, down: Value, least: int) -> Value:
        """``floor(x / 2^down)`` of int64 as int32, where it fits; down int32, computed, in [least, 62]."""

    @abc.abstractmethod
    def quotient(self, a: Value, b: Value) -> Value:
        """``floor(a / b)`` of int32; b at least 1."""

    @abc.abstractmethod
    def ratio(self, a: Value, b: Value, most: int) -> Value:
        """``floor(a / b)`` of int64, below 2^32; a in [0, most], b in [1, 2^31)."""

    @abc.abstractmethod
    def shift32(self, x: Value, amount: Ints) -> Value:
        """``floor(x / 2^amount)`` of int32; amount is constant, 0..31."""

    @abc.abstractmethod
    def look_up(self, table: Array, index: Value) -> Value:
        """``table[index]``; table of one axis, index int32 inside it."""

    @abc.abstractmethod
    def total(self, x: Value, axes: Sequence[int]) -> Value:
        """Sum of int32 or int64 over axes, which stay with extent 1."""

    @abc.abstractmethod
    def largest(self, x: Value, axes: Sequence[int]) -> Value:
        """Largest element over axes, which stay with extent 1; any integer dtype."""

    @abc.abstractmethod
    def smallest(self, x: Value, axes: Sequence[int]) -> Value:
        """Smallest element over axes, which stay with extent 1; any integer dtype."""

    @abc.abstractmethod
    def argmax(self, x: Value, axis: int) -> Value:
        """Index of the first largest element along an axis, which goes; int32 from int8 or int32."""

    @abc.abstractmethod
    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Same elements, other shape."""

    @abc.abstractmethod
    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """Permute the axes."""

    @abc.abstractmethod
    def concat(self, xs: Sequence[Value], axis: int) -> Value:
        """Join along an axis."""

    @abc.abstractmethod
    def pad(self, x: Value, padding: Sequence[tuple[int, int]], value: int) -> Value:
        """Surround by a constant."""

    @abc.abstractmethod
    def slice(self, x: Value, start: Sequence[int], size: Sequence[int], step: Sequence[int]) -> Value:
        """Cut a box out."""

    @abc.abstractmethod
    def take(self, x: Value, indices: Value, axis: int) -> Value:
        """Elements at int32 indices [n] along an axis; the indices are inside."""

    @abc.abstractmethod
    def product(self, a: Value, b: Value) -> Value:
        """``a @ b`` of int8 [B, M, K] and int8 [B or 1, K, N] in int32."""

    @abc.abstractmethod
    def convolve(
        self, x: Value, weights: Array, stride: tuple[int, int], dilation: tuple[int, int], groups: int
    ) -> Value:
        """Convolution of int8 NHWC, padded already, with constant int8 [O, KH, KW, C / groups], in int32 NHWC."""

    @abc.abstractmethod
    def depthwise(self, x: Value, weights: Array, stride: tuple[int, int], dilation: tuple[int, int]) -> Value:
        """Depthwise convolution of int8 NHWC, padded already, with constant int8 [KH, KW, C, M], in int32 NHWC."""

    @abc.abstractmethod
    def max_pool(self, x: Value, kernel: tuple[int, int], stride: tuple[int, int]) -> Value:
        """Maximum over windows of int8 or int16 NHWC, padded already."""
