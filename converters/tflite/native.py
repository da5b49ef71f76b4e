"""One operator of TFLite for one node, where the scales found for its tensors give the node's multipliers.

Every function checks the numbers again, with TFLite's arithmetic, and returns None where they do not come out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bitship.converters.primitives import Value
from bitship.converters.scales import narrow, recover, steepness
from bitship.converters.tflite import factors
from bitship.converters.tflite.file import Label
from bitship.converters.tflite.lattice import free_scales, mean_scales, mul_scales, sum_scales
from bitship.converters.tflite.machine import TfliteMachine
from bitship.converters.tflite.provenance import (
    Provenance,
    mean_pair,
    mul_pair,
    pairs_of,
    plain,
    softmax_table,
    summing_factors,
    term_ok,
)
from bitship.graph import DType, Graph, Node, ops
from bitship.graph.ops import Rescale, Rounding

_SAME, _VALID = 0, 1
_SOFTMAX = 512  # LiteRT's reference kernel ends the process where the exponentials of a row sum to this


class Nearest:
    """Scales as the graph's factors have them, to the nearest float32; they give multipliers close to the graph's."""

    def __init__(self, graph: Graph) -> None:
        reals = recover(graph)
        self.graph = graph
        self.scale = {name: factors.f32(r.scale) for name, r in reals.items() if narrow(graph, name)}
        self.zero_point = {name: r.zero_point for name, r in reals.items()}


class Native:
    """Writes operators with scales into the machine's file.

    exact  whether an operator must give the node's multipliers; else the nearest scales do, and bits are close
    """

    def __init__(self, machine: TfliteMachine, found: Provenance | Nearest, exact: bool = True) -> None:
        self.machine = machine
        self.found = found
        self.exact = exact
        self._relabelled: dict[tuple[int | str, DType, Label | None], Value] = {}
        self._converted: dict[tuple[int | str, bool], Value] = {}

    @property
    def unsigned(self) -> bool:
        """Whether the operator that is being written is a uint8 one."""
        return self.machine.file.unsigned

    def label(self, name: str, zero_point: int | None = None) -> Label | None:
        """Return the label of a tensor of the graph; None where it has no scale."""
        if name not in self.found.scale:
            return None
        at = self.found.zero_point.get(name, 0) if zero_point is None else zero_point
        return Label((self.found.scale[name],), (at,))

    def as_labelled(self, x: Value, label: Label | None) -> Value:
        """Return x under a label: itself, or a RESHAPE, which copies codes whatever the scales."""
        if x.array is not None:
            return Value(self.machine.file.constant(x.array, label), x.shape, x.dtype)
        x = self.as_kind(x, self.machine.file.unsigned)
        if self.machine.file.label(int(x.ref), x.dtype) == label:
            return x
        key = (x.ref, x.dtype, label)
        if key not in self._relabelled:
            shape = self.machine.constant(np.array(x.shape, np.int32))
            y = self.machine.op("RESHAPE", [x, shape], x.shape, x.dtype, "ReshapeOptions", newShape=list(x.shape))
            self.machine.file.set_label(int(y.ref), label, y.dtype)
            self._relabelled[key] = y
        return self._relabelled[key]

    def as_kind(self, x: Value, unsigned: bool) -> Value:
        """Return int8 codes as the kernels of a kind read them: as they are, or through QUANTIZE by one."""
        file = self.machine.file
        if (
            x.array is not None
            or x.dtype is not DType.INT8
            or unsigned == (file.tensors[int(x.ref)].dtype is DType.UINT8)
        ):
            return x
        key = (x.ref, unsigned)
        if key not in self._converted:
            before = file.unsigned
            label = file.label(int(x.ref), x.dtype) or Label((1.0,), (0,))
            file.unsigned = not unsigned
            source = self.as_labelled(x, label)
            file.unsigned = unsigned
            self._converted[key] = self.emit("QUANTIZE", [source], label, x.shape, "QuantizeOptions", 1)
            file.unsigned = before
        return self._converted[key]

    def emit(
        self,
        name: str,
        inputs: Sequence[Value],
        label: Label,
        shape: Sequence[int],
        options: str | None = None,
        version: int = 1,
        dtype: DType = DType.INT8,
        **fields: Any,
    ) -> Value:
        """Append an operator whose result has a label."""
        y = self.machine.op(name, inputs, shape, dtype, options, version, **fields)
        self.machine.file.set_label(int(y.ref), label, y.dtype)
        return y

    def clamped(self, x: Value, label: Label, qmin: int, qmax: int) -> Value:
        """Clamp int8 by MAXIMUM and MINIMUM."""
        for name, bound, free in (("MAXIMUM", qmin, -128), ("MINIMUM", qmax, 127)):
            if bound != free:
                limit = self.as_labelled(Value(0, (1,), DType.INT8, np.array([bound], np.int8)), label)
                x = self.emit(name, [x, limit], label, x.shape, "MaximumMinimumOptions")
        return x

    def plain(self, r: Rescale | None, rounding: Rounding = Rounding.DOUBLE) -> bool:
        """Whether an epilogue is one of TFLite's kernels, in its rounding too where that matters."""
        return plain(r, r.rounding if r is not None and not self.exact else rounding)

    def gives(self, found: object, wanted: object) -> bool:
        """Whether multipliers are the wanted ones, where that matters."""
        return found == wanted or not self.exact

    def activated(self, label: Label, qmin: int, qmax: int) -> tuple[int, bool]:
        """Return (fused activation, whether a clamp must follow)."""
        kind = factors.activation(label.scale[0], label.zero_point[0], qmin, qmax)
        return (0, True) if kind is None else (kind, False)


def _padding(
    extent: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], padding: Sequence[int]
) -> int | None:
    """Return SAME or VALID where that is what the padding comes to."""
    if not any(padding):
        return _VALID
    wanted: list[int] = []
    for n, k, s, d in zip(extent, kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        wanted += [total // 2, total - total // 2]
    return _SAME if list(padding) == wanted else None


def _parameters(n: Native, pairs: list[factors.Pair], x: float, y: float, product: bool) -> list[float] | None:
    if not n.exact:
        return [factors.f32(max(factors.real(*p) * y / x, 1e-30)) for p in pairs]
    if product and len(pairs) == 1:
        scale = factors.product_scale(pairs[0], x, y)
        return None if scale is None else [scale]
    return factors.weight_scales(pairs, x, y)


def _labels(n: Native, node: Node, pairs: list[factors.Pair], connected: bool) -> tuple[Label | None, Label | None]:
    """Return the labels of operand and result: those found for the graph, else some that fit this node alone."""
    op: Any = node.op
    lx, ly = n.label(node.inputs[0], op.input_zero_point), n.label(node.output)
    product = connected or n.unsigned
    known = lx is not None and ly is not None and _parameters(n, pairs, lx.scale[0], ly.scale[0], product)
    if known or connected or not n.exact:
        return lx, ly
    if n.unsigned:
        sx = 1.0 if lx is None else lx.scale[0]
        sy = Provenance.product_result(op.requant, sx)
        at = op.input_zero_point, op.requant.output_zero_point
        return (None, None) if sy is None else (Label((sx,), at[:1]), Label((sy,), at[1:]))
    scales = free_scales(pairs)
    if scales is None:
        return None, None
    x, y = scales
    wanted = Provenance.exponent(op.requant, y, y)
    power = wanted / y
    return Label((x * power,), (op.input_zero_point,)), Label((wanted,), (op.requant.output_zero_point,))


def _weighted(n: Native, node: Node, x: Value, w: Value, bias: Value, shape: Sequence[int]) -> Value | None:
    op: Any = node.op
    connected = isinstance(op, ops.FullyConnected)
    if (
        w.array is None
        or bias.array is None
        or not n.plain(op.requant, Rounding.SINGLE if connected else Rounding.DOUBLE)
    ):
        return None
    if x.dtype is not DType.INT8 or (op.weight_zero_point and not connected and not n.unsigned):
        return None
    pairs = pairs_of(op.requant)
    lx, ly = _labels(n, node, pairs, connected)
    if lx is None or ly is None:
        return None
    scales = _parameters(n, pairs, lx.scale[0], ly.scale[0], connected or n.unsigned)
    if scales is None or (len(scales) > 1 and op.weight_zero_point):
        return None
    depthwise = isinstance(op, ops.DepthwiseConv2D)
    zero_points = (op.weight_zero_point,) * len(scales)
    array = w.array.reshape(1, *w.array.shape[:2], -1) if depthwise else w.array
    weights = n.as_labelled(
        Value(0, array.shape, DType.INT8, array), Label(tuple(scales), zero_points, 3 if depthwise else 0)
    )
    biases = tuple(factors.f32(lx.scale[0] * s) for s in scales)
    added = n.as_labelled(Value(0, bias.shape, DType.INT32, bias.array), Label(biases, (0,) * len(scales), 0))
    kind, clamp = n.activated(ly, op.requant.qmin, op.requant.qmax)
    fields: dict[str, Any] = {"fusedActivationFunction": kind}
    operands = [n.as_labelled(x, lx), weights, added]
    if connected:
        y = n.emit("FULLY_CONNECTED", operands, ly, shape, "FullyConnectedOptions", 4, **fields)
        return n.clamped(y, ly, op.requant.qmin, op.requant.qmax) if clamp else y
    kernel = w.array.shape[:2] if depthwise else w.array.shape[1:3]
    padding = _padding(x.shape[1:3], kernel, op.stride, op.dilation, op.padding)
    if padding is None:
        top, bottom, left, right = op.padding
        amounts = n.machine.constant(np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
        wide = (x.shape[0], x.shape[1] + top + bottom, x.shape[2] + left + right, x.shape[3])
        operands[0] = n.emit("PAD", [operands[0], amounts], lx, wide, "PadOptions", 2)
        padding = _VALID
    fields |= {"padding": padding, "strideH": op.stride[0], "strideW": op.stride[1]}
    fields |= {"dilationHFactor": op.dilation[0], "dilationWFactor": op.dilation[1]}
    if depthwise:
        fields["depthMultiplier"] = w.array.shape[3]
        y = n.emit("DEPTHWISE_CONV_2D", operands, ly, shape, "DepthwiseConv2DOptions", 3, **fields)
    else:
        y = n.emit("CONV_2D", operands, ly, shape, "Conv2DOptions", 3, **fields)
    return n.clamped(y, ly, op.requant.qmin, op.requant.qmax) if clamp else y


def _summing(n: Native, node: Node, a: Value, b: Value, shape: Sequence[int]) -> Value | None:
    op: Any = node.op
    terms = [term_ok(r) if n.exact else r is not None for r in (op.a, op.b)]
    if not all(terms) or not n.plain(op.requant) or op.requant.per_channel:
        return None
    la, lb = (n.label(i, r.input_zero_point) for i, r in zip(node.inputs, (op.a, op.b), strict=True))
    ly = n.label(node.output)
    if {a.dtype, b.dtype} != {DType.INT8} or len(shape) > 4:
        return None
    wanted = tuple(pairs_of(r)[0] for r in (op.a, op.b, op.requant))
    if not (la and lb and ly and n.gives(summing_factors(la.scale[0], lb.scale[0], ly.scale[0]), wanted)):
        la, lb, ly = _alone(n, sum_scales, wanted, (op.a.input_zero_point, op.b.input_zero_point), op.requant)
    if la is None or lb is None or ly is None:
        return None
    kind, clamp = n.activated(ly, op.requant.qmin, op.requant.qmax)
    operands = [n.as_labelled(a, la), n.as_labelled(b, lb)]
    name, options = ("ADD", "AddOptions") if isinstance(op, ops.Add) else ("SUB", "SubOptions")
    y = n.emit(name, operands, ly, shape, options, 2, fusedActivationFunction=kind)
    return n.clamped(y, ly, op.requant.qmin, op.requant.qmax) if clamp else y


def _alone(
    n: Native, find: Callable[..., Any], wanted: Any, zero_points: Sequence[int], out: Rescale
) -> tuple[Label | None, ...]:
    """Return labels that fit one node, whatever its neighbours have; Nones where there are none."""
    scales = find(wanted) if n.exact else None
    if scales is None:
        return (None,) * (len(zero_points) + 1)
    return tuple(Label((s,), (z,)) for s, z in zip(scales, (*zero_points, out.output_zero_point), strict=True))


def _mul(n: Native, node: Node, a: Value, b: Value, shape: Sequence[int]) -> Value | None:
    op: Any = node.op
    la, lb = n.label(node.inputs[0], op.a_zero_point), n.label(node.inputs[1], op.b_zero_point)
    ly = n.label(node.output)
    if not n.plain(op.requant) or op.requant.per_channel or {a.dtype, b.dtype} != {DType.INT8} or len(shape) > 4:
        return None
    wanted = pairs_of(op.requant)[0]
    if not (la and lb and ly and n.gives(mul_pair(la.scale[0], lb.scale[0], ly.scale[0]), wanted)):
        la, lb, ly = _alone(n, mul_scales, wanted, (op.a_zero_point, op.b_zero_point), op.requant)
    if la is None or lb is None or ly is None:
        return None
    kind, clamp = n.activated(ly, op.requant.qmin, op.requant.qmax)
    operands = [n.as_labelled(a, la), n.as_labelled(b, lb)]
    y = n.emit("MUL", operands, ly, shape, "MulOptions", 2, fusedActivationFunction=kind)
    return n.clamped(y, ly, op.requant.qmin, op.requant.qmax) if clamp else y


def _mean(n: Native, node: Node, x: Value, shape: Sequence[int]) -> Value | None:
    op: Any = node.op
    lx, ly = n.label(node.inputs[0], op.input_zero_point), n.label(node.output)
    if not n.plain(op.requant) or op.requant.per_channel or x.dtype is not DType.INT8:
        return None
    count = n.found.graph.types[node.inputs[0]].size // n.found.graph.types[node.output].size
    wanted = pairs_of(op.requant)[0]
    if not (lx and ly and n.gives(mean_pair(lx.scale[0], ly.scale[0], count), wanted)):
        lx, ly = _alone(n, lambda p: mean_scales(p, count), wanted, (op.input_zero_point,), op.requant)
    if lx is None or ly is None:
        return None
    axes = n.machine.constant(np.array(op.axes, np.int32))
    y = n.emit("MEAN", [n.as_labelled(x, lx), axes], ly, shape, "ReducerOptions", 2, keepDims=True)
    return n.clamped(y, ly, op.requant.qmin, op.requant.qmax)


def _rescale(n: Native, node: Node, x: Value, shape: Sequence[int]) -> Value | None:
    op = node.op
    assert isinstance(op, Rescale)
    lx, ly = n.label(node.inputs[0], op.input_zero_point), n.label(node.output, op.output_zero_point)
    eight = (DType.INT8, DType.UINT8)
    whole = (op.qmin, op.qmax) == (op.dtype.qmin, op.dtype.qmax)
    if lx is None or ly is None or op.per_channel or op.pre_shift or not whole:
        return None
    if x.dtype not in eight or op.dtype not in eight:
        return None
    if not n.gives(factors.pair(lx.scale[0] / ly.scale[0]), pairs_of(op)[0]):
        return None
    if n.exact and op.rounding is not Rounding.DOUBLE and pairs_of(op)[0] != (1 << 30, 1):
        return None
    return n.emit("QUANTIZE", [n.as_labelled(x, lx)], ly, shape, "QuantizeOptions", 1, op.dtype)


def _pool(n: Native, node: Node, x: Value, shape: Sequence[int]) -> Value | None:
    op: Any = node.op
    label = n.label(node.inputs[0])
    padding = _padding(x.shape[1:3], op.kernel, op.stride, (1, 1), op.padding)
    if label is None or x.dtype is not DType.INT8 or padding is None:
        return None
    kept = ops.DivRounding.HALF_UP if n.unsigned else ops.DivRounding.HALF_AWAY
    if isinstance(op, ops.AvgPool2D) and op.rounding is not kept:
        return None
    name = "AVERAGE_POOL_2D" if isinstance(op, ops.AvgPool2D) else "MAX_POOL_2D"
    kind, clamp = n.activated(label, op.qmin, op.qmax)
    size = {"filterHeight": op.kernel[0], "filterWidth": op.kernel[1], "strideH": op.stride[0], "strideW": op.stride[1]}
    operands = [n.as_labelled(x, label)]
    y = n.emit(name, operands, label, shape, "Pool2DOptions", 2, padding=padding, fusedActivationFunction=kind, **size)
    return n.clamped(y, label, op.qmin, op.qmax) if clamp else y


def _softmax(n: Native, node: Node, x: Value, table: Value, shape: Sequence[int]) -> Value | None:
    lx = n.label(node.inputs[0])
    if lx is None or table.array is None or x.shape[-1] >= _SOFTMAX:
        return None
    beta = 1.0 if n.exact else steepness(n.found.graph, node) / lx.scale[0]
    found = softmax_table(factors.f32(beta) * lx.scale[0])
    if found is None or (n.exact and found != tuple(int(v) for v in table.array)):
        return None
    label = Label((1 / 256,), (-128,))
    return n.emit("SOFTMAX", [n.as_labelled(x, lx)], label, shape, "SoftmaxOptions", 2, beta=beta)


def _matmul(n: Native, node: Node, a: Value, b: Value, shape: Sequence[int]) -> Value | None:
    """BATCH_MATMUL, whose one multiplier rounds as no epilogue of ours is proven to: only where bits may differ."""
    op: Any = node.op
    la, lb = n.label(node.inputs[0], op.a_zero_point), n.label(node.inputs[1], op.b_zero_point)
    ly = n.label(node.output)
    if n.exact or not n.plain(op.requant) or op.requant.per_channel or {a.dtype, b.dtype} != {DType.INT8}:
        return None
    if la is None or lb is None or ly is None:
        return None
    product = factors.real(*pairs_of(op.requant)[0]) * ly.scale[0]
    if abs(product / (la.scale[0] * lb.scale[0]) - 1) > 1e-5:
        return None
    y = n.emit("BATCH_MATMUL", [n.as_labelled(a, la), n.as_labelled(b, lb)], ly, shape, "BatchMatMulOptions", 2)
    return n.clamped(y, ly, op.requant.qmin, op.requant.qmax)


def _pad(n: Native, node: Node, x: Value, shape: Sequence[int]) -> Value | None:
    op: Any = node.op
    label = n.label(node.inputs[0])
    if label is None or x.dtype is not DType.INT8 or op.value != label.zero_point[0] or len(shape) > 4:
        return None
    amounts = n.machine.constant(np.array(op.padding, np.int32))
    return n.emit("PAD", [n.as_labelled(x, label), amounts], label, shape, "PadOptions", 2)


NATIVE: dict[type[ops.Op], Callable[..., Value | None]] = {
    ops.Conv2D: _weighted,
    ops.DepthwiseConv2D: _weighted,
    ops.FullyConnected: _weighted,
    ops.Add: _summing,
    ops.Sub: _summing,
    ops.Mul: _mul,
    ops.MatMul: _matmul,
    ops.ReduceSum: _mean,
    ops.Rescale: _rescale,
    ops.AvgPool2D: _pool,
    ops.MaxPool2D: _pool,
    ops.Softmax: _softmax,
    ops.Pad: _pad,
}
MOVING = (ops.Reshape, ops.Transpose, ops.Slice, ops.Gather)
JOINING = (ops.Concat, ops.ReduceMax, ops.ReduceMin)
