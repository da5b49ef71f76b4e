"""The graph's fixed-point arithmetic written in torch ops that ExecuTorch's portable kernels compute exactly.

Shifts are ``torch.bitwise_*_shift``: the ``>>`` operator exports as an op without a portable kernel, and
``remainder`` is wrong on negative numbers there. ``sum`` over a contiguous last axis adds in float32: sums are matrix
products with ones. All intermediates are int64, so no product can wrap.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bitship.graph.base import Array
from bitship.graph.dtypes import DType
from bitship.graph.ops import Rescale, Rounding

_INT64 = 1 << 63
_PRODUCT = 1 << 62  # |centred value| * multiplier stays at or below this: Rescale.prove

Tensor = Any


def torch_dtype(dtype: DType) -> Any:
    """Return torch's dtype of the same name."""
    import torch

    return getattr(torch, dtype.value)


def to(x: Tensor, dtype: DType) -> Tensor:
    """Convert to a dtype; no op when x has it."""
    wanted = torch_dtype(dtype)
    return x if x.dtype == wanted else x.to(wanted)


class Constants:
    """The constant tensors of a program: recorded on a first pass, buffers of its module on the second.

    Equal arrays share one tensor. Recording first keeps copies of constants out of the exported program.
    """

    def __init__(self) -> None:
        self.names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.arrays: dict[str, Array] = {}
        self.module: Any = None

    def tensor(self, array: Array) -> Tensor:
        """Return the tensor that holds the array."""
        import torch

        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.name, array.shape, array.tobytes())
        name = self.names.setdefault(key, f"constant{len(self.names)}")
        if self.module is not None:
            return self.module.get_buffer(name)
        self.arrays.setdefault(name, array)
        return torch.from_numpy(array.copy())

    def bind(self, module: Any) -> None:
        """Make every recorded array a buffer of the module and hand those out from now on."""
        import torch

        for name, array in self.arrays.items():
            module.register_buffer(name, torch.from_numpy(array.copy()))
        self.module = module

    def vector(self, values: Sequence[int], axis: int, rank: int) -> Any:
        """Return one value as a Python int, several as an int64 tensor that broadcasts along an axis."""
        if len(set(values)) == 1:
            return values[0]
        shape = [1] * rank
        shape[axis] = len(values)
        return self.tensor(np.array(values, np.int64).reshape(shape))


def shift_right(x: Tensor, amount: Any) -> Tensor:
    """``floor(x / 2^amount)`` for one amount or a tensor of them."""
    import torch

    return x if isinstance(amount, int) and amount == 0 else torch.bitwise_right_shift(x, amount)


def rescale(k: Constants, x: Tensor, r: Rescale, axis: int, reach: int | None = None) -> Tensor:
    """Return int64 ``clamp(round(...) + output_zero_point)`` of integers x, as ``Rescale.apply`` defines it.

    axis   the axis that multipliers run along
    reach  largest magnitude x can have; None: int32's

    Constants are folded: the left shifts into the multiplier, the zero points into the addend where int64 holds it.
    """
    x = to(x, DType.INT64)
    reach = 1 << 31 if reach is None else reach
    left = [r.pre_shift + (max(s, 0) if r.rounding is Rounding.DOUBLE else 0) for s in r.shift]
    factor = [m << k for m, k in zip(r.multiplier, left, strict=True)]
    down = [31 if r.rounding is Rounding.DOUBLE else 31 - s for s in r.shift]
    addend = [(1 << d) >> 1 for d in down]
    folded = [a - r.input_zero_point * f for a, f in zip(addend, factor, strict=True)]
    if all(reach * f + abs(a) < _INT64 for a, f in zip(folded, factor, strict=True)):
        addend, reach = folded, reach
    else:
        x = x - r.input_zero_point
    zero_point, rank = r.output_zero_point, x.dim()
    if r.rounding is Rounding.SINGLE:
        carried = [a + (zero_point << d) for a, d in zip(addend, down, strict=True)]
        if all(max(reach * f, _PRODUCT) + abs(a) < _INT64 for a, f in zip(carried, factor, strict=True)):
            addend, zero_point = carried, 0
    y = shift_right(x * k.vector(factor, axis, rank) + k.vector(addend, axis, rank), k.vector(down, axis, rank))
    if r.rounding is Rounding.DOUBLE:
        y = half_away_shift(k, y, [max(-s, 0) for s in r.shift], axis)
    if zero_point:
        y = y + zero_point
    return y.clamp(r.qmin, r.qmax)


def half_away_shift(k: Constants, x: Tensor, amount: Sequence[int], axis: int) -> Tensor:
    """``x / 2^amount`` rounded half away from zero (gemmlowp's RoundingDivideByPOT): half less one for negatives."""
    if not any(amount):
        return x
    negative, rank = shift_right(x, 63), x.dim()
    if not all(amount):
        negative = negative * k.vector([int(a > 0) for a in amount], axis, rank)
    half = k.vector([(1 << a) >> 1 for a in amount], axis, rank)
    return shift_right(x + half + negative, k.vector(amount, axis, rank))


def finish(k: Constants, acc: Tensor, requant: Rescale | None, axis: int, reach: int | None = None) -> Tensor:
    """Return the accumulator as int32, or requantized when the op carries an epilogue."""
    if requant is None:
        return to(acc, DType.INT32)
    return to(rescale(k, acc, requant, axis, reach), requant.dtype)


def centred(x: Tensor, zero_point: int, dtype: DType = DType.INT32) -> Tensor:
    """Return ``x - zero_point`` in a dtype that holds it."""
    x = to(x, dtype)
    return x - zero_point if zero_point else x


def ratio(numerator: Tensor | int, denominator: Tensor) -> Tensor:
    """``floor(numerator / denominator)`` of int64 numbers that are not negative: the portable kernel truncates."""
    import torch

    if isinstance(numerator, int):
        numerator = torch.full_like(denominator, numerator)
    return torch.div(numerator, denominator, rounding_mode="floor")


def total(k: Constants, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Return the sums of int64 numbers over the axes, which stay as extent 1."""
    import torch

    shape, reduced = tuple(x.shape), {a % x.dim() for a in axes}
    order = [a for a in range(x.dim()) if a not in reduced] + sorted(reduced)
    if order != list(range(x.dim())):
        x = x.permute(order)
    count = math.prod(shape[a] for a in reduced)
    sums = torch.mm(x.reshape(math.prod(shape) // count, count), k.tensor(np.ones((count, 1), np.int64)))
    return sums.reshape([1 if a in reduced else n for a, n in enumerate(shape)])


def row_total(k: Constants, x: Tensor) -> Tensor:
    """Return the sums of int64 numbers over the last axis, [..., 1]."""
    return total(k, x, (x.dim() - 1,))


def count_powers(k: Constants, x: Tensor, exponents: Sequence[int]) -> Tensor:
    """Return, for every int64 row [..., 1], how many of these powers of two are at most x."""
    powers = k.tensor(np.array([1 << e for e in exponents], np.int64))
    return row_total(k, to(x >= powers, DType.INT64))


def power(k: Constants, exponent: int, amount: Tensor) -> Tensor:
    """``2^(exponent + amount)`` for a tensor of non-negative amounts."""
    import torch

    return torch.bitwise_left_shift(k.tensor(np.array([1 << exponent], np.int64)), amount)


def look_up(entries: Tensor, index: Tensor) -> Tensor:
    """Return ``entries[index]`` in int64, of index's shape."""
    return to(entries, DType.INT64).index_select(0, index.reshape(index.numel())).reshape(index.shape)


def reach_of(x: Tensor) -> int:
    """Largest magnitude an integer tensor's dtype holds."""
    import torch

    info = torch.iinfo(x.dtype)
    return int(max(-info.min, info.max))
