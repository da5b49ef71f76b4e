"""Tensors of a TOSA program: their element type, shape, the range their values are proven to lie in."""

import enum
from dataclasses import dataclass, replace

import numpy as np

from bitship.graph.base import Array
from bitship.graph.dtypes import DType


class Element(enum.Enum):
    """An element type of TOSA's integer profile; the value is its name in TOSA."""

    BOOL = "BOOL"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT48 = "INT48"

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest value."""
        if self is Element.BOOL:
            return 0, 1
        bits = int(self.value.removeprefix("INT"))
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """What NumPy stores it in."""
        names = {Element.BOOL: "bool", Element.INT48: "int64"}
        return np.dtype(names.get(self, self.value.lower()))


UINT8_OFFSET = 128

# How a dtype of the graph lies in a program: uint8 as int8 less 128, int64 as int32 where the range proof allows it.
ELEMENTS: dict[DType, Element] = {
    DType.BOOL: Element.BOOL,
    DType.INT8: Element.INT8,
    DType.UINT8: Element.INT8,
    DType.INT16: Element.INT16,
    DType.INT32: Element.INT32,
    DType.INT64: Element.INT32,
}


@dataclass(frozen=True)
class Value:
    """A tensor of the program; ``lo`` and ``hi`` hold all its elements, ``array`` is a constant's value."""

    name: str
    shape: tuple[int, ...]
    element: Element
    lo: int
    hi: int
    array: Array | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def within(self, lo: int, hi: int) -> "Value":
        """Return the same tensor with a range that was proven elsewhere, where it is the tighter one."""
        return replace(self, lo=max(self.lo, lo), hi=min(self.hi, hi))
