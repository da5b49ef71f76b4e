"""The element types a tensor of the integer graph can have."""

import enum

import numpy as np

from bitship.errors import GraphError


class DType(enum.Enum):
    """An integer element type; the value is its name in files and messages."""

    BOOL = "bool"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The little-endian NumPy dtype."""
        return np.dtype(self.value)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return int(self.numpy.itemsize)

    @property
    def qmin(self) -> int:
        """Smallest value."""
        return 0 if self is DType.BOOL else int(np.iinfo(self.value).min)

    @property
    def qmax(self) -> int:
        """Largest value."""
        return 1 if self is DType.BOOL else int(np.iinfo(self.value).max)

    @classmethod
    def of(cls, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> "DType":
        """Return the dtype of a NumPy array; GraphError when it is not an integer type of the graph."""
        try:
            return cls(array.dtype.name)
        except ValueError:
            allowed = ", ".join(d.value for d in cls)
            raise GraphError(
                f"dtype {array.dtype.name}: not an element type of the integer graph ({allowed})"
            ) from None
