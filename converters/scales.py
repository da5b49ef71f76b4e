"""Real scales for the tensors of an integer graph, consistent with its multipliers.

A graph keeps scales at its ports alone; inside there are only factors. A back end that computes from scales needs
them back. Ops that tie their operands (add, pools, mean, reshape) fix ratios between tensors; products with constant
weights, tables and norms leave their result's scale free, because a constant takes up the rest.
"""

import math
from collections.abc import Mapping

import numpy as np

from bitship.errors import UnsupportedError
from bitship.graph import DType, Graph, Node
from bitship.graph.base import Array
from bitship.graph.ops import (
    Add,
    AvgPool2D,
    Clamp,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Gather,
    LayerNorm,
    MatMul,
    MaxPool2D,
    Mul,
    Pad,
    ReduceMax,
    ReduceMin,
    ReduceSum,
    Rescale,
    Reshape,
    Resize,
    RmsNorm,
    Slice,
    Softmax,
    SoftmaxMatMul,
    Sub,
    Table,
    TableSoftmax,
    Transpose,
)

_WEIGHT_SCALE = 0.01  # the largest weight scale of a layer whose result's scale is free
_TABLE_SCALE = 1 / 32  # of a table's result
_NORM_SPAN = 4.0  # standard deviations at the end of the range of a norm's result with a gain of one
_TOLERANCE = 1e-6

KEEPING = (AvgPool2D, MaxPool2D, Clamp, Concat, Pad, Reshape, Slice, Transpose, Gather, Resize, ReduceMax, ReduceMin)
WEIGHTED = (Conv2D, DepthwiseConv2D, FullyConnected)
NORMS = (LayerNorm, RmsNorm)
SIDE = (Softmax, TableSoftmax, SoftmaxMatMul, Table, Gather, *NORMS, *WEIGHTED)  # their later operands are constants


class Real:
    """Scale and zero point of a tensor."""

    def __init__(self, scale: float, zero_point: int) -> None:
        self.scale = scale
        self.zero_point = zero_point


def factors(r: Rescale | None) -> list[float]:
    """Return the real factor of every multiplier, left shift included; one where there is no rescale."""
    if r is None:
        return [1.0]
    return [m * 2.0 ** (s - 31 + r.pre_shift) for m, s in zip(r.multiplier, r.shift, strict=True)]


def epilogue(node: Node) -> Rescale | None:
    """Return the epilogue of an accumulating op; None when it hands its int32 on."""
    requant: Rescale | None = getattr(node.op, "requant", None)
    return requant


def steepness(graph: Graph, node: Node) -> float:
    """Return how much one step of a softmax's input changes the logarithm, fitted to its table of exponentials.

    A table that is too steep to have two entries is an UnsupportedError.
    """
    table = graph.constants[node.inputs[-1]].astype(np.float64)
    steps = np.arange(table.size)
    used = table >= max(table[0] / 64, 4)
    if used.sum() < 2:
        raise UnsupportedError(f"node '{node.output}': the softmax is too steep to have a scale")
    d = steps[used]
    return float(-(d * np.log(table[used] / table[0])).sum() / (d * d).sum())


def affine(graph: Graph, node: Node) -> tuple[Array, Array]:
    """Return (gain, bias) of a norm in units of its result's codes, zero point left out; float64 [P]."""
    assert isinstance(node.op, LayerNorm | RmsNorm)
    multiplier, bias = (graph.constants[i].astype(np.float64) for i in node.inputs[1:3])
    return multiplier * 2.0 ** (20 - node.op.shift), bias * 2.0**-16


def read_zero_points(node: Node) -> tuple[int | None, ...]:
    """Return the zero point a node reads each operand with; None where it does not say."""
    op = node.op
    if isinstance(op, (*WEIGHTED, ReduceSum, Rescale, RmsNorm)):
        return (op.input_zero_point,)
    if isinstance(op, Mul | MatMul):
        return op.a_zero_point, op.b_zero_point
    if isinstance(op, SoftmaxMatMul):
        return None, op.v_zero_point
    if isinstance(op, Add | Sub):
        return (op.a.input_zero_point if op.a else 0), (op.b.input_zero_point if op.b else 0)
    return ()


def _written_zero_point(node: Node) -> int | None:
    """Return the zero point a node's result has; None where it keeps its operand's, or where a reader says it."""
    op = node.op
    if isinstance(op, (*KEEPING, Table)):
        return None
    if isinstance(op, Softmax):
        return -128
    if isinstance(op, TableSoftmax):
        return 0
    if isinstance(op, (Rescale, *NORMS)):
        return op.output_zero_point
    requant = epilogue(node)
    return requant.output_zero_point if requant else 0


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


def kept(node: Node) -> tuple[str, ...]:
    """Return the operands whose scale and zero point an op of KEEPING keeps."""
    return node.inputs[:1] if isinstance(node.op, Gather) else node.inputs


def _tie(node: Node, graph: Graph, ratios: _Ratios) -> None:
    op, inputs, y = node.op, node.inputs, node.output
    if isinstance(op, KEEPING):
        for x in kept(node):
            ratios.tie(inputs[0], x, 1.0, node)
        ratios.tie(inputs[0], y, 1.0, node)
    elif isinstance(op, Add | Sub):
        fa, fb, out = factors(op.a)[0], factors(op.b)[0], factors(epilogue(node))[0]
        ratios.tie(inputs[0], inputs[1], fb / fa, node)
        ratios.tie(inputs[0], y, 1 / (fa * out), node)
    elif isinstance(op, ReduceSum):
        count = graph.types[inputs[0]].size // graph.types[y].size
        ratios.tie(inputs[0], y, 1 / (count * factors(epilogue(node))[0]), node)
    elif isinstance(op, Rescale):
        if op.per_channel:
            raise UnsupportedError(f"node '{y}': a rescale per channel")
        ratios.tie(inputs[0], y, 1 / factors(op)[0], node)
    elif isinstance(op, SoftmaxMatMul):
        if len({*op.requant.multiplier}) > 1 or len({*op.requant.shift}) > 1:
            raise UnsupportedError(f"node '{y}': a {op.name} that is rescaled per channel")
        ratios.tie(inputs[1], y, 1 / factors(op.requant)[0], node)
    elif not isinstance(op, (*WEIGHTED, *NORMS, Mul, MatMul, Softmax, TableSoftmax, Table)):
        raise UnsupportedError(f"node '{y}': {op.name} has no float form")


def _free(node: Node, graph: Graph, ratios: _Ratios) -> None:
    """Choose the scale of a result that nothing ties, in execution order."""
    y, op = node.output, node.op
    if ratios.scale(y) is not None:
        return
    if isinstance(op, Softmax | TableSoftmax):
        ratios.fix(y, 1 / 256 if isinstance(op, Softmax) else 2.0**-15)
    elif isinstance(op, Table):
        ratios.fix(y, _TABLE_SCALE)
    elif isinstance(op, NORMS):
        gain = float(np.abs(affine(graph, node)[0]).max()) or 1.0
        ratios.fix(y, _NORM_SPAN / max(gain, 1.0))
    else:
        product = 1.0
        for s in [ratios.scale(x) for x in node.inputs[: 2 if isinstance(op, Mul | MatMul) else 1]]:
            if s is None:
                raise UnsupportedError(f"node '{y}': the scale of an operand of {op.name} is not determined")
            product *= s
        top = max(factors(epilogue(node))) or 1.0
        ratios.fix(y, product * (_WEIGHT_SCALE if isinstance(op, WEIGHTED) else 1.0) / top)


class _ZeroPoints:
    """Disjoint sets of tensors whose zero points have a known difference."""

    def __init__(self) -> None:
        self._up: dict[str, tuple[str, int]] = {}
        self._known: dict[str, int] = {}

    def find(self, name: str) -> tuple[str, int]:
        """Return (representative, zero point of the tensor less that of the representative)."""
        total = 0
        while name in self._up:
            name, more = self._up[name]
            total += more
        return name, total

    def join(self, a: str, b: str, more: int = 0) -> None:
        """Record that the zero point of b is that of a plus ``more``."""
        (ra, da), (rb, db) = self.find(a), self.find(b)
        if ra != rb:
            self._up[rb] = (ra, da + more - db)

    def tell(self, name: str, zero_point: int | None, node: Node) -> None:
        """Record a zero point; UnsupportedError when it is not the one known."""
        if zero_point is None:
            return
        root, more = self.find(name)
        if self._known.setdefault(root, zero_point - more) != zero_point - more:
            raise UnsupportedError(f"node '{node.output}': it takes '{name}' with another zero point than it has")

    def of(self, name: str) -> int:
        """Return a tensor's zero point, 0 where nobody says."""
        root, more = self.find(name)
        return self._known.get(root, 0) + more


def _moves(node: Node) -> bool:
    """Whether a node only adds a number to its codes, as between uint8 and int8."""
    return isinstance(node.op, Rescale) and factors(node.op) == [1.0]


def _zero_points(graph: Graph) -> dict[str, int]:
    """Return the zero point of every tensor: what it is written with, read with, or 0 where nobody says."""
    sets = _ZeroPoints()
    for node in graph.nodes:
        if isinstance(node.op, KEEPING):
            for name in (*kept(node), node.output):
                sets.join(node.inputs[0], name)
        elif isinstance(node.op, Rescale) and _moves(node):
            sets.join(node.inputs[0], node.output, node.op.output_zero_point - node.op.input_zero_point)
    for node in graph.nodes:
        if _moves(node):
            continue
        sets.tell(node.output, _written_zero_point(node), node)
        for name, zero_point in zip(node.inputs, read_zero_points(node), strict=False):
            sets.tell(name, zero_point, node)
    for port in graph.inputs:
        if port.quant and graph.nodes:
            sets.tell(port.name, port.quant.zero_point, graph.nodes[0])
    return {name: sets.of(name) for name in _tensors(graph)}


def _tensors(graph: Graph) -> list[str]:
    """Return the names of the tensors that have a scale: computed ones, inputs, constants that stand for them."""
    operands = [i for n in graph.nodes for i in (n.inputs[:1] if isinstance(n.op, SIDE) else n.inputs)]
    values = [n.inputs[1] for n in graph.nodes if isinstance(n.op, SoftmaxMatMul)]
    every = [*(p.name for p in graph.inputs), *operands, *values, *(n.output for n in graph.nodes)]
    return list(dict.fromkeys(every))


def recover(graph: Graph) -> Mapping[str, Real]:
    """Return scale and zero point of every tensor of data; UnsupportedError where the graph has no float form.

    Zero points come from epilogues and from the ops that keep them; an input without quantization takes its reader's.
    A table's result that nobody reads with a zero point has 0.
    """
    ratios = _Ratios()
    for node in graph.nodes:
        _tie(node, graph, ratios)
    for port in graph.inputs:
        ratios.fix(port.name, port.quant.scale if port.quant else 1.0)
    zero_points = _zero_points(graph)
    for node in graph.nodes:
        _free(node, graph, ratios)
    found = {}
    for name, zero_point in zero_points.items():
        scale = ratios.scale(name)
        if scale is None or not math.isfinite(scale) or not 1e-30 < scale < 1e30:
            raise UnsupportedError(f"tensor '{name}': its scale {scale} is not usable")
        found[name] = Real(scale, zero_point)
    return found


def narrow(graph: Graph, name: str) -> bool:
    """Whether a tensor is int8: a delegate quantizes it; wider ones stay reals there."""
    return graph.types[name].dtype is DType.INT8
