"""INT4: int8 constants that are stored as 4-bit codes, two to a byte, plain or with a multiplier per group.

A packed constant is an int8 constant like any other: the specification, the proof and every back end compute with its
values, and the graph's digest is the same packed or not. What packing adds is a promise that ``verify`` checks: every
value is ``code * multiplier`` with a code in [-8, 7], so that files and kernels may hold four bits in place of eight.

group 0    no multipliers: the values are the codes
group > 0  one multiplier in [1, 128] for every ``group`` consecutive elements of a row, a row being what one index of
           the first axis holds, in row-major order; the last group of a row may be shorter
"""

import msgspec
import numpy as np

from bitship.errors import GraphError
from bitship.graph.base import Array, check

LOWEST, HIGHEST = -8, 7


class Packing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an int8 constant is stored in four bits; ``group`` as above."""

    group: int = 0


def groups(shape: tuple[int, ...], packing: Packing) -> tuple[int, int]:
    """Return (rows, multipliers per row) of a packed constant; (0, 0) for one without multipliers."""
    if packing.group == 0 or not shape:
        return 0, 0
    return shape[0], -(-int(np.prod(shape[1:], dtype=np.int64)) // packing.group)


def packed_bytes(shape: tuple[int, ...], packing: Packing) -> int:
    """Return the bytes of the codes and multipliers of a constant."""
    rows, count = groups(shape, packing)
    return -(-int(np.prod(shape, dtype=np.int64)) // 2) + rows * count


def split(values: Array, packing: Packing, what: str) -> tuple[Array, Array]:
    """Return codes (int8, of the values' shape) and multipliers (uint8 [rows, groups], or empty).

    A group's multiplier is the greatest common divisor of its values, which leaves the smallest codes there are.
    Raises GraphError, opened by ``what``, when the values are not int8 or need more than four bits.
    """
    check(values.dtype == np.int8, f"{what} is packed and {values.dtype.name}; int8 is needed")
    check(0 <= packing.group <= 1 << 20, f"{what}: groups of {packing.group}; 0 to 2^20 are allowed")
    codes, multipliers = values, np.zeros((0, 0), np.uint8)
    rows, count = groups(values.shape, packing)
    if rows:
        flat = values.reshape(rows, -1).astype(np.int64)
        full = np.pad(flat, ((0, 0), (0, count * packing.group - flat.shape[1]))).reshape(rows, count, packing.group)
        common = np.maximum(np.gcd.reduce(full, axis=2), 1)
        wide = (full // common[..., None]).reshape(rows, -1)[:, : flat.shape[1]].reshape(values.shape)
        check(
            bool((wide >= LOWEST).all() and (wide <= HIGHEST).all()),
            f"{what} is packed in groups of {packing.group}, one of which is no multiple of codes in [-8, 7]",
        )
        codes, multipliers = wide.astype(np.int8), common.astype(np.uint8)
    check(
        int(codes.min(initial=0)) >= LOWEST and int(codes.max(initial=0)) <= HIGHEST,
        f"{what} is packed and holds [{int(codes.min())}, {int(codes.max())}]; [-8, 7] is allowed",
    )
    return codes, multipliers


def fits(values: Array, packing: Packing) -> bool:
    """Whether a constant can be packed so."""
    try:
        split(values, packing, "it")
    except GraphError:
        return False
    return True


def nibbles(codes: Array) -> Array:
    """Return codes in [-8, 7], in row-major order, two to a byte: the first in the low half; uint8."""
    flat = codes.reshape(-1).view(np.uint8) & 15
    flat = np.pad(flat, (0, flat.size % 2))
    return np.asarray(flat[0::2] | flat[1::2] << 4)


def pack(values: Array, packing: Packing, what: str) -> Array:
    """Return a constant's codes as nibbles, its multipliers behind them; uint8 [packed_bytes]."""
    codes, multipliers = split(values, packing, what)
    return np.concatenate([nibbles(codes), multipliers.reshape(-1)])


def unpack(data: Array, shape: tuple[int, ...], packing: Packing, what: str) -> Array:
    """Return the values of ``pack``'s bytes; GraphError when their number or a product is not a constant's."""
    check(0 <= packing.group <= 1 << 20, f"{what}: groups of {packing.group}; 0 to 2^20 are allowed")
    check(all(0 < n < 1 << 31 for n in shape), f"{what} is packed, of shape {shape}; positive extents are needed")
    size, (rows, count) = int(np.prod(shape, dtype=object)), groups(shape, packing)
    check(
        data.dtype == np.uint8 and data.ndim == 1 and data.size == -(-size // 2) + rows * count,
        f"{what} is packed in {data.size} bytes of {data.dtype.name}; {-(-size // 2) + rows * count} are needed",
    )
    halves = data[: -(-size // 2)]
    both = np.stack([halves << 4, halves & 0xF0], 1).reshape(-1)[:size].view(np.int8) >> 4
    if not rows:
        return np.asarray(both.reshape(shape))
    multipliers = data[-(-size // 2) :].reshape(rows, count).astype(np.int64)
    wide = both.reshape(rows, -1) * np.repeat(multipliers, packing.group, 1)[:, : size // rows]
    check(bool((np.abs(wide * 2 + 1) <= 255).all()), f"{what} is packed and holds a product outside int8")
    return np.asarray(wide.astype(np.int8).reshape(shape))
