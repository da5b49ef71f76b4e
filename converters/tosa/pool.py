"""avg_pool2d and max_pool2d.

TOSA's AVG_POOL2D multiplies by a reciprocal and rounds ties up. Here the window's sum is a depthwise convolution
with ones, and the division is a multiplication whose reciprocal is a little too large: a tie then rounds away from
zero on both sides. Every sum there can be is checked at conversion.
"""

import numpy as np

from bitship.converters.tosa import products, requant
from bitship.converters.tosa.emitter import Emitter
from bitship.converters.tosa.values import Element, Value
from bitship.graph import DType, ops
from bitship.graph.base import Ints, TensorType

_BITS = 30  # of a reciprocal's multiplier
_EXHAUSTIVE = 1 << 26


def max_pool2d(e: Emitter, op: ops.MaxPool2D, x: Value) -> Value:
    """MAX_POOL2D, whose padding takes no part, and the clamp."""
    x, padding = products.fitted(e, x, op.kernel, op, (1, 1))
    y = e.custom(
        "MAX_POOL2D",
        [x],
        _shape(x, op, padding),
        x.element,
        (x.lo, x.hi),
        "MaxPool2d",
        kernel=list(op.kernel),
        stride=list(op.stride),
        pad=list(padding),
        nan_mode=e.tosa.NanPropagationMode.PROPAGATE,
    )
    return e.clamp(y, op.qmin, op.qmax)


def _shape(x: Value, op: ops.MaxPool2D | ops.AvgPool2D, padding: products.Padding) -> tuple[int, ...]:
    rows = (x.shape[1] + padding[0] + padding[1] - op.kernel[0]) // op.stride[0] + 1
    columns = (x.shape[2] + padding[2] + padding[3] - op.kernel[1]) // op.stride[1] + 1
    return x.shape[0], rows, columns, x.shape[3]


def reciprocal(count: int, reach: int) -> tuple[int, int]:
    """Return (multiplier, shift) with ``(s * multiplier + 2^(shift - 1)) >> shift`` = ``s / count``, half away.

    reach  the largest magnitude of a sum. With ``multiplier = ceil(2^shift / count)`` (one more where that is exact
    and the count is even, so that ties of either sign leave zero), the error stays below 1 / (2 count) for all sums
    of magnitude under ``2^shift / (2 count^2)``, which the shift is chosen for.
    """
    if count == 1:
        return 1 << _BITS, _BITS
    shift = _BITS + count.bit_length() - 1
    while reach * 2 * count * count >= 1 << shift and shift < 62:  # pragma: no cover - reach is below 2^30 / count
        shift += 1
    return (1 << shift) // count + 1, shift


def mean(total: Ints, count: int, rounding: ops.DivRounding) -> Ints:
    """Return the specification's division."""
    if rounding is ops.DivRounding.HALF_UP:
        return (total + count // 2) // count
    return np.asarray(np.sign(total) * ((np.abs(total) + count // 2) // count))


def avg_pool2d(e: Emitter, op: ops.AvgPool2D, x: Value) -> Value:
    """The sums, then their exact division by the elements each window has."""
    dtype = DType.INT16 if x.element is Element.INT16 else DType.INT8
    counts = op.count(TensorType((1, *x.shape[1:]), dtype))[:, :, :, :1]
    lifted = op.rounding is ops.DivRounding.HALF_UP and x.lo < 0
    offset = x.element.range[0] if lifted else 0  # sums that are not negative round half up as half away
    total = _sums(e, op, x, offset)
    total = total.within((x.lo - offset) * int(counts.max()), (x.hi - offset) * int(counts.max()))
    reach = max(abs(total.lo), abs(total.hi))
    factors = {int(c): reciprocal(int(c), reach) for c in np.unique(counts)}
    shift = max(s for _, s in factors.values())
    multipliers = {c: (1 << shift) // c + (c > 1) for c in factors}
    if max(multipliers.values()) >= 1 << 31:
        return e.clamp(_divided(e, op, total, counts, offset, x), op.qmin, op.qmax)
    for c, m in multipliers.items():
        most = max(abs(x.lo - offset), abs(x.hi - offset)) * c
        if most > _EXHAUSTIVE or not _agrees(c, m, shift, most):
            return e.clamp(_divided(e, op, total, counts, offset, x), op.qmin, op.qmax)
    if len(multipliers) == 1:
        m = next(iter(multipliers.values()))
        y = _scaled(e, total, m, shift)
    else:
        rows = np.vectorize(multipliers.__getitem__)(counts)
        y = e.mul(total, e.const(rows.astype(np.int64)), shift)
    y = e.add(y.within(x.lo - offset, x.hi - offset), offset)
    return e.cast(e.clamp(y, op.qmin, op.qmax), x.element)


def _agrees(count: int, multiplier: int, shift: int, most: int) -> bool:
    sums = np.arange(-most, most + 1, dtype=np.int64)
    found = (sums * multiplier + (np.int64(1) << (shift - 1))) >> shift
    return bool(np.array_equal(found, mean(sums, count, ops.DivRounding.HALF_AWAY)))


def _scaled(e: Emitter, total: Value, multiplier: int, shift: int) -> Value:
    factor = ops.Rescale((multiplier,), (31 - shift,), dtype=DType.INT32, qmin=-(1 << 31), qmax=(1 << 31) - 1)
    return requant.rescale(e, total, factor)


def _divided(e: Emitter, op: ops.AvgPool2D, total: Value, counts: Ints, offset: int, x: Value) -> Value:
    """INTDIV by the counts, for sums that no one multiplier serves."""
    half = e.const(counts // 2)
    away = e.select(e.greater(e.term(0, total), total), e.sub(total, half), e.add(total, half))
    y = e.intdiv(away, e.const(counts)).within(x.lo - offset, x.hi - offset)
    return e.cast(e.add(y, offset), x.element)


def _sums(e: Emitter, op: ops.AvgPool2D, x: Value, offset: int) -> Value:
    """Return the sums of ``x - offset`` inside the windows."""
    channels = x.shape[3]
    ones = e.const(np.ones((*op.kernel, channels, 1), np.int8), Element.INT8)
    flat = ops.DepthwiseConv2D(stride=op.stride, padding=op.padding, input_zero_point=offset)
    return products.depthwise_conv2d(e, flat, x, ones, e.const(np.zeros(channels, np.int32)))
