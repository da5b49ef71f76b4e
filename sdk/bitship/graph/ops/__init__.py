"""The closed op set of the integer graph, one file per family, and the one table that lists it.

A new op is a class in one of these files (or a new one) plus its line in ``OPS`` and in ``AnyOp``.
"""

from bitship.graph.base import Op
from bitship.graph.ops.attention import SoftmaxMatMul, TableSoftmax
from bitship.graph.ops.conv import Conv2D, DepthwiseConv2D
from bitship.graph.ops.elementwise import (
    Add,
    ArithmeticRightShift,
    Cast,
    Clamp,
    LogicalLeftShift,
    Mul,
    ShiftRounding,
    Sub,
    Table,
)
from bitship.graph.ops.ivit import ILayerNorm, ShiftGelu, Shiftmax
from bitship.graph.ops.layout import Concat, Gather, Pad, Reshape, Slice, Transpose
from bitship.graph.ops.matmul import FullyConnected, MatMul
from bitship.graph.ops.norm import LayerNorm, RmsNorm
from bitship.graph.ops.pool import AvgPool2D, DivRounding, MaxPool2D
from bitship.graph.ops.reduce import ArgMax, ReduceAny, ReduceMax, ReduceMin, ReduceSum
from bitship.graph.ops.rescale import Rescale, Rounding
from bitship.graph.ops.resize import AxisMap, Resize
from bitship.graph.ops.softmax import Softmax

AnyOp = (
    Conv2D
    | DepthwiseConv2D
    | FullyConnected
    | MatMul
    | Rescale
    | Add
    | Sub
    | Mul
    | Table
    | Clamp
    | Cast
    | LogicalLeftShift
    | ArithmeticRightShift
    | AvgPool2D
    | MaxPool2D
    | ReduceSum
    | ReduceMax
    | ReduceMin
    | ReduceAny
    | ArgMax
    | Pad
    | Concat
    | Slice
    | Reshape
    | Transpose
    | Gather
    | Resize
    | Softmax
    | TableSoftmax
    | SoftmaxMatMul
    | LayerNorm
    | RmsNorm
    | Shiftmax
    | ShiftGelu
    | ILayerNorm
)

OPS: tuple[type[Op], ...] = tuple(AnyOp.__args__)

__all__ = [
    "OPS",
    "Add",
    "AnyOp",
    "ArgMax",
    "ArithmeticRightShift",
    "AvgPool2D",
    "AxisMap",
    "Cast",
    "Clamp",
    "Concat",
    "Conv2D",
    "DepthwiseConv2D",
    "DivRounding",
    "FullyConnected",
    "Gather",
    "ILayerNorm",
    "LayerNorm",
    "LogicalLeftShift",
    "MatMul",
    "MaxPool2D",
    "Mul",
    "Op",
    "Pad",
    "ReduceAny",
    "ReduceMax",
    "ReduceMin",
    "ReduceSum",
    "Rescale",
    "Reshape",
    "Resize",
    "RmsNorm",
    "Rounding",
    "ShiftGelu",
    "ShiftRounding",
    "Shiftmax",
    "Slice",
    "Softmax",
    "SoftmaxMatMul",
    "Sub",
    "Table",
    "TableSoftmax",
    "Transpose",
]
