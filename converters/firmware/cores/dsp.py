"""Kernels for Arm's DSP extension (Armv7E-M, Armv8-M)."""

from collections.abc import Callable, Mapping

from bitship.converters.firmware.cores import dsp_depthwise, dsp_elementwise, dsp_layers, dsp_matmul, dsp_pool
from bitship.graph import Graph, Node
from bitship.graph.base import Op
from bitship.graph.calls import Call
from bitship.graph.ops import (
    Add,
    AvgPool2D,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    MatMul,
    MaxPool2D,
    Mul,
    ReduceSum,
    Rescale,
    SoftmaxMatMul,
    Sub,
)

FAMILY: Mapping[type[Op], Callable[[Graph, Node], Call | None]] = {
    Conv2D: dsp_layers.conv2d,
    DepthwiseConv2D: dsp_depthwise.depthwise_conv2d,
    FullyConnected: dsp_layers.fully_connected,
    Add: dsp_elementwise.total,
    Sub: dsp_elementwise.total,
    Mul: dsp_elementwise.mul,
    Rescale: dsp_elementwise.rescale,
    AvgPool2D: dsp_pool.pool,
    MatMul: dsp_matmul.matmul,
    SoftmaxMatMul: dsp_matmul.softmax_matmul,
    MaxPool2D: dsp_pool.pool,
    ReduceSum: dsp_pool.reduce_sum,
}

# Function without its prefix to the sources it needs, relative to firmware/src.
_CONV2D = ("dsp/conv2d.c", "dsp/dot.c", "dsp/patch.c")
FILES: dict[str, tuple[str, ...]] = {
    "dsp_conv2d": _CONV2D,
    "dsp_conv2d_int4": (*_CONV2D, "dsp/int4.c"),
    "dsp_fully_connected": ("dsp/dense.c",),
    **dict.fromkeys(("dsp_matmul", "dsp_softmax_matmul"), (*_CONV2D, "dsp/matmul.c", "attention.c")),
    "dsp_depthwise_conv2d": ("dsp/depthwise.c",),
    **dict.fromkeys(("dsp_sum", "dsp_sum16", "dsp_sum_tables", "dsp_mul"), ("dsp/elementwise.c",)),
    **dict.fromkeys(("dsp_avg_pool2d", "dsp_max_pool2d", "dsp_reduce_sum"), ("dsp/pool.c",)),
}
HEADERS: tuple[str, ...] = ("dsp/acle.h", "dsp/dot.h", "dsp/loops.h", "dsp/patch.h")
