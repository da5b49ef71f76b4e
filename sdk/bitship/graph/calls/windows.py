"""Convolutions, pools, fully connected layers and matrix products as kernel calls."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from bitship.errors import UnsupportedError
from bitship.graph import ops
from bitship.graph.base import TensorType
from bitship.graph.calls.structs import (
    BLOCK,
    WIDE_TILE,
    Call,
    CStruct,
    CValue,
    Lowered,
    Packed,
    Types,
    dtype,
    rescale,
    struct,
)
from bitship.graph.dtypes import DType
from bitship.graph.ir import Graph, Node

_WINDOW = {
    **dict.fromkeys(("batch", "in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "kernel_h", "kernel_w"), 1),
    **dict.fromkeys(("stride_h", "stride_w", "dilation_h", "dilation_w"), 1),
    **dict.fromkeys(("pad_top", "pad_left"), 0),
    **dict.fromkeys(("groups", "tile"), 1),
    **dict.fromkeys(("input_zero_point", "weight_zero_point", "weight_group", "division", "qmin", "qmax"), 0),
}


def _window(x: TensorType, **fields: CValue) -> CStruct:
    return struct("window", x_dtype=dtype(x.dtype), **{**_WINDOW, "requant": None, **fields})


def _geometry(x: TensorType, out: TensorType, kernel: Sequence[int], op: Any) -> dict[str, CValue]:
    dilation = getattr(op, "dilation", (1, 1))
    return dict(
        zip(
            ("batch", "in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "kernel_h", "kernel_w"),
            (*x.shape, *out.shape[1:], *kernel),
            strict=True,
        ),
        stride_h=op.stride[0],
        stride_w=op.stride[1],
        dilation_h=dilation[0],
        dilation_w=dilation[1],
        pad_top=op.padding[0],
        pad_left=op.padding[2],
    )


def _dot(
    op: Any, geometry: dict[str, CValue], x: TensorType, depth: int, pixels: int, tile: int
) -> tuple[CStruct, int]:
    """Return the parameters of a conv2d call and its scratch in bytes (bitship_conv2d_scratch_bytes)."""
    if x.dtype is DType.INT16 and op.input_zero_point != 0:
        raise UnsupportedError(f"{op.name}: an int16 input with zero point {op.input_zero_point}; 0 is allowed")
    tile = 1 if pixels == 1 else tile
    if op.weight_zero_point and depth > (511 if x.dtype is DType.INT16 else 65536):
        tile = WIDE_TILE  # small tiles' raw sums could leave int32
    step = -(-depth // 16) * 16 if tile == WIDE_TILE else depth
    widened = 2 if tile == WIDE_TILE else 0
    params = _window(
        x,
        **geometry,
        tile=tile,
        input_zero_point=op.input_zero_point,
        weight_zero_point=op.weight_zero_point,
        requant=rescale(op.requant),
    )
    return params, step * 2 * (tile + widened)


def conv2d(op: ops.Conv2D, out: TensorType, types: Types, tile: int) -> Lowered:
    """A convolution."""
    x, w = types[0], types[1]
    geometry = _geometry(x, out, w.shape[1:3], op) | {"groups": op.groups}
    params, scratch = _dot(op, geometry, x, prod(w.shape[1:]), out.shape[1] * out.shape[2], tile)
    return "conv2d", params, scratch


def fully_connected(op: ops.FullyConnected, out: TensorType, types: Types, tile: int) -> Lowered:
    """A convolution of one pixel per row."""
    rows, depth = types[0].shape
    geometry: dict[str, CValue] = {"in_w": rows, "out_w": rows, "in_c": depth, "out_c": out.shape[1]}
    params, scratch = _dot(op, geometry, types[0], depth, rows, tile)
    return "conv2d", params, scratch


def fully_connected_row(op: ops.FullyConnected, node: Node, graph: Graph) -> Call | None:
    """One row, without scratch: the input's zero point is in the bias; None for more rows, or computed weights."""
    x, out = graph.types[node.inputs[0]], graph.types[node.output]
    rows, depth = x.shape
    w, bias = (graph.constants.get(name) for name in node.inputs[1:])
    if rows > 1 or w is None or bias is None:
        return None
    params = struct(
        "fully_connected",
        x_dtype=dtype(x.dtype),
        rows=rows,
        depth=depth,
        channels=out.shape[1],
        weight_zero_point=op.weight_zero_point,
        requant=rescale(op.requant),
    )
    off = op.input_zero_point * (w.astype(np.int64) - op.weight_zero_point).sum(axis=1)
    packed = Packed(((bias.astype(np.int64) - off) & 0xFFFFFFFF).astype("<u4").tobytes())
    overlap = (0 if out.shape[1] <= BLOCK else None, None, None)
    return Call("bitship_fully_connected", params, (node.inputs[0], node.inputs[1], packed), node.output, 0, overlap)


def depthwise(op: ops.DepthwiseConv2D, out: TensorType, types: Types, tile: int) -> Lowered:
    """A depthwise convolution."""
    params = _window(
        types[0],
        **_geometry(types[0], out, types[1].shape[:2], op),
        input_zero_point=op.input_zero_point,
        weight_zero_point=op.weight_zero_point,
        requant=rescale(op.requant),
    )
    return "depthwise_conv2d", params, 0


def pool(op: ops.AvgPool2D | ops.MaxPool2D, out: TensorType, types: Types, tile: int) -> Lowered:
    """Average or maximum of a window."""
    half_up = isinstance(op, ops.AvgPool2D) and op.rounding is ops.DivRounding.HALF_UP
    geometry = _geometry(types[0], out, op.kernel, op)
    return op.name, _window(types[0], **geometry, division=int(half_up), qmin=op.qmin, qmax=op.qmax), 0


def matmul(op: ops.MatMul, out: TensorType, types: Types, tile: int) -> Lowered:
    """A product of two matrices."""
    a, b = types
    params = struct(
        "matmul",
        a_dtype=dtype(a.dtype),
        batch=a.shape[0],
        rows=a.shape[1],
        depth=a.shape[2],
        columns=b.shape[2],
        a_zero_point=op.a_zero_point,
        b_zero_point=op.b_zero_point,
        requant=rescale(op.requant),
    )
    return "matmul", params, 0
