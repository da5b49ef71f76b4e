"""One handler per aten op: its operands as quantized tensors, its arguments, and the integerizer's method."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from bitship.errors import QuantizationError
from bitship.importers import attention, functions, pending, shapes
from bitship.importers.attention import Probabilities
from bitship.importers.functions import Function
from bitship.importers.integerize import Limits, QuantizedTensor, Weights, Window
from bitship.importers.pending import Pending
from bitship.quantization.catalogue import argument, op_name, where
from bitship.quantization.recipe import GeluForm
from bitship.quantization.walk import Walk

Handler = Callable[[Walk, Any], Any]


def pair(value: Any) -> tuple[int, int]:
    """Return (height, width) of an argument that is one number or two."""
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return int(first), int(rest[0] if rest else first)


def _same_padding(node: Any, window: Window, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    if node.args[4] not in ("same", "valid"):
        raise QuantizationError(f"{where(node)}: padding '{node.args[4]}'; 'same', 'valid' and numbers are allowed")
    totals = [d * (k - 1) if node.args[4] == "same" else 0 for d, k in zip(window.dilation, window.kernel, strict=True)]
    (top, left), (bottom, right) = (t // 2 for t in totals), (t - t // 2 for t in totals)
    return top, bottom, left, right


def _fitting(w: Walk, node: Any, weights: Weights) -> QuantizedTensor:
    """Return the activations of an op with weights, in bits that leave the accumulator in int32."""
    x = w.narrow(node, node.args[0])
    sums = np.abs(weights.values.astype(np.int64) - weights.zero_point).reshape(weights.values.shape[0], -1).sum(1)
    return w.fitting(x, node.args[0], int(sums.max(initial=0)))


def conv2d(w: Walk, node: Any) -> Pending:
    """Convolution with constant weights."""
    weights = w.weights(node, node.args[1])
    x = _fitting(w, node, weights)
    bias = w.real_constant(node, argument(node, 2, "bias", None))
    padding = argument(node, 4, "padding", [0, 0])
    kernel = (int(weights.values.shape[2]), int(weights.values.shape[3]))
    stride, dilation = pair(argument(node, 3, "stride", 1)), pair(argument(node, 5, "dilation", 1))
    window = Window(kernel, stride, dilation=dilation)
    if isinstance(padding, str):
        sides = _same_padding(node, window, x.shape)
    else:
        (ph, pw) = pair(padding)
        sides = (ph, ph, pw, pw)
    window = Window(kernel, stride, sides, dilation)
    groups = int(argument(node, 6, "groups", 1))
    return Pending(lambda q, limits: w.g.conv2d(node.name, x, weights, bias, window, groups, q, limits))


def linear(w: Walk, node: Any) -> Pending:
    """Matrix product with constant weights."""
    weights = w.weights(node, node.args[1])
    x = _fitting(w, node, weights)
    bias = w.real_constant(node, argument(node, 2, "bias", None))
    return Pending(lambda q, limits: w.g.linear(node.name, x, weights, bias, q, limits))


def matmul(w: Walk, node: Any) -> Pending:
    """Product of two computed tensors; one with probabilities on the left normalises them late."""
    left = w.values.get(node.args[0])
    b = w.in_bits(w.quantized(node, node.args[1]), node.args[1], 8)
    if isinstance(left, Probabilities) and not left.order:
        return Pending(lambda q, limits: attention.softmax_matmul(w.g, node.name, left, b, q, limits))
    a = w.quantized(node, node.args[0])
    a = w.fitting(a, node.args[0], a.shape[-1] * 128)
    return Pending(lambda q, limits: w.g.requantize(node.name, w.g.matmul(node.name, a, b, q), q, limits))


def table(w: Walk, node: Any, function: Function) -> Pending:
    """Any function of one variable."""
    return pending.table(w.g, node.name, w.quantized(node, node.args[0]), function)


def unary(function: Function) -> Handler:
    """Return the handler of a function without arguments."""
    return lambda w, node: table(w, node, function)


def gelu(w: Walk, node: Any) -> Pending:
    """The error-function form or the tanh form, or I-ViT's."""
    if w.recipe.gelu is GeluForm.SHIFTGELU:
        return shiftgelu(w, node)
    tanh = argument(node, 1, "approximate", "none") == "tanh"
    return table(w, node, functions.gelu_tanh if tanh else functions.gelu)


def shiftgelu(w: Walk, node: Any) -> Pending:
    """I-ViT's gelu over the rows of the last axis."""
    x = w.in_bits(w.quantized(node, node.args[0]), node.args[0], 8)
    return Pending(lambda q, ends: attention.shiftgelu(w.g, node.name, x, q, ends))


def leaky_relu(w: Walk, node: Any) -> Pending:
    """Slope below zero."""
    return table(w, node, functions.leaky_relu(float(argument(node, 1, "negative_slope", 0.01))))


def elu(w: Walk, node: Any) -> Pending:
    """Elu without output scales."""
    if argument(node, 2, "scale", 1) != 1 or argument(node, 3, "input_scale", 1) != 1:
        raise QuantizationError(f"{where(node)}: scale and input_scale must be 1")
    return table(w, node, functions.elu(float(argument(node, 1, "alpha", 1.0))))


def softplus(w: Walk, node: Any) -> Pending:
    """Softplus of slope 1; torch's switch to the identity above its threshold is below rounding."""
    if argument(node, 1, "beta", 1) != 1 or argument(node, 2, "threshold", 20) < 20:
        raise QuantizationError(f"{where(node)}: beta must be 1, threshold 20 or more")
    return table(w, node, functions.softplus)


def both(a: Limits, b: Limits) -> Limits:
    """Return the limits of two clamps, the second first."""
    return min(max(a[0], b[0]), b[1]), max(min(a[1], b[1]), b[0])


def limits(low: Callable[[Any], Any], high: Callable[[Any], Any]) -> Handler:
    """Return the handler of a clamp whose ends are read from the node; None is open."""

    def handle(w: Walk, node: Any) -> Pending:
        ends = [float(v) if v is not None else s * float("inf") for v, s in ((low(node), -1), (high(node), 1))]
        value = w.values[node.args[0]]
        if isinstance(value, Pending):
            return value.clamped((ends[0], ends[1]))
        x = w.quantized(node, node.args[0])
        if x.q.bits > 8:
            return Pending(lambda q, more: w.g.requantize(node.name, x, q, both(more, (ends[0], ends[1]))))
        return table(w, node, functions.clamp(ends[0], ends[1]))

    return handle


def _binary(w: Walk, node: Any, method: Any, with_number: Callable[[float, bool], Function]) -> Pending:
    """Two tensors, or a tensor and a number (second argument: whether the number comes first), which is a table."""
    numbers = [w.number(a) for a in node.args[:2]]
    if argument(node, 2, "alpha", 1) != 1:
        raise QuantizationError(f"{where(node)}: alpha must be 1")
    for i, number in enumerate(numbers):
        if number is not None:
            x = w.quantized(node, node.args[1 - i])
            return pending.table(w.g, node.name, x, with_number(number, i == 0))
    a, b = (w.quantized(node, arg) for arg in node.args[:2])
    return Pending(lambda q, ends: method(node.name, a, b, q, ends))


def add(w: Walk, node: Any) -> Pending:
    """Sum."""
    return _binary(w, node, w.g.add, lambda c, _: functions.affine(1.0, c))


def sub(w: Walk, node: Any) -> Pending:
    """Difference."""
    return _binary(w, node, w.g.sub, lambda c, first: functions.affine(-1.0, c) if first else functions.affine(1.0, -c))


def rsub(w: Walk, node: Any) -> Pending:
    """``number - x``."""
    number = w.number(node.args[1])
    if number is None:
        raise QuantizationError(f"{where(node)}: the second operand must be a number")
    return table(w, node, functions.affine(-1.0, number))


def scaled(w: Walk, x: QuantizedTensor, factor: float) -> QuantizedTensor:
    """Return x times a positive number: the same integers under another scale."""
    return replace(x, q=replace(x.q, scale=x.q.scale * factor))


def mul(w: Walk, node: Any) -> Pending | QuantizedTensor:
    """Product; one with a positive number costs nothing."""
    for i in (0, 1):
        number = w.number(node.args[i])
        if number is not None and 0 < number < math.inf:
            return scaled(w, w.quantized(node, node.args[1 - i]), number)
    return _binary(w, node, w.g.mul, lambda c, _: functions.affine(c, 0.0))


def div(w: Walk, node: Any) -> Pending | QuantizedTensor:
    """Quotient by a number."""
    number = w.number(node.args[1])
    if number is None or number == 0 or node.kwargs.get("rounding_mode"):
        raise QuantizationError(f"{where(node)}: only division by a number other than 0 has an integer form")
    x = w.quantized(node, node.args[0])
    return scaled(w, x, 1 / number) if 1 / number > 0 else table(w, node, functions.affine(1 / number, 0.0))


def power(w: Walk, node: Any) -> Pending:
    """``x`` to a power of at most 8."""
    exponent = w.number(node.args[1])
    if exponent is None or not 0 < exponent <= 8 or (exponent * 4) % 1:
        raise QuantizationError(f"{where(node)}: the exponent must be a multiple of 1/4 in (0, 8]")
    return table(w, node, functions.power(Fraction(exponent)))


def mean(w: Walk, node: Any) -> Pending:
    """Mean over axes, or over all."""
    x = w.quantized(node, node.args[0])
    axes = argument(node, 1, "dim", None)
    axes = [axes] if isinstance(axes, int) else (axes or list(range(len(x.shape))))
    keep = bool(argument(node, 2, "keepdim", False))
    return Pending(lambda q, ends: shapes.mean(w.g, node.name, x, axes, keep, q, ends))


def adaptive_avg_pool2d(w: Walk, node: Any) -> Pending:
    """Average to a given size."""
    x, size = w.quantized(node, node.args[0]), argument(node, 1, "output_size", None)
    height, width = (n if s is None else s for s, n in zip(size, x.shape[2:], strict=True))
    return Pending(lambda q, ends: shapes.adaptive_avg_pool(w.g, node.name, x, (height, width), q, ends))


def softmax(w: Walk, node: Any) -> Any:
    """Softmax along one axis."""
    return w.softmax(node, int(node.args[1]))


HANDLERS: dict[str, Handler] = {
    "conv2d": conv2d,
    "linear": linear,
    "matmul": matmul,
    "bmm": matmul,
    "relu": limits(lambda n: 0, lambda n: None),
    "relu6": limits(lambda n: 0, lambda n: 6),
    "hardtanh": limits(lambda n: argument(n, 1, "min_val", -1), lambda n: argument(n, 2, "max_val", 1)),
    "clamp": limits(lambda n: argument(n, 1, "min", None), lambda n: argument(n, 2, "max", None)),
    "clamp_min": limits(lambda n: n.args[1], lambda n: None),
    "clamp_max": limits(lambda n: None, lambda n: n.args[1]),
    "hardswish": unary(functions.hardswish),
    "hardsigmoid": unary(functions.hardsigmoid),
    "silu": unary(functions.silu),
    "sigmoid": unary(functions.sigmoid),
    "tanh": unary(functions.tanh),
    "exp": unary(functions.exp),
    "neg": unary(functions.negative),
    "abs": unary(abs),
    "square": unary(functions.square),
    "reciprocal": unary(functions.reciprocal),
    "sqrt": unary(functions.power(Fraction(1, 2))),
    "rsqrt": unary(functions.power(Fraction(-1, 2))),
    "log": unary(functions.log),
    "softplus": softplus,
    "mish": unary(functions.mish),
    "pow": power,
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "add": add,
    "sub": sub,
    "rsub": rsub,
    "mul": mul,
    "div": div,
    "mean": mean,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "softmax": softmax,
    "_softmax": softmax,
}


def _tables() -> tuple[dict[str, Handler], ...]:
    from bitship.quantization.moving import MOVING
    from bitship.quantization.norms import NORM_HANDLERS

    return HANDLERS, MOVING, NORM_HANDLERS


def handled(name: str) -> bool:
    """Return whether an op has a handler."""
    return any(name in table_of for table_of in _tables())


def handler_of(node: Any) -> Handler:
    """Return the handler of a call; QuantizationError when its op has no integer form."""
    tables = _tables()
    for table_of in tables:
        if op_name(node) in table_of:
            return table_of[op_name(node)]
    known = sorted(name for table_of in tables for name in table_of)
    raise QuantizationError(f"{where(node)}: no integer form; allowed: {', '.join(known)}")
