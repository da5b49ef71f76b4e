"""Which nodes are uint8 operators in the file.

The graph holds every 8-bit tensor as int8, a uint8 one 128 lower. TFLite's uint8 kernels take weights with a zero
point, one scale a tensor, and round means up; its int8 kernels take weights without one, and one scale a channel. So
weights and pools tell which kind a node was, and what only moves or mixes codes follows what it reads.
"""

from bitship.graph import DType, Graph, Node, ops
from bitship.graph.ops import DivRounding, Rescale

_WEIGHTED = (ops.Conv2D, ops.DepthwiseConv2D, ops.FullyConnected)
_FOLLOWING = (*_WEIGHTED, ops.Add, ops.Sub, ops.Mul, ops.MaxPool2D, ops.Pad, ops.Softmax, ops.Concat, ops.Rescale)
_FOLLOWING += (ops.Reshape, ops.Transpose, ops.Slice)  # type: ignore[assignment]
_OFFSET = 128


def steps_up(node: Node) -> bool:
    """Whether a node makes the uint8 codes of int8 ones, 128 higher."""
    op = node.op
    return _copies(op, 0, _OFFSET, DType.UINT8)


def steps_down(graph: Graph, node: Node) -> bool:
    """Whether a node makes the int8 codes of uint8 ones, 128 lower."""
    return _copies(node.op, _OFFSET, 0, DType.INT8) and graph.types[node.inputs[0]].dtype is DType.UINT8


def _copies(op: object, zero_point: int, result: int, dtype: DType) -> bool:
    return (
        isinstance(op, Rescale)
        and (op.multiplier, op.shift, op.pre_shift) == ((1 << 30,), (1,), 0)
        and (op.input_zero_point, op.output_zero_point, op.dtype) == (zero_point, result, dtype)
        and (op.qmin, op.qmax) == (dtype.qmin, dtype.qmax)
    )


def unsigned(graph: Graph) -> frozenset[str]:
    """Return the int8 results that are uint8 in the file, should their node be one operator."""
    found: set[str] = set()
    for node in graph.nodes:
        if graph.types[node.output].dtype is not DType.INT8:
            continue
        computed = [name for name in node.inputs if name not in graph.constants]
        follows = bool(computed) and all(name in found for name in computed)
        if steps_down(graph, node) or _must(node.op) or (follows and _may(node.op)):
            found.add(node.output)
    return frozenset(found)


def _one_scale(op: object) -> bool:
    requant = getattr(op, "requant", None)
    return requant is not None and not requant.per_channel


def _must(op: object) -> bool:
    """Whether only a uint8 kernel computes an op."""
    if isinstance(op, ops.Conv2D | ops.DepthwiseConv2D):
        return op.weight_zero_point != 0 and _one_scale(op)
    return isinstance(op, ops.AvgPool2D) and op.rounding is DivRounding.HALF_UP


def _may(op: object) -> bool:
    """Whether there is a uint8 kernel for an op."""
    return isinstance(op, _FOLLOWING) and (_one_scale(op) or not isinstance(op, _WEIGHTED))  # Native checks the rest
