"""Handlers of quantize, dequantize, and the float ops between them."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from bitship.graph.base import Array
from bitship.importers import functions, pending, shapes
from bitship.importers.functions import Function
from bitship.importers.integerize import Limits, QParams, QuantizedTensor, Weights, Window
from bitship.importers.onnx.walk import Open, Quantized, Walk
from bitship.importers.pending import Pending

Handler = Callable[[Walk], Any]
_INF = float("inf")
_MAX_TAPS = 1 << 16


def name(w: Walk) -> str:
    """Return the name that nodes of the graph take from the ONNX node at hand."""
    assert w.node is not None
    return w.node.outputs[0]


def attribute(w: Walk, key: str, default: Any) -> Any:
    """Return an attribute of the node at hand."""
    assert w.node is not None
    return w.node.get(key, default)


def quantize(w: Walk) -> Any:
    """QuantizeLinear: the parameters a pending result was waiting for."""
    value = w.value(0)
    if isinstance(value, np.ndarray):
        zero = w.array(2) if w.has(2) else np.zeros(1, np.uint8)
        return _quantized_constant(w, value, zero)
    q, dtype = w.qparams(1, 2)
    if isinstance(value, Open):
        return w.result(w.tensor(0, q, dtype), dtype)
    if isinstance(value, Pending):
        return w.result(value.emit(q, value.limits), dtype)
    if isinstance(value, Quantized):
        return w.result(w.g.requantize(name(w), w.constant(value), q), dtype)
    return w.result(w.g.requantize(name(w), value, q), dtype)


def _quantized_constant(w: Walk, value: Array, zero: Array) -> Quantized:
    """Quantize a float constant as ONNX does: round half even, saturate."""
    scales, axis = w.array(1), int(attribute(w, "axis", 1))
    w.check_scales(scales)
    shape = [1] * value.ndim
    if scales.size > 1:
        shape[axis] = scales.size
    info = np.iinfo(zero.dtype)
    codes = np.rint(value.astype(np.float64) / scales.reshape(shape)) + zero.reshape(shape).astype(np.float64)
    return Quantized(np.clip(codes, info.min, info.max).astype(zero.dtype), scales, zero, axis)


def dequantize(w: Walk) -> Any:
    """DequantizeLinear: a constant becomes one with scales, a tensor is read with this node's parameters."""
    value = w.value(0)
    if isinstance(value, np.ndarray):
        zero = w.array(2) if w.has(2) else np.zeros(1, value.dtype)
        w.check_scales(w.array(1))
        return Quantized(value, w.array(1), zero, int(attribute(w, "axis", 1)))
    q, dtype = w.qparams(1, 2)
    return w.result(w.tensor(0, q, dtype), dtype)


def window(w: Walk, kernel: tuple[int, int], shape: tuple[int, ...]) -> Window:
    """Return the geometry of a convolution or pool from strides, dilations, pads and auto_pad."""
    if len(shape) != 4:
        raise w.refuse(f"input has rank {len(shape)}; images of rank 4 are supported")
    if min(kernel) < 1 or kernel[0] * kernel[1] > _MAX_TAPS:
        raise w.refuse(f"kernel {kernel} is empty or has more than {_MAX_TAPS} taps")
    sh, sw = attribute(w, "strides", [1, 1])
    dh, dw = attribute(w, "dilations", [1, 1])
    auto = attribute(w, "auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        sides = []
        for n, k, s, d in zip(shape[2:], kernel, (sh, sw), (dh, dw), strict=True):
            total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            less = total // 2
            sides.append((less, total - less) if auto == "SAME_UPPER" else (total - less, less))
        (top, bottom), (left, right) = sides
    else:
        top, left, bottom, right = attribute(w, "pads", [0, 0, 0, 0]) if auto == "NOTSET" else (0, 0, 0, 0)
    return Window(kernel, (int(sh), int(sw)), (int(top), int(bottom), int(left), int(right)), (int(dh), int(dw)))


def bias_of(w: Walk, index: int, x: QuantizedTensor, weights: Weights) -> Array | None:
    """Return the bias: int32 where its scales are those of x times the weights, else real values."""
    if not w.has(index):
        return None
    value = w.value(index)
    if isinstance(value, Quantized):
        wanted = np.array([x.q.scale * float(s) for s in weights.scales])
        same = value.scales.size in (1, wanted.size) and not value.zero_points.any()
        if same and value.values.dtype == np.int32 and np.allclose(value.scales.reshape(-1), wanted, rtol=1e-5, atol=0):
            return value.values
        return value.real
    return w.array(index)


def conv(w: Walk) -> Pending:
    """Conv with constant weights."""
    x, weights = w.tensor(0), w.weights(w.value(1), 0)
    if weights.values.ndim != 4:
        raise w.refuse(f"weights have rank {weights.values.ndim}; 4 is supported")
    kernel = (int(weights.values.shape[2]), int(weights.values.shape[3]))
    bias, geometry = bias_of(w, 2, x, weights), window(w, kernel, x.shape)
    groups, title = int(attribute(w, "group", 1)), name(w)
    return Pending(lambda q, limits: w.g.conv2d(title, x, weights, bias, geometry, groups, q, limits))


def gemm(w: Walk) -> Pending:
    """Gemm with constant weights."""
    if attribute(w, "alpha", 1.0) != 1.0 or attribute(w, "beta", 1.0) != 1.0 or attribute(w, "transA", 0):
        raise w.refuse("alpha and beta must be 1 and transA 0")
    x, weights = w.tensor(0), w.weights(w.value(1), 0 if attribute(w, "transB", 0) else 1)
    bias, title = bias_of(w, 2, x, weights), name(w)
    return Pending(lambda q, limits: w.g.linear(title, x, weights, bias, q, limits))


def matmul(w: Walk) -> Pending:
    """MatMul with constant weights of rank 2, or of two computed tensors."""
    x, title = w.tensor(0), name(w)
    if isinstance(w.value(1), Quantized) and w.value(1).values.ndim == 2:
        weights = w.weights(w.value(1), 1)
        return Pending(lambda q, limits: w.g.linear(title, x, weights, None, q, limits))
    y = w.tensor(1)
    return Pending(lambda q, limits: w.g.requantize(f"{title}.out", w.g.matmul(title, x, y, q), q, limits))


def table(w: Walk, function: Function) -> Pending:
    """Any function of one variable."""
    return pending.table(w.g, name(w), w.tensor(0), function)


def unary(function: Function) -> Handler:
    """Return the handler of a function without attributes."""
    return lambda w: table(w, function)


def clamp(w: Walk, limits: Limits) -> Pending:
    """A clamp: folded into the op before it where its result is pending, else a table."""
    value = w.value(0)
    return value.clamped(limits) if isinstance(value, Pending) else table(w, functions.clamp(*limits))


def clip(w: Walk) -> Pending:
    """Clip, with limits as attributes or operands."""
    ends = []
    for index, key, default in ((1, "min", -_INF), (2, "max", _INF)):
        ends.append(float(w.array(index).reshape(-1)[0]) if w.has(index) else float(attribute(w, key, default)))
    return clamp(w, (ends[0], ends[1]))


def hardsigmoid(w: Walk) -> Pending:
    """``clip(alpha * x + beta, 0, 1)``."""
    alpha, beta = Fraction(float(attribute(w, "alpha", 0.2))), Fraction(float(attribute(w, "beta", 0.5)))
    if abs(alpha - Fraction(1, 6)) < Fraction(1, 10**6):
        alpha = Fraction(1, 6)
    return table(w, lambda v: functions.clip(alpha * v + beta, 0, 1))


def gelu(w: Walk) -> Pending:
    """The error-function form or the tanh form."""
    return table(w, functions.gelu_tanh if attribute(w, "approximate", "none") == "tanh" else functions.gelu)


def _number(w: Walk, index: int) -> float | None:
    value = w.value(index)
    if isinstance(value, Quantized):
        value = value.real
    return float(value.reshape(-1)[0]) if isinstance(value, np.ndarray) and value.size == 1 else None


def binary(method: str, with_number: Callable[[float, bool], Function]) -> Handler:
    """Two tensors, or a tensor and a number (second argument: whether it comes first), which is a table."""

    def handle(w: Walk) -> Pending:
        title = name(w)
        for i in (0, 1):
            number = _number(w, i)
            if number is not None:
                return pending.table(w.g, title, w.tensor(1 - i), with_number(number, i == 0))
        a, b = w.tensor(0), w.tensor(1)
        op = getattr(w.g, method)
        return Pending(lambda q, limits: op(title, a, b, q, limits))

    return handle


def div(w: Walk) -> Pending:
    """Division by a number."""
    number = _number(w, 1)
    if number is None or number == 0:
        raise w.refuse("only division by a number other than 0 is supported")
    divisor = Fraction(number)
    return table(w, lambda v: v / divisor)


def reduce_mean(w: Walk) -> Pending:
    """ReduceMean; axes as attribute or operand."""
    x, title = w.tensor(0), name(w)
    axes = w.ints(1) if w.has(1) else attribute(w, "axes", None) or list(range(len(x.shape)))
    keep = bool(attribute(w, "keepdims", 1))
    return Pending(lambda q, limits: shapes.mean(w.g, title, x, axes, keep, q, limits))


def global_average_pool(w: Walk) -> Pending:
    """Mean over all pixels."""
    x, title = w.tensor(0), name(w)
    axes = list(range(2, len(x.shape)))
    return Pending(lambda q, limits: shapes.mean(w.g, title, x, axes, True, q, limits))


def floor_only(w: Walk) -> None:
    """Refuse ceil_mode and dilated pools."""
    if attribute(w, "ceil_mode", 0) or any(d != 1 for d in attribute(w, "dilations", [1, 1])):
        raise w.refuse("ceil_mode must be 0 and dilations 1")


def average_pool(w: Walk) -> Pending:
    """AveragePool."""
    floor_only(w)
    kernel = attribute(w, "kernel_shape", [1, 1])
    x, title, padded = w.tensor(0), name(w), bool(attribute(w, "count_include_pad", 0))
    geometry = window(w, (int(kernel[0]), int(kernel[1])), x.shape)
    return Pending(lambda q, limits: shapes.avg_pool_to(w.g, title, w.g.image(x), geometry, padded, q, limits))


def softmax(w: Walk) -> Pending:
    """Softmax over one axis; before opset 13 over all axes from ``axis`` on."""
    x, title = w.tensor(0), name(w)
    axis = int(attribute(w, "axis", -1 if w.model.opset >= 13 else 1))
    if w.model.opset < 13 and int(np.prod(x.shape[axis % len(x.shape) + 1 :], dtype=np.int64)) != 1:
        raise w.refuse(f"softmax over the axes from {axis} on; export with opset 13 or later")
    made: list[QuantizedTensor] = []

    def emit(q: QParams, limits: Limits) -> QuantizedTensor:
        if not made:
            made.append(shapes.softmax(w.g, title, x, axis))
        return w.g.requantize(f"{title}.out", made[0], q, limits)

    return Pending(emit)


def _subtract(number: float, first: bool) -> Function:
    return functions.affine(-1.0, number) if first else functions.affine(1.0, -number)


COMPUTE: dict[str, Handler] = {
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "Relu": lambda w: clamp(w, (0.0, _INF)),
    "Clip": clip,
    "HardSwish": unary(functions.hardswish),
    "HardSigmoid": hardsigmoid,
    "Sigmoid": unary(functions.sigmoid),
    "Tanh": unary(functions.tanh),
    "Gelu": gelu,
    "LeakyRelu": lambda w: table(w, functions.leaky_relu(float(attribute(w, "alpha", 0.01)))),
    "Elu": lambda w: table(w, functions.elu(float(attribute(w, "alpha", 1.0)))),
    "Neg": unary(lambda v: -v),
    "Abs": unary(abs),
    "Add": binary("add", lambda c, _: functions.affine(1.0, c)),
    "Sub": binary("sub", _subtract),
    "Mul": binary("mul", lambda c, _: functions.affine(c, 0.0)),
    "Div": div,
    "ReduceMean": reduce_mean,
    "GlobalAveragePool": global_average_pool,
    "AveragePool": average_pool,
    "Softmax": softmax,
}
