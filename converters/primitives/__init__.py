"""The graph in terms of few integer primitives, for runtimes that have no op with the graph's bits.

``Machine`` is what a runtime must compute exactly; ``LOWERINGS`` writes every op of the graph with it. A back end
derives from ``Machine`` and puts ops of its own in front of ``LOWERINGS`` where they give the same bits.
"""

from collections.abc import Callable

from bitship.converters.primitives import elementwise, ivit, layout, norm, products, reductions, softmax
from bitship.converters.primitives.machine import Machine, Value
from bitship.graph import ops

Lowering = Callable[..., Value]

LOWERINGS: dict[type[ops.Op], Lowering] = {
    ops.Conv2D: products.conv2d,
    ops.DepthwiseConv2D: products.depthwise_conv2d,
    ops.FullyConnected: products.fully_connected,
    ops.MatMul: products.matmul,
    ops.Rescale: elementwise.requantize,
    ops.Add: elementwise.add,
    ops.Sub: elementwise.sub,
    ops.Mul: elementwise.mul,
    ops.Table: elementwise.table,
    ops.Clamp: elementwise.clamp,
    ops.Cast: elementwise.cast,
    ops.LogicalLeftShift: elementwise.left_shift,
    ops.ArithmeticRightShift: elementwise.right_shift,
    ops.AvgPool2D: reductions.avg_pool2d,
    ops.MaxPool2D: reductions.max_pool2d,
    ops.ReduceSum: reductions.reduce_sum,
    ops.ReduceMax: reductions.reduce_max,
    ops.ReduceMin: reductions.reduce_min,
    ops.ReduceAny: reductions.reduce_any,
    ops.ArgMax: reductions.argmax,
    ops.Pad: layout.pad,
    ops.Concat: layout.concat,
    ops.Slice: layout.take_slice,
    ops.Reshape: layout.reshape,
    ops.Transpose: layout.transpose,
    ops.Gather: layout.gather,
    ops.Resize: layout.resize,
    ops.Softmax: softmax.softmax,
    ops.TableSoftmax: softmax.table_softmax,
    ops.SoftmaxMatMul: softmax.softmax_matmul,
    ops.LayerNorm: norm.layer_norm,
    ops.RmsNorm: norm.rms_norm,
    ops.ILayerNorm: ivit.i_layer_norm,
    ops.Shiftmax: ivit.shiftmax,
    ops.ShiftGelu: ivit.shiftgelu,
}

__all__ = ["LOWERINGS", "Lowering", "Machine", "Value"]
