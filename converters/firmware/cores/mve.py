"""Kernels for Arm's M-profile vector extension (Armv8.1-M): which nodes they take, and their constants, packed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import numpy as np

from bitship.graph import Graph, Node, ops
from bitship.graph.base import Array, Ints, Op, TensorType
from bitship.graph.calls import Call, CStruct, Packed
from bitship.graph.calls.overlap import Walk, window_distance
from bitship.graph.calls.structs import struct
from bitship.graph.dtypes import DType

PIECE = 16  # bytes of a vector
GROUP = 4  # channels that a block stores together
FARTHEST = 255  # zero point that the 16-bit step of an epilogue takes

_SINGLE, _DOUBLE_UP, _DOUBLE, _DOUBLE_ANY, _SINGLE_ANY = range(5)


def _up(value: int, to: int) -> int:
    return -(-value // to) * to


@dataclass(frozen=True)
class Epilogue:
    """A rescale to int8 as the kernels do it: which rounding, and the columns of its table, an entry per channel."""

    rounding: int
    columns: tuple[Ints, ...]


def epilogue(r: ops.Rescale | None, channels: int) -> Epilogue | None:
    """Return how the kernels rescale sums, or None where they cannot."""
    if r is None or r.dtype is not DType.INT8 or abs(r.output_zero_point) > FARTHEST:
        return None
    m = np.broadcast_to(np.array(r.multiplier, np.int64), channels)
    s = np.broadcast_to(np.array(r.shift, np.int64), channels)
    if r.pre_shift:
        return None
    if r.rounding is ops.Rounding.DOUBLE:
        if s.max() <= 0 and r.qmin >= r.output_zero_point:  # what rounds differently is clamped away
            return Epilogue(_DOUBLE_UP, (m, s))
        if s.max() < 0:
            return Epilogue(_DOUBLE, (m, s))
        return Epilogue(_DOUBLE_ANY, (m, np.minimum(s, 0), np.maximum(s, 0), np.where(s < 0, -1, 0)))
    if s.max() < 0:
        return Epilogue(_SINGLE, (m, s))
    if ((m > 0) & (m < 1 << 24)).any():  # a saturated left shift must still be far outside int8
        return None
    left = np.where(s < 0, 0, s + 1)
    return Epilogue(_SINGLE_ANY, (m, np.where(s < 0, s, -1), left, np.zeros_like(s)))


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
    channels, depth = _up(w.shape[0], GROUP), _up(w.shape[1], PIECE)
    full = np.zeros((channels, depth), np.int8)
    full[: w.shape[0], : w.shape[1]] = w
    return Packed(full.reshape(channels // 2, 2, depth // PIECE, PIECE).transpose(0, 2, 1, 3).tobytes())


def _dense(op: Any) -> bool:
    """Whether weights are their codes and nothing is grouped."""
    return op.weight_zero_point == 0 and getattr(op, "groups", 1) == 1


def _window(
    op: Any, x: TensorType, out: TensorType, kernel: tuple[int, int], rounding: int, together: int = 1
) -> CStruct:
    r = op.requant
    return struct(
        "mve_window",
        batch=x.shape[0],
        in_h=x.shape[1],
        in_w=x.shape[2],
        in_c=x.shape[3],
        out_h=out.shape[1],
        out_w=out.shape[2],
        out_c=out.shape[3],
        kernel_h=kernel[0],
        kernel_w=kernel[1],
        stride_h=op.stride[0],
        stride_w=op.stride[1],
        dilation_h=op.dilation[0],
        dilation_w=op.dilation[1],
        pad_top=op.padding[0],
        pad_left=op.padding[2],
        input_zero_point=op.input_zero_point,
        output_zero_point=r.output_zero_point,
        qmin=r.qmin,
        qmax=r.qmax,
        rounding=rounding,
        together=together,
    )


def _distance(op: Any, x: TensorType, out: TensorType, lag: int) -> int:
    rows = Walk(x.shape[1], out.shape[1], op.stride[0], op.padding[0])
    columns = Walk(x.shape[2], out.shape[2], op.stride[1], op.padding[2])
    return window_distance(x.shape[0], rows, columns, x.shape[3], out.shape[3], lag)


def conv2d(graph: Graph, node: Node) -> Call | None:
    """A convolution of int8 by constant weights."""
    op = node.op
    assert isinstance(op, ops.Conv2D)
    x, out = graph.types[node.inputs[0]], graph.types[node.output]
    w, bias = (graph.constants.get(i) for i in node.inputs[1:])
    e = epilogue(op.requant, out.shape[3])
    if w is None or bias is None or e is None or x.dtype is not DType.INT8 or not _dense(op):
        return None
    rows = w.reshape(w.shape[0], -1)
    known = folded(rows.astype(np.int64), bias, op.input_zero_point)
    if known is None:
        return None
    kernel = w.shape[1], w.shape[2]
    depth, channels = prod(w.shape[1:]), _up(w.shape[0], GROUP)
    direct = kernel == (1, 1) and not any(op.padding)
    depth = _up(depth, PIECE)
    scratch = 4 * PIECE if depth == PIECE else 4 * depth + (0 if direct else depth)
    scratch += 0 if channels == w.shape[0] else 4 * channels
    return Call(
        "bitship_mve_conv2d",
        _window(op, x, out, kernel, e.rounding),
        (node.inputs[0], panels(rows), table(known, e, channels)),
        node.output,
        scratch,
        (_distance(op, x, out, 0), None, None),
    )


# The lanes of the four vectors of sums that even and odd products widen into.
_LANES = [c for first in (0, 2, 1, 3) for c in range(first, PIECE, GROUP)]
_NINE = 9


def _runs(w: Ints) -> list[int]:
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


def _pairs_fit(w: Ints) -> bool:
    return all(len(_runs(w[i : i + 2])) == 1 for i in range(0, len(w), 2))


def stream(w: Array, bias: Ints, e: Epilogue, together: int, counted: bool) -> Packed:
    """Return the constants of ``together`` pixels' channels in the order a depthwise kernel reads them.

    w [taps, channels]; for every 16 channels bias, weights by tap (a run's after its count, if counted), multipliers
    and shifts, these and the bias by lane.
    """
    count = w.shape[1] * together
    columns = np.zeros((3, _up(count, PIECE)), np.int64)
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
        for run in _runs(block.astype(np.int64)) if counted else [len(block)]:
            data += (np.array(run, "<i4").tobytes() if counted else b"") + block[at : at + run].tobytes()
            at += run
        for i in range(0, PIECE, GROUP):
            data += m[i : i + GROUP].tobytes() + s[i : i + GROUP].tobytes()
    return Packed(bytes(data))


def _together(channels: int, stride: int) -> int:
    """Pixels of a row to take as one: so many that whole vectors suffice, and that the loop over them is worth it."""
    if stride != 1 or channels >= 16 * PIECE:
        return 1
    whole = PIECE // gcd(channels, PIECE)
    return whole * -(-4 * PIECE // (whole * channels))


def depthwise(graph: Graph, node: Node) -> Call | None:
    """A depthwise convolution of int8 by constant weights, one output channel per input channel."""
    op = node.op
    assert isinstance(op, ops.DepthwiseConv2D)
    x, out = graph.types[node.inputs[0]], graph.types[node.output]
    w, bias = (graph.constants.get(i) for i in node.inputs[1:])
    e = epilogue(op.requant, out.shape[3])
    if w is None or bias is None or e is None or x.dtype is not DType.INT8 or not _dense(op):
        return None
    taps = w.reshape(-1, w.shape[2] * w.shape[3])
    known = folded(taps.T.astype(np.int64), bias, op.input_zero_point)
    if known is None or w.shape[3] != 1 or e.rounding >= _DOUBLE_ANY:
        return None
    counted = len(taps) != _NINE or not _pairs_fit(taps.astype(np.int64))
    together = 0 if counted else _together(x.shape[3], op.stride[1])
    scratch = _up(x.shape[3], PIECE) + (_up(4 * len(taps), PIECE) if counted else 0)
    return Call(
        "bitship_mve_depthwise_conv2d",
        _window(op, x, out, (w.shape[0], w.shape[1]), e.rounding, together),
        (node.inputs[0], stream(taps, known, e, max(together, 1), counted)),
        node.output,
        scratch,
        (_distance(op, x, out, 1), None),
    )


FAMILY: Mapping[type[Op], Callable[[Graph, Node], Call | None]] = {
    ops.Conv2D: conv2d,
    ops.DepthwiseConv2D: depthwise,
}

# Function without its prefix to the sources it needs, relative to firmware/src.
FILES: dict[str, tuple[str, ...]] = {
    "mve_conv2d": ("mve/conv2d.c", "mve/block.c"),
    "mve_depthwise_conv2d": ("mve/depthwise_conv2d.c", "mve/depthwise.c"),
}
HEADERS: tuple[str, ...] = ("mve/block.h", "mve/depthwise.h", "mve/mve.h")
