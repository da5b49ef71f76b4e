"""Convolutions, fully connected layers and pools for MVE."""

from math import gcd
from typing import Any

import numpy as np

from bitship.converters.firmware.cores.epilogues import SIXTEENTH, sixteenth
from bitship.converters.firmware.cores.mve.packing import (
    GROUP,
    NINE,
    PIECE,
    Epilogue,
    Rounding,
    epilogue,
    folded,
    nibbles,
    pairs_fit,
    panels,
    stream,
    table,
    up,
)
from bitship.graph import Graph, Node, ops
from bitship.graph.base import Array, Ints, TensorType
from bitship.graph.calls import Call, CStruct, Packed
from bitship.graph.calls.overlap import Walk, distance, window_distance
from bitship.graph.calls.structs import struct
from bitship.graph.calls.windows import pool as plain_pool
from bitship.graph.dtypes import DType
from bitship.graph.packing import Packing, fits


def _dense(op: Any) -> bool:
    """Whether weights are their codes and nothing is grouped."""
    return op.weight_zero_point == 0 and getattr(op, "groups", 1) == 1


FEW_ZEROS = 32  # products of a block with zeros, by channel and 16 bytes, that cost as much as packing four patches


def _fields(op: Any, x: tuple[int, ...], out: tuple[int, ...], rounding: Rounding, **fields: int) -> CStruct:
    """Return the parameters of a window op; ``fields`` are those that differ from a 1x1 kernel's."""
    shape = dict(zip(("batch", "in_h", "in_w", "in_c", "out_h", "out_w", "out_c"), (*x, *out[1:]), strict=True))
    ones = dict.fromkeys(("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"), 1)
    return struct(
        "mve_window",
        **shape,
        **{**ones, **dict.fromkeys(("pad_top", "pad_left", "together", "padded_rows", "grouped"), 0), **fields},
        input_zero_point=op.input_zero_point,
        output_zero_point=op.requant.output_zero_point,
        qmin=op.requant.qmin,
        qmax=op.requant.qmax,
        rounding=int(rounding),
    )


def _window(
    op: Any, x: TensorType, out: TensorType, kernel: tuple[int, ...], rounding: Rounding, **own: int
) -> CStruct:
    return _fields(
        op,
        x.shape,
        out.shape,
        rounding,
        kernel_h=kernel[0],
        kernel_w=kernel[1],
        stride_h=op.stride[0],
        stride_w=op.stride[1],
        dilation_h=op.dilation[0],
        dilation_w=op.dilation[1],
        pad_top=op.padding[0],
        pad_left=op.padding[2],
        **own,
    )


def _distance(op: Any, x: TensorType, out: TensorType, lag: int) -> int:
    rows = Walk(x.shape[1], out.shape[1], op.stride[0], op.padding[0])
    columns = Walk(x.shape[2], out.shape[2], op.stride[1], op.padding[2])
    return window_distance(x.shape[0], rows, columns, x.shape[3], out.shape[3], lag)


def _known(graph: Graph, node: Node, depth_last: bool = True) -> tuple[Array, Ints, Epilogue] | None:
    """Return weights as [channels, depth], bias with the input zero point folded in, and the epilogue; else None."""
    op: Any = node.op
    x, out = graph.types[node.inputs[0]], graph.types[node.output]
    w, bias = (graph.constants.get(i) for i in node.inputs[1:])
    e = epilogue(op.requant, out.shape[-1])
    if w is None or bias is None or e is None or x.dtype is not DType.INT8 or not _dense(op):
        return None
    rows = w.reshape(w.shape[0], -1) if depth_last else w.reshape(-1, out.shape[-1]).T
    found = folded(rows.astype(np.int64), bias, op.input_zero_point)
    return None if found is None else (rows, found, e)


def conv2d(graph: Graph, node: Node) -> Call | None:
    """A convolution of int8 by constant weights."""
    op = node.op
    assert isinstance(op, ops.Conv2D)
    found = _known(graph, node)
    if found is None:
        return None
    rows, bias, e = found
    x, out, w = graph.types[node.inputs[0]], graph.types[node.output], graph.types[node.inputs[1]]
    direct = w.shape[1:3] == op.stride == (1, 1) and not any(op.padding)
    padded = _pads_rows(w)
    if padded:
        taps = w.shape[2] * w.shape[3]
        rows = np.pad(rows.reshape(*w.shape[:2], taps), ((0, 0), (0, 0), (0, PIECE - taps))).reshape(len(rows), -1)
    small = None if padded else nibbles(graph, node)
    return Call(
        "bitship_mve_conv2d_int4" if small else "bitship_mve_conv2d",
        _window(op, x, out, w.shape[1:3], e.rounding, padded_rows=int(padded), grouped=_grouped(graph, node, small)),
        (node.inputs[0], small or panels(rows), table(bias, e, up(len(rows), GROUP))),
        node.output,
        _scratch(rows),
        (_distance(op, x, out, _lag(rows.shape[1], out.shape[2]) if direct else 0), None, None),
    )


def _grouped(graph: Graph, node: Node, small: Packed | None) -> int:
    """Whether packed weights have multipliers."""
    return int(small is not None and graph.packing[node.inputs[1]].group > 0)


def _pads_rows(w: TensorType) -> bool:
    """Whether a vector for every row of taps costs less, in products with zeros, than packing a patch."""
    row = w.shape[2] * w.shape[3]
    pieces = -(-w.shape[1] * row // PIECE)
    return row <= PIECE < w.shape[1] * row and (w.shape[1] - pieces) * up(w.shape[0], GROUP) <= FEW_ZEROS


def _lag(depth: int, width: int) -> int:
    """Pixels whose operands are still read when the last is written: single rows finish what is no block of four."""
    return int(depth > PIECE and width % 4 != 0)


def _scratch(w: Array) -> int:
    """Bytes of a panel of four pixels, of a patch to gather one from, of rows of whole groups of channels."""
    depth, channels = up(w.shape[1], PIECE), up(len(w), GROUP)
    patch = PIECE if depth == PIECE else depth + PIECE
    return 4 * depth + patch + (0 if channels == len(w) else GROUP * channels)


def fully_connected(graph: Graph, node: Node) -> Call | None:
    """A product of int8 rows by constant weights: many rows are a convolution's pixels."""
    op = node.op
    assert isinstance(op, ops.FullyConnected)
    found = _known(graph, node)
    if found is None or op.requant is None:
        return None
    w, bias, e = found
    count, channels = graph.types[node.inputs[0]].shape[0], up(len(w), GROUP)
    near = distance(np.arange(count) * w.shape[1], len(w), 1 if count < GROUP else _lag(w.shape[1], count))
    small = nibbles(graph, node)
    grouped = _grouped(graph, node, small)
    operands = (node.inputs[0], small or panels(w), table(bias, e, channels))
    if count >= GROUP:
        params = _fields(op, (1, 1, count, w.shape[1]), (1, 1, count, len(w)), e.rounding, grouped=grouped)
        return Call(
            "bitship_mve_conv2d_int4" if small else "bitship_mve_conv2d",
            params,
            operands,
            node.output,
            _scratch(w),
            (near, None, None),
        )
    params = struct(
        "mve_dense",
        rows=count,
        depth=w.shape[1],
        channels=len(w),
        output_zero_point=op.requant.output_zero_point,
        qmin=op.requant.qmin,
        qmax=op.requant.qmax,
        rounding=int(e.rounding),
        grouped=grouped,
    )
    function = "bitship_mve_fully_connected_int4" if small else "bitship_mve_fully_connected"
    return Call(function, params, operands, node.output, 0, (near, None, None))


def _enlarged(op: ops.DepthwiseConv2D, w: Array, bias: Ints, e: Epilogue) -> tuple[Array, Ints, Epilogue] | None:
    """Return weights of four bits sixteen times as large, with an epilogue that shifts right: the same bits."""
    requant = sixteenth(op.requant)
    larger = None if requant is None else epilogue(requant, len(w))
    reach = (np.abs(w.astype(np.int64)).sum(1) * 255 + np.abs(bias)) << SIXTEENTH
    if larger is None or not fits(w, Packing()) or reach.max() >= 1 << 31:
        return None
    return (w.astype(np.int16) << SIXTEENTH).astype(np.int8), bias << SIXTEENTH, larger


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
    found = _known(graph, node, depth_last=False)
    if found is None or graph.types[node.inputs[1]].shape[3] != 1:
        return None
    if found[2].rounding >= Rounding.SINGLE_ANY:
        found = _enlarged(op, *found)
        if found is None or found[2].rounding >= Rounding.SINGLE_ANY:
            return None
    taps, bias, e = found[0].T, found[1], found[2]
    x, out, w = graph.types[node.inputs[0]], graph.types[node.output], graph.types[node.inputs[1]]
    counted = len(taps) != NINE or not pairs_fit(taps.astype(np.int64))
    together = 0 if counted else _together(x.shape[3], op.stride[1])
    scratch = up(x.shape[3] * max(together, 1), PIECE) + (up(4 * len(taps), PIECE) if counted else 0)
    return Call(
        "bitship_mve_depthwise_conv2d",
        _window(op, x, out, w.shape[:2], e.rounding, together=together),
        (node.inputs[0], stream(taps, bias, e, max(together, 1), counted)),
        node.output,
        scratch,
        (_distance(op, x, out, 1), None),
    )


SHORT_SUM = 256  # codes whose sum int16 holds


def pool(graph: Graph, node: Node) -> Call | None:
    """An average or a maximum of int8."""
    op = node.op
    assert isinstance(op, ops.AvgPool2D | ops.MaxPool2D)
    x, out = graph.types[node.inputs[0]], graph.types[node.output]
    if x.dtype is not DType.INT8 or op.kernel[1] > SHORT_SUM:
        return None
    name, params, _ = plain_pool(op, out, [x], 1)
    return Call(f"bitship_mve_{name}", params, node.inputs, node.output, 0, (_distance(op, x, out, 1),))
