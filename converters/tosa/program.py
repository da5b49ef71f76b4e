"""From an integer graph to a TOSA program: one emitter for every op of the graph, in one table."""

from collections.abc import Callable, Mapping

import msgspec

from bitship.converters.tosa import elementwise, ivit, layout, norm, pool, products, reduce, softmax
from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import ELEMENTS, UINT8_OFFSET, Element, Value
from bitship.errors import UnsupportedError
from bitship.graph import Graph, ops, verify
from bitship.graph.base import Interval, Operand, TensorType
from bitship.graph.dtypes import DType

EMITTERS: dict[type[ops.Op], Callable[..., Value]] = {
    ops.Conv2D: products.conv2d,
    ops.DepthwiseConv2D: products.depthwise_conv2d,
    ops.FullyConnected: products.fully_connected,
    ops.MatMul: products.matmul,
    ops.Rescale: elementwise.rescale,
    ops.Add: elementwise.add,
    ops.Sub: elementwise.sub,
    ops.Mul: elementwise.mul,
    ops.Table: elementwise.table,
    ops.Clamp: elementwise.clamp,
    ops.Cast: elementwise.cast,
    ops.LogicalLeftShift: elementwise.left_shift,
    ops.ArithmeticRightShift: elementwise.right_shift,
    ops.AvgPool2D: pool.avg_pool2d,
    ops.MaxPool2D: pool.max_pool2d,
    ops.ReduceSum: reduce.reduce_sum,
    ops.ReduceMax: reduce.reduce_extreme,
    ops.ReduceMin: reduce.reduce_extreme,
    ops.ReduceAny: reduce.reduce_extreme,
    ops.ArgMax: reduce.argmax,
    ops.Pad: layout.pad,
    ops.Concat: layout.concat,
    ops.Slice: layout.take_slice,
    ops.Reshape: layout.reshape,
    ops.Transpose: layout.transpose,
    ops.Gather: layout.gather,
    ops.Resize: elementwise.resize,
    ops.Softmax: softmax.softmax,
    ops.TableSoftmax: softmax.table_softmax,
    ops.SoftmaxMatMul: softmax.softmax_matmul,
    ops.LayerNorm: norm.layer_norm,
    ops.RmsNorm: norm.rms_norm,
    ops.ILayerNorm: norm.i_layer_norm,
    ops.Shiftmax: ivit.shiftmax,
    ops.ShiftGelu: ivit.shiftgelu,
}

# The emitters that must know whether their operand is a uint8, which a program holds less 128.
UNSIGNED = (ops.Rescale, ops.Clamp, ops.Cast, ops.Pad)


def emit(graph: Graph, ranges: Mapping[str, Interval] | None = None) -> Emitter:
    """Return the program of a graph; UnsupportedError names the node that TOSA's integer profile cannot hold.

    ranges  of every tensor, where the graph is a part of one that ``verify`` has proven; its own proof when None

    Every tensor of the graph keeps its name, its shape (a scalar has shape [1]) and the range ``verify`` has proven.
    """
    e = Emitter()
    ranges = verify(graph) if ranges is None else ranges
    values: dict[str, Value] = {}
    for port in graph.inputs:
        if port.type.dtype is DType.INT64:
            raise UnsupportedError(f"tosa: input '{port.name}' is int64, which TOSA 1.0 has not; int32 is allowed")
        value = e.input(port.name, port.type.shape or (1,), ELEMENTS[port.type.dtype])
        values[port.name] = _known(value, ranges[port.name], port.type.dtype)
    for name, array in graph.constants.items():
        if graph.types[name].dtype is DType.UINT8:
            array = array.astype("int16") - UINT8_OFFSET
        element = _element(name, graph.types[name], ranges[name])
        values[name] = e.const(array, element)
    for node in graph.nodes:
        e.scope = node.output
        operands = [Operand(graph.types[i], ranges[i], graph.constants.get(i)) for i in node.inputs]
        e.accumulator = _accumulator(node.op, operands)
        extra = {}
        if isinstance(node.op, UNSIGNED) and graph.types[node.inputs[0]].dtype is DType.UINT8:
            extra["unsigned"] = True
        out = graph.types[node.output]
        element = _element(node.output, out, ranges[node.output])
        found = EMITTERS[type(node.op)](e, node.op, *(values[i] for i in node.inputs), **extra)
        assert (found.shape, found.element) == (out.shape or (1,), element), f"{node.output}: {found} for {out}"
        values[node.output] = _known(found, ranges[node.output], out.dtype)
    for i, port in enumerate(graph.outputs):
        e.scope = f"output{i}"
        e.output(values[port.name])
    return e


def _known(value: Value, known: Interval, dtype: DType) -> Value:
    offset = UINT8_OFFSET if dtype is DType.UINT8 else 0
    return value.within(known.lo - offset, known.hi - offset)


def _accumulator(op: ops.AnyOp, operands: list[Operand]) -> tuple[int, int] | None:
    """Return the proven range of an op's value before its epilogue; None for ops without one."""
    if getattr(op, "requant", None) is None or isinstance(op, ops.SoftmaxMatMul):
        return None
    bare = msgspec.structs.replace(op, requant=None)
    found = bare.bounds(bare.infer(*(o.type for o in operands)), *operands)
    return found.lo, found.hi


def _element(name: str, t: TensorType, known: Interval) -> Element:
    low, high = Element.INT32.range
    if t.dtype is DType.INT64 and not (low <= known.lo and known.hi <= high):
        raise UnsupportedError(
            f"tosa: tensor '{name}' is int64 and can reach [{known.lo}, {known.hi}]; TOSA 1.0 holds int32"
        )
    return ELEMENTS[t.dtype]
