"""Handlers of the operators that carry their quantization as operands: QLinear*, QGemm."""

from typing import Any

import numpy as np

from bitship.graph.base import Array
from bitship.importers import functions, shapes
from bitship.importers.functions import Function
from bitship.importers.onnx.compute import Handler, attribute, floor_only, name, window
from bitship.importers.onnx.walk import Quantized, Walk


def _weights(w: Walk, at: int, axis: int) -> Quantized:
    """Return constant codes at ``at`` with the scale and zero point that follow them."""
    codes = w.value(at)
    if isinstance(codes, Quantized):
        codes = codes.values
    if not isinstance(codes, np.ndarray):
        raise w.refuse(f"operand {at} must be constant weights")
    zero = w.array(at + 2) if w.has(at + 2) else np.zeros(1, codes.dtype)
    return Quantized(codes, w.array(at + 1), zero, axis)


def _operand(w: Walk, at: int) -> Any:
    """Return the tensor at ``at``, read with the scale and zero point that follow it."""
    return w.tensor(at, *w.qparams(at + 1, at + 2))


def _bias(w: Walk, index: int) -> Array | None:
    """Return the int32 bias, whose scale is x times weights by definition."""
    return w.array(index).astype(np.int32) if w.has(index) else None


def conv(w: Walk) -> Any:
    """QLinearConv (x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, bias)."""
    x, weights = _operand(w, 0), w.weights(_weights(w, 3, 0), 0)
    q, dtype = w.qparams(6, 7)
    if weights.values.ndim != 4:
        raise w.refuse(f"weights have rank {weights.values.ndim}; 4 is supported")
    kernel = (int(weights.values.shape[2]), int(weights.values.shape[3]))
    made = w.g.conv2d(name(w), x, weights, _bias(w, 8), window(w, kernel, x.shape), int(attribute(w, "group", 1)), q)
    return w.result(made, dtype)


def matmul(w: Walk) -> Any:
    """QLinearMatMul (a, a_scale, a_zp, b, b_scale, b_zp, y_scale, y_zp)."""
    x, (q, dtype) = _operand(w, 0), w.qparams(6, 7)
    if isinstance(w.value(3), np.ndarray) and w.value(3).ndim == 2:
        return w.result(w.g.linear(name(w), x, w.weights(_weights(w, 3, 1), 1), None, q), dtype)
    return w.result(w.g.matmul(name(w), x, _operand(w, 3), q), dtype)


def gemm(w: Walk) -> Any:
    """QGemm of com.microsoft (a, a_scale, a_zp, b, b_scale, b_zp, bias, y_scale, y_zp)."""
    if attribute(w, "alpha", 1.0) != 1.0 or attribute(w, "transA", 0) or not w.has(7):
        raise w.refuse("alpha must be 1, transA 0, and the result quantized")
    channel = 0 if attribute(w, "transB", 0) else 1
    x, weights = _operand(w, 0), w.weights(_weights(w, 3, channel), channel)
    q, dtype = w.qparams(7, 8)
    return w.result(w.g.linear(name(w), x, weights, _bias(w, 6), q), dtype)


def binary(method: str) -> Handler:
    """Return the handler of QLinearAdd or QLinearMul (a, a_scale, a_zp, b, b_scale, b_zp, y_scale, y_zp)."""

    def handle(w: Walk) -> Any:
        a, b, (q, dtype) = _operand(w, 0), _operand(w, 3), w.qparams(6, 7)
        return w.result(getattr(w.g, method)(name(w), a, b, q), dtype)

    return handle


def global_average_pool(w: Walk) -> Any:
    """QLinearGlobalAveragePool (x, x_scale, x_zp, y_scale, y_zp)."""
    if attribute(w, "channels_last", 0):
        raise w.refuse("channels_last must be 0")
    x, (q, dtype) = _operand(w, 0), w.qparams(3, 4)
    return w.result(shapes.mean(w.g, name(w), x, range(2, len(x.shape)), True, q), dtype)


def average_pool(w: Walk) -> Any:
    """QLinearAveragePool (x, x_scale, x_zp, y_scale, y_zp)."""
    floor_only(w)
    if attribute(w, "channels_last", 0):
        raise w.refuse("channels_last must be 0")
    x, (q, dtype) = _operand(w, 0), w.qparams(3, 4)
    kernel = attribute(w, "kernel_shape", [1, 1])
    geometry = window(w, (int(kernel[0]), int(kernel[1])), x.shape)
    padded = bool(attribute(w, "count_include_pad", 0))
    made = shapes.avg_pool_to(w.g, name(w), w.g.image(x), geometry, padded, q, (float("-inf"), float("inf")))
    return w.result(made, dtype)


def concat(w: Walk) -> Any:
    """QLinearConcat (y_scale, y_zp, then x, x_scale, x_zp for every operand)."""
    assert w.node is not None
    q, dtype = w.qparams(0, 1)
    xs = [_operand(w, i) for i in range(2, len(w.node.inputs) - 2, 3)]
    return w.result(shapes.concat(w.g, name(w), xs, int(attribute(w, "axis", 0)), q), dtype)


def unary(function: Function) -> Handler:
    """Return the handler of a function (x, x_scale, x_zp, y_scale, y_zp)."""

    def handle(w: Walk) -> Any:
        x, (q, dtype) = _operand(w, 0), w.qparams(3, 4)
        return w.result(w.g.unary(name(w), x, function, q), dtype)

    return handle


def leaky_relu(w: Walk) -> Any:
    """QLinearLeakyRelu."""
    return unary(functions.leaky_relu(float(attribute(w, "alpha", 0.01))))(w)


def softmax(w: Walk) -> Any:
    """QLinearSoftmax of com.microsoft (x, x_scale, x_zp, y_scale, y_zp)."""
    x, (q, dtype) = _operand(w, 0), w.qparams(3, 4)
    made = shapes.softmax(w.g, name(w), x, int(attribute(w, "axis", -1)))
    return w.result(w.g.requantize(f"{name(w)}.out", made, q), dtype)


QOPERATOR: dict[str, Handler] = {
    "QLinearConv": conv,
    "QLinearMatMul": matmul,
    "QGemm": gemm,
    "QLinearAdd": binary("add"),
    "QLinearMul": binary("mul"),
    "QLinearGlobalAveragePool": global_average_pool,
    "QLinearAveragePool": average_pool,
    "QLinearConcat": concat,
    "QLinearSigmoid": unary(functions.sigmoid),
    "QLinearLeakyRelu": leaky_relu,
    "QLinearSoftmax": softmax,
}
