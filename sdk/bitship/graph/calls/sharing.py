"""Which operands a plain kernel's output may lie over, and how closely: read off the order of the loops in C.

Every function here says in terms of ``overlap.distance`` what its kernel reads, and when. A kernel computes a block of
at most 16 (a microcontroller) or 64 channels at a time, all of it read before any of it is written; a pixel of more
channels than that is still being read while its first block is written, which is a lag of 1.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from bitship.graph import ops
from bitship.graph.base import Ints, Op, TensorType
from bitship.graph.calls.overlap import Walk, distance, elementwise_distance, window_distance
from bitship.graph.calls.structs import BLOCK, CStruct, Types, steps

Overlap = tuple[int | None, ...]


def _first(of: int | None, types: Types) -> Overlap:
    """Only the first operand may be overwritten."""
    return (of, *(None for _ in types[1:]))


def _pixel(t: TensorType) -> int:
    return (t.shape or (1,))[-1] * t.dtype.itemsize


def _lag(channels: int) -> int:
    return int(channels > BLOCK)


def _window(op: Any, x: TensorType, out: TensorType, lag: int) -> int:
    """An op with a stride and a padding of rows and columns, in raster order of its pixels."""
    rows = Walk(x.shape[1], out.shape[1], op.stride[0], op.padding[0])
    columns = Walk(x.shape[2], out.shape[2], op.stride[1], op.padding[2])
    return window_distance(x.shape[0], rows, columns, _pixel(x), _pixel(out), lag)


def _conv2d(op: ops.Conv2D, out: TensorType, types: Types, params: CStruct) -> Overlap:
    """All patches of a tile are gathered before any of its pixels is written, unless it has groups."""
    tile = dict(params.fields)["tile"]
    assert isinstance(tile, int)
    return _first(_window(op, types[0], out, tile if op.groups > 1 else 0), types)


def _rows(types: Types, out: TensorType, lag: int) -> Overlap:
    """Rows of the first operand into rows of the output."""
    x = types[0]
    count = x.size // x.shape[-1]
    return _first(distance(np.arange(count) * _pixel(x), _pixel(out), lag), types)


def _fully_connected(op: Op, out: TensorType, types: Types, params: CStruct) -> Overlap:
    return _rows(types, out, 0)


def _blocks(op: Any, out: TensorType, types: Types, params: CStruct) -> Overlap:
    """Depthwise convolutions and pools: a pixel's blocks of channels one after the other."""
    return _first(_window(op, types[0], out, _lag(out.shape[-1])), types)


def _matmul(op: Op, out: TensorType, types: Types, params: CStruct) -> Overlap:
    """Two rows at a time, read once per block of columns."""
    return _rows(types, out, 2 * _lag(out.shape[-1]))


def _softmax_matmul(op: Op, out: TensorType, types: Types, params: CStruct) -> Overlap:
    """The codes of a tile's rows are in scratch before any row is written."""
    return _rows(types, out, 0)


def _elementwise(op: Op, out: TensorType, types: Types, params: CStruct) -> Overlap:
    """Element by element; a norm or softmax reads its whole row before, and each element once more."""
    size = out.dtype.itemsize
    return tuple(
        elementwise_distance(out.size, t.dtype.itemsize, size, 0) if t.shape == out.shape else None for t in types
    )


def _unary(op: Op, out: TensorType, types: Types, params: CStruct) -> Overlap:
    return _first(elementwise_distance(out.size, types[0].dtype.itemsize, out.dtype.itemsize, 0), types)


def _table_softmax(op: ops.TableSoftmax, out: TensorType, types: Types, params: CStruct) -> Overlap:
    """A masked row is read once more after it has been written."""
    return _rows(types, out, 1) if op.masked else _unary(op, out, types, params)


def _reduce(op: Any, out: TensorType, types: Types, params: CStruct) -> Overlap:
    """Element after element, where every output element reads a run of its own."""
    rank = len(types[0].shape)
    kept = [i for i in range(rank) if i not in op.axes and types[0].shape[i] > 1]
    if any(i > a for i in kept for a in op.axes if types[0].shape[a] > 1) or rank - 1 not in op.axes:
        return _first(None, types)
    run = types[0].size // out.size * types[0].dtype.itemsize
    return _first(distance(np.arange(out.size) * run, out.dtype.itemsize, 0), types)


def _argmax(op: ops.ArgMax, out: TensorType, types: Types, params: CStruct) -> Overlap:
    x = types[0]
    if prod(x.shape[op.axis + 1 :]) > 1:
        return _first(None, types)
    run = x.shape[op.axis] * x.dtype.itemsize
    return _first(distance(np.arange(out.size) * run, out.dtype.itemsize, 0), types)


def _slice(op: ops.Slice, out: TensorType, types: Types, params: CStruct) -> Overlap:
    """Element by element, or a row at once."""
    at: Ints = np.zeros(1, np.int64)
    for start, step, size, count in zip(op.start, op.steps(), steps(types[0].shape), out.shape, strict=True):
        at = (at[:, None] + (start + step * np.arange(count)) * size).reshape(-1)
    item = out.dtype.itemsize
    return _first(distance(at * item, item, 0), types)


def _pad(op: ops.Pad, out: TensorType, types: Types, params: CStruct) -> Overlap:
    """Row by row; a row's padding in front is written before the row is read."""
    x = types[0]
    inside = np.ones(1, bool)
    for (before, _), extent, padded in zip(op.padding[:-1], x.shape[:-1], out.shape[:-1], strict=True):
        index = np.arange(padded)
        inside = (inside[:, None] & (index >= before) & (index < before + extent)).reshape(-1)
    read = np.cumsum(inside) - inside  # rows of x read before this one
    return _first(distance(read * _pixel(x), _pixel(out), 1), types)


def _resize(op: ops.Resize, out: TensorType, types: Types, params: CStruct) -> Overlap:
    """Pixel by pixel from four corners."""
    x = types[0]
    rows, columns = (np.minimum(t.lo, t.hi) for t in (op.rows, op.columns))
    image = np.arange(x.shape[0]) * x.shape[1]
    first = (image[:, None, None] + rows[:, None]) * x.shape[2] + columns
    return _first(distance(first.reshape(-1) * _pixel(x), _pixel(out), _lag(out.shape[-1])), types)


_SHARING: Mapping[type[Op], Callable[[Any, TensorType, Types, CStruct], Overlap]] = {
    ops.Conv2D: _conv2d,
    ops.FullyConnected: _fully_connected,
    **dict.fromkeys((ops.DepthwiseConv2D, ops.AvgPool2D, ops.MaxPool2D), _blocks),
    ops.MatMul: _matmul,
    ops.SoftmaxMatMul: _softmax_matmul,
    **dict.fromkeys((ops.Add, ops.Sub, ops.Mul), _elementwise),
    **dict.fromkeys((ops.Rescale, ops.Table, ops.Clamp, ops.Cast), _unary),
    **dict.fromkeys((ops.LogicalLeftShift, ops.ArithmeticRightShift), _unary),
    **dict.fromkeys((ops.Softmax, ops.Shiftmax, ops.ShiftGelu), _unary),
    **dict.fromkeys((ops.LayerNorm, ops.RmsNorm, ops.ILayerNorm), _unary),
    ops.TableSoftmax: _table_softmax,
    **dict.fromkeys((ops.ReduceSum, ops.ReduceMax, ops.ReduceMin, ops.ReduceAny), _reduce),
    ops.ArgMax: _argmax,
    ops.Slice: _slice,
    ops.Pad: _pad,
    ops.Resize: _resize,
}


def overlap(op: Op, out: TensorType, types: Types, params: CStruct) -> Overlap:
    """Return ``Call.overlap`` of a plain kernel's call; () where no operand may be overwritten.

    Two types of more than one byte that differ never share: C lets a compiler move reads of one past writes of the
    other.
    """
    found = _SHARING[type(op)](op, out, types, params) if type(op) in _SHARING else ()
    found = tuple(None if d is None or not _compatible(t, out) else d for d, t in zip(found, types, strict=bool(found)))
    return found if any(d is not None for d in found) else ()


def _compatible(a: TensorType, b: TensorType) -> bool:
    return a.dtype is b.dtype or 1 in (a.dtype.itemsize, b.dtype.itemsize)
