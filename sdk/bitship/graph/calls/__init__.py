"""What each node of a graph is in terms of the C kernels: function, parameter struct, operands, scratch.

The host runs these calls through the shared library; the firmware converter prints them as C. One lowering for both,
so what is proven of one holds for the other.
"""

from collections.abc import Callable
from typing import Any

from bitship.errors import UnsupportedError
from bitship.graph import ops
from bitship.graph.base import Op, TensorType
from bitship.graph.calls import elementwise, layout, transformer, windows
from bitship.graph.calls.sharing import overlap
from bitship.graph.calls.structs import (
    SMALL_TILE,
    WIDE_TILE,
    Call,
    CArray,
    CStruct,
    CValue,
    Lowered,
    Operand,
    Packed,
    Types,
)
from bitship.graph.ir import Graph, Node

_LOWER: dict[type[Op], Callable[[Any, TensorType, Types, int], Lowered]] = {
    ops.Conv2D: windows.conv2d,
    ops.DepthwiseConv2D: windows.depthwise,
    ops.FullyConnected: windows.fully_connected,
    ops.MatMul: windows.matmul,
    ops.Rescale: elementwise.rescale_op,
    ops.Add: elementwise.binary,
    ops.Sub: elementwise.binary,
    ops.Mul: elementwise.binary,
    ops.Table: elementwise.unary,
    ops.Clamp: elementwise.unary,
    ops.Cast: elementwise.unary,
    ops.LogicalLeftShift: elementwise.unary,
    ops.ArithmeticRightShift: elementwise.unary,
    ops.AvgPool2D: windows.pool,
    ops.MaxPool2D: windows.pool,
    ops.ReduceSum: elementwise.reduce,
    ops.ReduceMax: elementwise.reduce,
    ops.ReduceMin: elementwise.reduce,
    ops.ReduceAny: elementwise.reduce,
    ops.ArgMax: elementwise.argmax,
    ops.Pad: layout.pad,
    ops.Slice: layout.slice,
    ops.Reshape: layout.reshape,
    ops.Transpose: layout.transpose,
    ops.Gather: layout.gather,
    ops.Resize: layout.resize,
    ops.Softmax: transformer.softmax,
    ops.TableSoftmax: transformer.table_softmax,
    ops.SoftmaxMatMul: transformer.softmax_matmul,
    ops.LayerNorm: transformer.norm,
    ops.RmsNorm: transformer.norm,
    ops.ILayerNorm: transformer.norm,
    ops.Shiftmax: transformer.shiftmax,
    ops.ShiftGelu: transformer.shiftgelu,
}


def lower(graph: Graph, node: Node, tile: int) -> tuple[Call, ...]:
    """Return the kernel calls of one node, in order.

    tile  pixels a convolution gathers at once: WIDE_TILE for a vectorising host, SMALL_TILE for a microcontroller
    Raises UnsupportedError for a combination of dtypes that the kernels do not have.
    """
    types = [graph.types[i] for i in node.inputs]
    try:
        if isinstance(node.op, ops.Concat):
            return layout.concat(node.op, node, types)
        if isinstance(node.op, ops.FullyConnected) and tile == SMALL_TILE:
            call = windows.fully_connected_row(node.op, node, graph)
            if call is not None:
                return (call,)
        out = graph.types[node.output]
        function, params, scratch = _LOWER[type(node.op)](node.op, out, types, tile)
    except UnsupportedError as e:
        raise UnsupportedError(f"{graph.name}: node '{node.output}': {e}") from None
    shared = overlap(node.op, out, types, params)
    return (Call(f"bitship_{function}", params, node.inputs, node.output, scratch, shared),)


def operand_overlaps(calls: tuple[Call, ...]) -> dict[str, int]:
    """Return ``Call.overlap`` by tensor for a node's calls; a node of several calls shares nothing.

    A tensor that is read as two operands, one of which must stay, stays.
    """
    if len(calls) != 1 or not calls[0].overlap:
        return {}
    found: dict[str, int] = {}
    pairs = list(zip(calls[0].operands, calls[0].overlap, strict=True))
    for operand, distance in pairs:
        if isinstance(operand, str) and distance is not None:
            found[operand] = max(distance, found.get(operand, distance))
    return {name: d for name, d in found.items() if (name, None) not in pairs}


__all__ = [
    "SMALL_TILE",
    "WIDE_TILE",
    "CArray",
    "CStruct",
    "CValue",
    "Call",
    "Operand",
    "Packed",
    "lower",
    "operand_overlaps",
]
