"""Tensors on their way through a lowering: the graph's NHWC order, torch's NCHW, or both, made when first read."""

from collections.abc import Sequence

import numpy as np

from bitship.converters.executorch.arithmetic import Constants, Tensor
from bitship.converters.floats import TO_PLANES, TO_ROWS
from bitship.graph.base import Array


class Value:
    """One tensor of the graph. ``rows`` has the graph's axis order, ``planes`` (rank 4 only) the channels second.

    Convolutions and pools give planes, and ops that can take either keep what there is, so a chain of them
    is permuted once at each end and not around every op.
    """

    def __init__(
        self,
        rows: Tensor = None,
        planes: Tensor = None,
        constants: Constants | None = None,
        array: Array | None = None,
    ) -> None:
        self._rows = rows
        self._planes = planes
        self._constants = constants
        self.array = array

    @classmethod
    def constant(cls, k: Constants, array: Array) -> "Value":
        """Return a constant; its tensor joins the program only when an op reads it."""
        return cls(constants=k, array=array)

    @property
    def rows(self) -> Tensor:
        """The tensor in the graph's axis order."""
        if self._rows is None:
            if self.array is not None and self._constants is not None:
                self._rows = self._constants.tensor(self.array)
            else:
                self._rows = self._planes.permute(TO_ROWS)
        return self._rows

    @property
    def planes(self) -> Tensor:
        """The rank-4 tensor in [N, C, H, W]."""
        if self._planes is None:
            if self.array is not None and self._constants is not None:
                self._planes = self._constants.tensor(self.array.transpose(TO_PLANES))
            else:
                self._planes = self._rows.permute(TO_PLANES)
        return self._planes

    @property
    def only_planes(self) -> bool:
        """Whether reading ``rows`` would cost a permutation."""
        return self._rows is None and self._planes is not None

    def arranged(self, k: Constants, perm: tuple[int, ...]) -> Tensor:
        """Return the tensor with its axes permuted, at no cost when it is a constant."""
        if self.array is not None:
            return k.tensor(np.ascontiguousarray(self.array.transpose(perm)))
        return self.rows.permute(perm)


class Layout:
    """The axis order an op works in: planes when an operand exists only so, else rows."""

    def __init__(self, values: Sequence[Value]) -> None:
        self.planes = any(v.only_planes for v in values)
        self.tensors = [v.planes if self.planes else v.rows for v in values]

    @property
    def channel(self) -> int:
        """Axis of the channels (the graph's last axis)."""
        return 1 if self.planes else self.tensors[0].dim() - 1

    def axis(self, axis: int) -> int:
        """Where an axis of the graph is."""
        return TO_PLANES.index(axis) if self.planes else axis

    def wrap(self, tensor: Tensor) -> Value:
        """Return a result in this order as a value."""
        return Value(planes=tensor) if self.planes else Value(tensor)
