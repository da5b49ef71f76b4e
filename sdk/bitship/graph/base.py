"""What every op of the integer graph is: attributes, inference, executable specification, range proof."""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from bitship.errors import GraphError, OverflowProofError
from bitship.graph.dtypes import DType

Array = NDArray[Any]
Ints = NDArray[np.int64]

MAX_RANK = 6
MAX_ELEMENTS = 1 << 31


class TensorType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Static shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: DType

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for extent in self.shape:
            n *= extent
        return n

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(map(str, self.shape))}]"


class Interval(msgspec.Struct, frozen=True):
    """Closed range [lo, hi] that every element of a tensor is proven to lie in."""

    lo: int
    hi: int

    @classmethod
    def of(cls, dtype: DType) -> "Interval":
        """Return the whole range of a dtype."""
        return cls(dtype.qmin, dtype.qmax)

    def require(self, dtype: DType, what: str) -> "Interval":
        """Return self when it fits the dtype, else raise OverflowProofError."""
        if self.lo < dtype.qmin or self.hi > dtype.qmax:
            raise OverflowProofError(
                f"{what} can reach [{self.lo}, {self.hi}], {dtype.value} holds [{dtype.qmin}, {dtype.qmax}]"
            )
        return self

    def union(self, other: "Interval") -> "Interval":
        """Return the smallest interval that holds both."""
        return Interval(min(self.lo, other.lo), max(self.hi, other.hi))


class Operand(msgspec.Struct, frozen=True):
    """What the range proof knows of one operand: its type, its range, its value when it is a constant."""

    type: TensorType
    range: Interval
    value: Array | None = None


class Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op"):
    """Attributes of one node. A subclass is one op; its tag is the op's name (TOSA's where TOSA has it).

    Operands are positional. ``operands`` names them; a trailing ``*`` means one or more of the last.
    """

    operands: ClassVar[tuple[str, ...]] = ("x",)

    @property
    def name(self) -> str:
        """The op's name in files and messages."""
        return str(self.__struct_config__.tag)

    def infer(self, *types: TensorType) -> TensorType:
        """Return the output type; GraphError when operands or attributes do not fit together."""
        raise GraphError(f"{self.name}: no inference")  # pragma: no cover - every op overrides this

    def run(self, *arrays: Array) -> Array:
        """Executable specification: exact integer result, in the output dtype."""
        raise GraphError(f"{self.name}: no specification")  # pragma: no cover

    def bounds(self, out: TensorType, *operands: Operand) -> Interval:
        """Return a range that holds every output; OverflowProofError when an intermediate may not fit."""
        return Interval.of(out.dtype)

    def macs(self, out: TensorType, *types: TensorType) -> int:
        """Multiply-accumulates of one execution, padding taps included."""
        return 0


def as_bytes(array: Array) -> bytes:
    """Return the little-endian row-major bytes of an array."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def check(condition: bool, message: str) -> None:
    """Raise GraphError with the message unless the condition holds."""
    if not condition:
        raise GraphError(message)


def check_rank(t: TensorType, rank: int, what: str) -> None:
    """Raise GraphError unless the tensor has this rank."""
    check(len(t.shape) == rank, f"{what} is {t}, rank {rank} is needed")


def check_dtype(t: TensorType, allowed: Sequence[DType], what: str) -> None:
    """Raise GraphError unless the tensor's dtype is one of the allowed."""
    check(t.dtype in allowed, f"{what} is {t.dtype.value}, allowed: {', '.join(d.value for d in allowed)}")


def check_pair(values: tuple[int, ...], lowest: int, what: str) -> None:
    """Raise GraphError unless every value is an int in [lowest, 2^20]."""
    check(all(lowest <= v <= 1 << 20 for v in values), f"{what} is {values}, each must lie in [{lowest}, {1 << 20}]")


def broadcast(a: TensorType, b: TensorType) -> tuple[int, ...]:
    """Return the NumPy broadcast of two shapes of equal rank; GraphError when there is none."""
    check(len(a.shape) == len(b.shape), f"operands {a} and {b} need equal rank")
    check(
        all(m == n or 1 in (m, n) for m, n in zip(a.shape, b.shape, strict=True)),
        f"operands {a} and {b} do not broadcast",
    )
    return tuple(max(m, n) for m, n in zip(a.shape, b.shape, strict=True))


def exact_matmul(a: Ints, b: Ints) -> Ints:
    """Integer matrix product: through float64 BLAS when every partial sum is below 2^53, else int64.

    float64 sums of integers below 2^53 are exact in any order, so both paths give the same bits.
    """
    depth = a.shape[-1]
    bound = depth * int(np.abs(a).max(initial=0)) * int(np.abs(b).max(initial=0))
    if bound < 1 << 53:
        return np.asarray(np.rint(a.astype(np.float64) @ b.astype(np.float64)), np.int64)
    return a @ b
