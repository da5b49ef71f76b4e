"""Real scales for the tensors of an integer graph, consistent with its multipliers.

A graph keeps scales at its ports alone; inside there are only factors. A delegate that computes from scales needs
them back. Ops that tie their operands (add, pools, mean, reshape) fix ratios between tensors; products with constant
weights leave their result's scale free, because the weights' scale takes up the rest.
"""

from collections.abc import Mapping

from bitship.errors import UnsupportedError
from bitship.graph import DType, Graph, Node
from bitship.graph.ops import (
    Add,
    AvgPool2D,
    Clamp,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    MaxPool2D,
    Mul,
    Pad,
    ReduceSum,
    Rescale,
    Reshape,
    Slice,
    Softmax,
    Sub,
    Transpose,
)

_WEIGHT_SCALE = 0.01  # the largest weight scale of a layer whose result's scale is free
_TOLERANCE = 1e-6

KEEPING = (AvgPool2D, MaxPool2D, Clamp, Concat, Pad, Reshape, Slice, Transpose)
WEIGHTED = (Conv2D, DepthwiseConv2D, FullyConnected)


class Real:
    """Scale and zero point of a tensor."""

    def __init__(self, scale: float, zero_point: int) -> None:
        self.scale = scale
        self.zero_point = zero_point


def factors(r: Rescale) -> list[float]:
    """Return the real factor of every multiplier, left shift included."""
    return [m * 2.0 ** (s - 31 + r.pre_shift) for m, s in zip(r.multiplier, r.shift, strict=True)]


def epilogue(node: Node) -> Rescale:
    """Return the epilogue of an accumulating op; UnsupportedError when it hands int32 on."""
    requant: Rescale | None = getattr(node.op, "requant", None)
    if requant is None or requant.dtype is not DType.INT8:
        raise UnsupportedError(f"node '{node.output}': {node.op.name} without an int8 result")
    return requant


def read_zero_points(node: Node) -> tuple[int, ...]:
    """Return the zero point a node reads each operand with; empty where it keeps its operand's."""
    op = node.op
    if isinstance(op, (*WEIGHTED, ReduceSum, Rescale)):
        return (op.input_zero_point,)
    if isinstance(op, Mul):
        return op.a_zero_point, op.b_zero_point
    if isinstance(op, Add | Sub):
        return (op.a.input_zero_point if op.a else 0), (op.b.input_zero_point if op.b else 0)
    return ()


class _Ratios:
    """Disjoint sets of tensors whose scales have a known ratio."""

    def __init__(self) -> None:
        self._up: dict[str, tuple[str, float]] = {}
        self.fixed: dict[str, float] = {}

    def find(self, name: str) -> tuple[str, float]:
        """Return (representative, scale of the tensor / scale of the representative)."""
        ratio = 1.0
        while name in self._up:
            name, r = self._up[name]
            ratio *= r
        return name, ratio

    def tie(self, a: str, b: str, ratio: float, node: Node) -> None:
        """Record ``scale(b) = ratio * scale(a)``; UnsupportedError when that contradicts what is known."""
        (ra, ka), (rb, kb) = self.find(a), self.find(b)
        wanted = ka * ratio / kb  # scale(rb) / scale(ra)
        if ra == rb:
            if abs(wanted - 1) > _TOLERANCE:
                raise UnsupportedError(f"node '{node.output}': no one scale satisfies its {node.op.name}")
            return
        self._up[rb] = (ra, wanted)
        if rb in self.fixed:
            self.fix(ra, self.fixed.pop(rb) / wanted)

    def fix(self, name: str, scale: float) -> None:
        """Set a scale; the first one of a set wins, the others only name the outputs."""
        root, ratio = self.find(name)
        self.fixed.setdefault(root, scale / ratio)

    def scale(self, name: str) -> float | None:
        """Return the scale of a tensor, None while its set is free."""
        root, ratio = self.find(name)
        return self.fixed[root] * ratio if root in self.fixed else None


def _tie(node: Node, graph: Graph, ratios: _Ratios) -> None:
    op, inputs, y = node.op, node.inputs, node.output
    if isinstance(op, KEEPING):
        for x in inputs:
            ratios.tie(inputs[0], x, 1.0, node)
        ratios.tie(inputs[0], y, 1.0, node)
    elif isinstance(op, Add | Sub):
        if op.a is None or op.b is None:
            raise UnsupportedError(f"node '{y}': {op.name} of operands that are not rescaled")
        fa, fb, out = factors(op.a)[0], factors(op.b)[0], factors(epilogue(node))[0]
        ratios.tie(inputs[0], inputs[1], fb / fa, node)
        ratios.tie(inputs[0], y, 1 / (fa * out), node)
    elif isinstance(op, ReduceSum):
        count = graph.types[inputs[0]].size // graph.types[y].size
        ratios.tie(inputs[0], y, 1 / (count * factors(epilogue(node))[0]), node)
    elif isinstance(op, Rescale):
        if op.dtype is not DType.INT8 or op.per_channel:
            raise UnsupportedError(f"node '{y}': rescale to {op.dtype.value} or per channel")
        ratios.tie(inputs[0], y, 1 / factors(op)[0], node)
    elif not isinstance(op, (*WEIGHTED, Mul, Softmax)):
        raise UnsupportedError(f"node '{y}': {op.name} has no float form")


def _free(node: Node, ratios: _Ratios) -> None:
    """Choose the scale of a result that nothing ties, in execution order."""
    y, op = node.output, node.op
    if ratios.scale(y) is not None:
        return
    if isinstance(op, Softmax):
        ratios.fix(y, 1 / 256)
        return
    known = [ratios.scale(x) for x in node.inputs[: 2 if isinstance(op, Mul) else 1]]
    product = 1.0
    for s in known:
        if s is None:
            raise UnsupportedError(f"node '{y}': the scale of an operand of {op.name} is not determined")
        product *= s
    top = max(factors(epilogue(node))) or 1.0
    ratios.fix(y, product * (_WEIGHT_SCALE if isinstance(op, WEIGHTED) else 1.0) / top)


def _zero_points(graph: Graph) -> dict[str, int]:
    found = {p.name: p.quant.zero_point for p in graph.inputs if p.quant}
    for node in graph.nodes:
        for name, zero_point in zip(node.inputs, read_zero_points(node), strict=False):
            if found.setdefault(name, zero_point) != zero_point:
                raise UnsupportedError(f"node '{node.output}': it reads '{name}' with another zero point than it has")
        if isinstance(node.op, KEEPING):
            found[node.output] = found.setdefault(node.inputs[0], 0)
            if isinstance(node.op, Concat) and any(found.get(i) != found[node.output] for i in node.inputs):
                raise UnsupportedError(f"node '{node.output}': concat of different zero points")
        elif isinstance(node.op, Softmax):
            found.setdefault(node.inputs[0], 0)
            found[node.output] = -128
        else:
            rescale = node.op if isinstance(node.op, Rescale) else epilogue(node)
            found[node.output] = rescale.output_zero_point
    return found


def recover(graph: Graph) -> Mapping[str, Real]:
    """Return scale and zero point of every int8 tensor; UnsupportedError where the graph has no float form.

    Zero points come from epilogues and from the ops that keep them; an input without quantization takes its reader's.
    """
    ratios = _Ratios()
    for node in graph.nodes:
        _tie(node, graph, ratios)
    for port in graph.inputs:
        ratios.fix(port.name, port.quant.scale if port.quant else 1.0)
    zero_points = _zero_points(graph)
    for node in graph.nodes:
        _free(node, ratios)
    found = {}
    for name, zero_point in zero_points.items():
        scale = ratios.scale(name)
        if scale is None or not 1e-30 < scale < 1e30:
            raise UnsupportedError(f"tensor '{name}': its scale {scale} is not usable")
        found[name] = Real(scale, zero_point)
    return found
