"""Tensors on their way through a lowering: the graph's NHWC order, torch's NCHW, or both, made when first read."""

from collections.abc import Sequence

import numpy as np

from bitship.converters.executorch.arithmetic import Constants, Tensor
from bitship.converters.floats import TO_PLANES, TO_ROWS
from bitship.graph.base import Array
from bitship.graph.packing import Packing, groups, split

_WORTH_PACKING = 1 << 13  # elements: taking them apart is ten ops, or 2 KB of the program


def worth_packing(array: Array, packing: Packing) -> bool:
    """Whether a constant is kept in four bits: not a small one, nor one with a multiplier that int8 has not."""
    return array.size >= _WORTH_PACKING and bool((split(array, packing, "a constant")[1] <= 127).all())


def unpacked(k: Constants, array: Array, packing: Packing) -> Tensor:
    """Take two codes from every byte, multiply groups by their multipliers; the codes are the program's constant."""
    import torch

    codes, multipliers = split(array, packing, "a constant")
    rows, count = groups(array.shape, packing)
    flat = codes.reshape(max(rows, 1), -1)
    length = flat.shape[1]
    full = count * packing.group if rows else length + length % 2
    padded = np.pad(flat, ((0, 0), (0, full - length))).reshape(-1)
    padded = np.pad(padded, (0, padded.size % 2)).view(np.uint8)
    t = k.tensor((padded[::2] & 15 | padded[1::2] << 4).view(np.int8))
    low = torch.bitwise_right_shift(torch.bitwise_left_shift(t, 4), 4)
    both = torch.stack([low, torch.bitwise_right_shift(t, 4)], -1).reshape(-1)
    if rows:
        scaled = both[: rows * full].reshape(rows, count, packing.group)
        both = (scaled * k.tensor(multipliers.astype(np.int8).reshape(rows, count, 1))).reshape(rows, full)
        return both[:, :length].reshape(array.shape)
    return both[:length].reshape(array.shape)


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
        packing: Packing | None = None,
    ) -> None:
        self._rows = rows
        self._planes = planes
        self._constants = constants
        self.array = array
        self._packing = packing

    @classmethod
    def constant(cls, k: Constants, array: Array, packing: Packing | None = None) -> "Value":
        """Return a constant; its tensor joins the program only when an op reads it, in four bits where it is packed."""
        return cls(constants=k, array=array, packing=packing if packing and worth_packing(array, packing) else None)

    @property
    def rows(self) -> Tensor:
        """The tensor in the graph's axis order."""
        if self._rows is None:
            if self.array is not None and self._constants is not None:
                if self._packing is not None:
                    self._rows = unpacked(self._constants, self.array, self._packing)
                else:
                    self._rows = self._constants.tensor(self.array)
            else:
                self._rows = self._planes.permute(TO_ROWS)
        return self._rows

    @property
    def planes(self) -> Tensor:
        """The rank-4 tensor in [N, C, H, W]."""
        if self._planes is None:
            if self.array is not None and self._constants is not None and self._packing is None:
                self._planes = self._constants.tensor(self.array.transpose(TO_PLANES))
            else:
                self._planes = self.rows.permute(TO_PLANES)
        return self._planes

    @property
    def only_planes(self) -> bool:
        """Whether reading ``rows`` would cost a permutation."""
        return self._rows is None and self._planes is not None

    def arranged(self, k: Constants, perm: tuple[int, ...]) -> Tensor:
        """Return the tensor with its axes permuted, at no cost when it is a constant of whole bytes."""
        if self.array is not None and self._packing is None:
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
