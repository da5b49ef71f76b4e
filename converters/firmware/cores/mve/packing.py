"""Constants in the order the MVE kernels read them, and the roundings they know."""

import enum
from dataclasses import dataclass

import numpy as np

from bitship.graph import Graph, Node, ops
from bitship.graph.base import Array, Ints
from bitship.graph.calls import Packed
from bitship.graph.dtypes import DType
from bitship.graph.packing import split

PIECE = 16  # bytes of a vector
GROUP = 4  # channels that a block stores together
FARTHEST = 255  # zero point that the 16-bit step of an epilogue takes


class Rounding(enum.IntEnum):
    """``enum bitship_mve_rounding``."""

    SINGLE = 0
    DOUBLE_UP = 1
    DOUBLE = 2
    SINGLE_ANY = 4
    DOUBLE_ANY = 5


def up(value: int, to: int) -> int:
    """Return the least multiple of ``to`` that is no less."""
    return -(-value // to) * to


@dataclass(frozen=True)
class Epilogue:
    """A rescale to int8 as the kernels do it: which rounding, and the columns of its table, an entry per channel."""

    rounding: Rounding
    columns: tuple[Ints, ...]


def epilogue(r: ops.Rescale | None, channels: int) -> Epilogue | None:
    """Return how the kernels rescale sums, or None where they cannot."""
    if r is None or r.dtype is not DType.INT8 or abs(r.output_zero_point) > FARTHEST or r.pre_shift:
        return None
    m = np.broadcast_to(np.array(r.multiplier, np.int64), channels)
    s = np.broadcast_to(np.array(r.shift, np.int64), channels)
    if r.rounding is ops.Rounding.DOUBLE:
        if s.max() <= 0 and r.qmin >= r.output_zero_point:  # what rounds differently is clamped away
            return Epilogue(Rounding.DOUBLE_UP, (m, s))
        if s.max() < 0:
            return Epilogue(Rounding.DOUBLE, (m, s))
        return Epilogue(Rounding.DOUBLE_ANY, (m, np.minimum(s, 0), np.maximum(s, 0), np.where(s < 0, -1, 0)))
    if s.max() < 0:
        return Epilogue(Rounding.SINGLE, (m, s))
    if ((m > 0) & (m < 1 << 24)).any():  # a saturated left shift must still be far outside int8
        return None
    left = np.where(s < 0, 0, s + 1)
    return Epilogue(Rounding.SINGLE_ANY, (m, np.where(s < 0, s, -1), left, np.zeros_like(s)))


def folded(w: Ints, bias: Array, zero_point: int) -> Ints | None:
    """Return bias - zero_point * sum(w) by channel, w [channels, depth]; None where it leaves int32."""
    found = bias.astype(np.int64) - zero_point * w.sum(axis=1)
    return found if np.abs(found).max(initial=0) < 1 << 31 else None


def table(bias: Ints, e: Epilogue, channels: int) -> Packed:
    """Return an entry per channel; channels beyond the last are zeros."""
    rows = np.zeros((channels, 1 + len(e.columns)), "<i4")
    for i, column in enumerate((bias, *e.columns)):
        rows[: len(bias), i] = column
    return Packed(rows.tobytes())


def panels(w: Array) -> Packed:
    """Return w [channels, depth] in the order of a block: pairs of channels, 16 bytes of each in turn."""
    channels, depth = up(w.shape[0], GROUP), up(w.shape[1], PIECE)
    full = np.zeros((channels, depth), np.int8)
    full[: w.shape[0], : w.shape[1]] = w
    return Packed(full.reshape(channels // 2, 2, depth // PIECE, PIECE).transpose(0, 2, 1, 3).tobytes())


def nibbles(graph: Graph, node: Node) -> Packed | None:
    """Return packed weights of a depth beyond one vector in the order of a block of four bits; None for others.

    Pairs of channels: 16 codes of the first in the low halves of 16 bytes, those of the second in the high ones; with
    groups, a byte with the multiplier of each before them.
    """
    name = node.inputs[1]
    packing = graph.packing.get(name)
    if packing is None or packing.group % PIECE:
        return None
    codes, multipliers = split(graph.constants[name], packing, name)
    rows = codes.reshape(len(codes), -1)
    channels, depth = up(rows.shape[0], GROUP), up(rows.shape[1], PIECE)
    if depth == PIECE:
        return None
    full = np.zeros((channels, depth), np.uint8)
    full[: rows.shape[0], : rows.shape[1]] = rows.view(np.uint8) & 15
    pairs = full.reshape(channels // 2, 2, depth // PIECE, PIECE)
    bytes_ = pairs[:, 0] | pairs[:, 1] << 4
    if not packing.group:
        return Packed(bytes_.tobytes())
    each = np.ones((channels, depth // PIECE), np.uint8)
    repeated = np.repeat(multipliers, packing.group // PIECE, 1)[:, : depth // PIECE]
    each[: len(repeated)] = repeated
    return Packed(np.concatenate([each.reshape(channels // 2, 2, -1).transpose(0, 2, 1), bytes_], 2).tobytes())


# The lanes of the four vectors of sums that even and odd products widen into.
_LANES = [c for first in (0, 2, 1, 3) for c in range(first, PIECE, GROUP)]
NINE = 9  # taps of a kernel whose addresses registers hold


def runs(w: Ints) -> list[int]:
    """Return how many taps' products int16 holds the sum of, from the first tap on; w [taps, channels]."""
    most, least = np.maximum(127 * w, -128 * w), np.minimum(127 * w, -128 * w)
    found, hi, lo = [0], np.zeros(w.shape[1], np.int64), np.zeros(w.shape[1], np.int64)
    for up, down in zip(most, least, strict=True):
        hi, lo = hi + up, lo + down
        if hi.max() > 32767 or lo.min() < -32768:
            found.append(0)
            hi, lo = up, down
        found[-1] += 1
    return found


def pairs_fit(w: Ints) -> bool:
    """Whether the products of every two taps fit int16 together; w [taps, channels]."""
    return all(len(runs(w[i : i + 2])) == 1 for i in range(0, len(w), 2))


def stream(w: Array, bias: Ints, e: Epilogue, together: int, counted: bool) -> Packed:
    """Return the constants of ``together`` pixels' channels in the order a depthwise kernel reads them.

    w [taps, channels]; for every 16 channels bias, weights by tap (a run's after its count, if counted), multipliers
    and shifts, these and the bias by lane.
    """
    count = w.shape[1] * together
    columns = np.zeros((3, up(count, PIECE)), np.int64)
    for i, column in enumerate((bias, *e.columns)):
        columns[i, :count] = np.tile(column, together)
    full = np.zeros((w.shape[0], columns.shape[1]), np.int8)
    full[:, :count] = np.tile(w, together)
    data = bytearray()
    for first in range(0, columns.shape[1], PIECE):
        block = full[:, first : first + PIECE]
        b, m, s = (column[first : first + PIECE][_LANES].astype("<i4") for column in columns)
        data += b.tobytes()
        at = 0
        for run in runs(block.astype(np.int64)) if counted else [len(block)]:
            data += (np.array(run, "<i4").tobytes() if counted else b"") + block[at : at + run].tobytes()
            at += run
        for i in range(0, PIECE, GROUP):
            data += m[i : i + GROUP].tobytes() + s[i : i + GROUP].tobytes()
    return Packed(bytes(data))
