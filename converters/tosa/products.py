"""conv2d, depthwise_conv2d, fully_connected and matmul: TOSA's products, then RESCALE.

TOSA wants a window to end exactly at the padded edge, zero points of 0 for int16, and equal types for MATMUL.
"""

from typing import Any

import numpy as np

from bitship.converters.tosa import requant
from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import Element, Value
from bitship.errors import UnsupportedError
from bitship.graph import ops

Padding = tuple[int, int, int, int]
_HALF = 1 << 8
_INT32 = Element.INT32.range


def fitted(e: Emitter, x: Value, kernel: tuple[int, ...], op: Any, dilation: tuple[int, int]) -> tuple[Value, Padding]:
    """Return (x, padding) so that the last window ends at the padded edge: less padding, then less of x."""
    before, after = [op.padding[0], op.padding[2]], [op.padding[1], op.padding[3]]
    for i in range(2):
        extent = x.shape[1 + i]
        spare = (extent + before[i] + after[i] - dilation[i] * (kernel[i] - 1) - 1) % op.stride[i]
        after[i] -= spare
        if extent + after[i] < 1:  # every window lies in the padding, which must then be a part of x
            x = e.pad(x, [(before[i] if a == 1 + i else 0, 0) for a in range(4)], op.input_zero_point)
            extent, before[i] = extent + before[i], 0
        if after[i] < 0:
            x, after[i] = e.part(x, 1 + i, 0, extent + after[i]), 0
    return x, (before[0], after[0], before[1], after[1])


def channel_range(op: Any, x: Value, w: Value, bias: Value, axes: tuple[int, ...]) -> requant.Reach | None:
    """Return the lowest and the highest accumulator of every channel; None where weights or bias are computed."""
    if w.array is None or bias.array is None:
        return None
    low, high = min(x.lo - op.input_zero_point, 0), max(x.hi - op.input_zero_point, 0)
    centred = w.array.astype(np.int64) - op.weight_zero_point
    most = np.where(centred > 0, centred * high, centred * low).sum(axis=axes).reshape(-1)
    least = np.where(centred > 0, centred * low, centred * high).sum(axis=axes).reshape(-1)
    return least + bias.array, most + bias.array


def _tamed(
    e: Emitter, bias: Value, reach: requant.Reach | None, r: ops.Rescale | None
) -> tuple[Value, requant.Reach | None]:
    """Return (bias, range) with the bias of a channel whose every result is saturated moved towards zero.

    Quantizers give a channel without weights a bias of up to 2^31, beyond what RESCALE takes.
    """
    if reach is None or r is None or bias.array is None:
        return bias, reach
    if r.pre_shift:
        return bias, reach
    factor, channels = requant.factor_of(r), bias.size
    target = max(abs(r.qmin - r.output_zero_point), abs(r.qmax - r.output_zero_point)) + 2
    limit = np.broadcast_to(requant.saturates_at(factor, target), channels)
    low, high = reach
    moved = np.where(low > limit, limit - low, np.where(high < -limit, -limit - high, 0))
    return e.const(bias.array + moved), (low + moved, high + moved)


def conv2d(e: Emitter, op: ops.Conv2D, x: Value, w: Value, bias: Value) -> Value:
    """Convolution; groups of one channel are depthwise, others are sliced and joined."""
    bias, reach = _tamed(e, bias, channel_range(op, x, w, bias, (1, 2, 3)), op.requant)
    if op.groups > 1 and w.shape[3] == 1:
        o, kh, kw, _ = w.shape
        m = o // op.groups
        by_channel = e.transpose(e.reshape(w, (op.groups, m, kh, kw)), (2, 3, 0, 1))
        acc = _accumulated(e, "DEPTHWISE_CONV2D", op, x, by_channel, bias)
        return requant.finish(e, acc, op.requant, reach)
    c, o = w.shape[3], w.shape[0] // op.groups
    parts = []
    for g in range(op.groups):
        taken = e.part(x, 3, g * c, c), e.part(w, 0, g * o, o), e.part(bias, 0, g * o, o)
        parts.append(_accumulated(e, "CONV2D", op, *taken))
    return requant.finish(e, e.concat(parts, 3), op.requant, reach)


def depthwise_conv2d(e: Emitter, op: ops.DepthwiseConv2D, x: Value, w: Value, bias: Value) -> Value:
    """Depthwise convolution."""
    bias, reach = _tamed(e, bias, channel_range(op, x, w, bias, (0, 1)), op.requant)
    return requant.finish(e, _accumulated(e, "DEPTHWISE_CONV2D", op, x, w, bias), op.requant, reach)


def fully_connected(e: Emitter, op: ops.FullyConnected, x: Value, w: Value, bias: Value) -> Value:
    """A convolution of one pixel an input row: TOSA 1.0 has no matrix product with bias."""
    n, i = x.shape
    o = w.shape[0]
    flat = ops.Conv2D(input_zero_point=op.input_zero_point, weight_zero_point=op.weight_zero_point, requant=op.requant)
    return e.reshape(conv2d(e, flat, e.reshape(x, (n, 1, 1, i)), e.reshape(w, (o, 1, 1, i)), bias), (n, o))


def _accumulated(e: Emitter, kind: str, op: Any, x: Value, w: Value, bias: Value) -> Value:
    """Return the int32 accumulator, whose range ``verify`` has proven.

    What int16 has not in TOSA is taken apart: an input zero point makes two halves of x, a zero point of the weights
    several weights whose sum they are. Every part keeps its sign, so no partial sum leaves the proven range.
    """
    kernel = w.shape[1:3] if kind == "CONV2D" else w.shape[:2]
    x, padding = fitted(e, x, kernel, op, op.dilation)
    if x.element is Element.INT8:
        return _convolved(e, kind, op, x, w, bias, padding)
    halves = _halves(e, x, op.input_zero_point) if op.input_zero_point else (x,)
    flat = op.__class__(stride=op.stride, padding=op.padding, dilation=op.dilation)
    zero = e.const(np.zeros(bias.size, np.int64), Element.INT48)
    found: list[Value] = []
    for half in halves:
        parts = [_convolved(e, kind, flat, half, part, zero, padding) for part in _weights(e, w, op)]
        total = parts[0]
        for part in parts[1:]:
            total = e.add(total, part, _INT32)
        found.append(total)
    acc = found[0] if len(found) == 1 else _joined(e, *found)
    return e.add(acc, e.reshape(bias, (1, 1, 1, bias.size)), _INT32)


def _weights(e: Emitter, w: Value, op: Any) -> list[Value]:
    if not op.weight_zero_point:
        return [w]
    if w.array is None:
        raise UnsupportedError(
            f"tosa: node '{e.scope}': computed weights with zero point {op.weight_zero_point} for int16; "
            "0 is allowed: subtract it where the weights are computed"
        )
    rest = w.array.astype(np.int64) - op.weight_zero_point
    parts: list[Value] = []
    while rest.any() or not parts:
        parts.append(e.const(rest.clip(-128, 127), Element.INT8))
        rest = rest - rest.clip(-128, 127)
    return parts


def _convolved(e: Emitter, kind: str, op: Any, x: Value, w: Value, bias: Value, padding: Padding) -> Value:
    top, bottom, left, right = padding
    kernel = w.shape[1:3] if kind == "CONV2D" else w.shape[:2]
    rows = (x.shape[1] + top + bottom - op.dilation[0] * (kernel[0] - 1) - 1) // op.stride[0] + 1
    columns = (x.shape[2] + left + right - op.dilation[1] * (kernel[1] - 1) - 1) // op.stride[1] + 1
    element = Element.INT48 if x.element is Element.INT16 else Element.INT32
    zero_points = [e.const(op.input_zero_point, x.element), e.const(op.weight_zero_point, w.element)]
    acc = e.custom(
        kind,
        [x, w, bias, *zero_points],
        (x.shape[0], rows, columns, bias.size),
        element,
        attribute={"CONV2D": "Conv2d", "DEPTHWISE_CONV2D": "DepthwiseConv2d"}[kind],
        pad=list(padding),
        stride=list(op.stride),
        dilation=list(op.dilation),
        local_bound=False,
        acc_type=getattr(e.tosa.DType, element.value),
    )
    return requant.identity(e, acc, Element.INT32) if element is Element.INT48 else acc


def _halves(e: Emitter, x: Value, zero_point: int) -> tuple[Value, Value]:
    """Return ``x - zero_point`` of 17 bits as (low 8 bits, the rest), both int16."""
    centred = e.sub(e.wide(x), zero_point)
    return e.cast(e.low_bits(centred, 8), Element.INT16), e.cast(e.shift_right(centred, 8), Element.INT16)


def _joined(e: Emitter, low: Value, high: Value) -> Value:
    """Return ``low + 256 * high``; the sum is an int32 by proof, so the product is one to within low's range."""
    return e.add(e.mul(high, _HALF, reach=_INT32), low, _INT32)


def matmul(e: Emitter, op: ops.MatMul, a: Value, b: Value) -> Value:
    """Batched matrix product; int16 by int8 is int16 by int16 with an INT48 accumulator."""
    if a.element is Element.INT8:
        return requant.finish(e, _multiplied(e, a, b, op.a_zero_point, op.b_zero_point), op.requant)
    narrow = e.cast(e.sub(e.wide(b), op.b_zero_point), Element.INT16)
    if op.a_zero_point:
        low, high = _halves(e, a, op.a_zero_point)
        acc = _joined(e, _multiplied(e, low, narrow, 0, 0), _multiplied(e, high, narrow, 0, 0))
    else:
        acc = _multiplied(e, a, narrow, 0, 0)
    return requant.finish(e, acc, op.requant)


def _multiplied(e: Emitter, a: Value, b: Value, za: int, zb: int) -> Value:
    inputs = [a, b, e.const(za, a.element), e.const(zb, b.element)]
    shape = (a.shape[0], a.shape[1], b.shape[2])
    if a.element is Element.INT8:
        return e.custom("MATMUL", inputs, shape, Element.INT32, attribute="MatMul")
    return requant.identity(e, e.custom("MATMUL", inputs, shape, Element.INT48, attribute="MatMul"), Element.INT32)


def product(e: Emitter, a: Value, b: Value, za: int, zb: int) -> Value:
    """Return the int32 product of two int8 tensors, [B, M, K] by [B, K, N]."""
    return _multiplied(e, a, b, za, zb)
