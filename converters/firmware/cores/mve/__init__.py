"""Kernels for Arm's M-profile vector extension (Armv8.1-M): which nodes they take, and their constants, packed."""

from collections.abc import Callable, Mapping

from bitship.converters.firmware.cores.mve import elementwise, windows
from bitship.graph import Graph, Node, ops
from bitship.graph.base import Op
from bitship.graph.calls import Call

FAMILY: Mapping[type[Op], Callable[[Graph, Node], Call | None]] = {
    ops.Conv2D: windows.conv2d,
    ops.DepthwiseConv2D: windows.depthwise,
    ops.FullyConnected: windows.fully_connected,
    ops.AvgPool2D: windows.pool,
    ops.MaxPool2D: windows.pool,
    ops.Add: elementwise.total,
    ops.Sub: elementwise.total,
    ops.Mul: elementwise.product,
    ops.Pad: elementwise.pad,
    ops.ReduceSum: elementwise.reduce_sum,
    ops.Table: elementwise.table,
}

# Function without its prefix to the sources it needs, relative to firmware/src.
_CONV2D = ("mve/conv2d.c", "mve/block.c", "mve/dense.c")
FILES: dict[str, tuple[str, ...]] = {
    "mve_conv2d": _CONV2D,
    "mve_conv2d_int4": (*_CONV2D, "mve/int4.c"),
    "mve_fully_connected_int4": (*_CONV2D, "mve/int4.c"),
    "mve_depthwise_conv2d": ("mve/depthwise_conv2d.c", "mve/depthwise.c"),
    "mve_fully_connected": ("mve/dense.c",),
    **dict.fromkeys(("mve_add", "mve_add_linear", "mve_mul"), ("mve/binary.c",)),
    **dict.fromkeys(("mve_avg_pool2d", "mve_max_pool2d"), ("mve/pool.c",)),
    "mve_pad": ("mve/layout.c",),
    "mve_reduce_sum": ("mve/reduce.c",),
    "mve_table": ("mve/table.c",),
}
HEADERS: tuple[str, ...] = (
    "mve/binary.h",
    "mve/block.h",
    "mve/dense.h",
    "mve/depthwise.h",
    "mve/gather.h",
    "mve/loops.h",
    "mve/mve.h",
)
