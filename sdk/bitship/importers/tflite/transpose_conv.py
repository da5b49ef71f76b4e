"""TRANSPOSE_CONV as one convolution over the input, without a graph op of its own and without inserted zeros.

Output row ``s * q + r - pad`` is the sum over j of input row ``q - j`` times kernel row ``s * j + r``. The s * s phases
(r of rows, r of columns) become channels of a stride-1 convolution with kernels of ceil(K / s) taps; a transpose then
weaves the phases together. Sums are the same integers, so the bits are.
"""

import numpy as np

from bitship.graph.base import Array
from bitship.graph.ops import Conv2D, Reshape, Slice, Transpose
from bitship.importers.tflite.context import Context
from bitship.importers.tflite.conv import SAME, factors, weight_zero_point, weights_and_bias

_MAX_STRIDE = 32
_MAX_WEIGHTS = 1 << 27


def _axis_plan(ctx: Context, extent: int, out: int, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Return (pad before, pad after, output phases skipped, taps) of one spatial axis."""
    pad = 0
    if ctx.option("Padding") == SAME:
        pad = max(0, (-(-out // stride) - 1) * stride + kernel - out) // 2
    else:
        pad = max(0, ((out - kernel) // stride) * stride + kernel - out) // 2
    taps = -(-kernel // stride)
    first, last = pad // stride, (pad + out - 1) // stride
    if not 1 <= out <= 1 << 16 or first > taps - 1:
        raise ctx.refuse(f"output extent {out} does not fit input extent {extent}")
    return taps - 1 - first, max(last - extent + 1, 0), pad - first * stride, taps


def _phases(ctx: Context, codes: Array, stride: tuple[int, int], taps: tuple[int, int], zero_point: int) -> Array:
    """Return weights [sh * sw * O, taps, taps, I] from [O, KH, KW, I]: flipped, split by phase, filled with zeros."""
    o, kh, kw, i = codes.shape
    full = (taps[0] * stride[0], taps[1] * stride[1])
    if o * full[0] * full[1] * i > _MAX_WEIGHTS:
        raise ctx.refuse(f"weights {list(codes.shape)} with stride {stride} are too large")
    wide = np.full((o, *full, i), zero_point, np.int8)
    wide[:, :kh, :kw] = codes
    split = wide.reshape(o, taps[0], stride[0], taps[1], stride[1], i)[:, ::-1, :, ::-1]
    return np.ascontiguousarray(split.transpose(2, 4, 0, 1, 3, 5)).reshape(-1, *taps, i)


def transpose_conv(ctx: Context) -> None:
    """Lower TRANSPOSE_CONV: operands are output shape, weights [O, KH, KW, I], input, and perhaps a bias."""
    info, codes, bias = weights_and_bias(ctx, 0, bias=3)
    x, out = ctx.name(ctx.operand(2)), ctx.ints(0)
    shape = ctx.shape(x)
    stride = (ctx.option("StrideH"), ctx.option("StrideW"))
    if len(shape) != 4 or codes.ndim != 4 or len(out) != 4 or codes.shape[3] != shape[3] or not codes.size:
        raise ctx.refuse(f"input {list(shape)}, weights {list(codes.shape)} and result {list(out)} do not fit")
    if not all(1 <= s <= _MAX_STRIDE for s in stride) or out[0] != shape[0] or out[3] != codes.shape[0]:
        raise ctx.refuse(f"stride {stride} or result {list(out)} is not supported")
    rows = _axis_plan(ctx, shape[1], out[1], codes.shape[1], stride[0])
    columns = _axis_plan(ctx, shape[2], out[2], codes.shape[2], stride[1])
    zero_point = weight_zero_point(ctx, info)
    weights = _phases(ctx, codes, stride, (rows[3], columns[3]), zero_point)
    phases = stride[0] * stride[1]
    scaled = factors(ctx, info, out[3], 0, ctx.operand(2))
    op = Conv2D(
        padding=(rows[0], rows[1], columns[0], columns[1]),
        input_zero_point=ctx.zero_point(ctx.operand(2)),
        weight_zero_point=zero_point,
        requant=ctx.rescale_to(ctx.result, scaled * (phases if len(scaled) > 1 else 1)),
    )
    biases = ctx.builder.constant(f"{info.name}/biases", np.tile(ctx.builder.constants[bias], phases))
    y = ctx.aside(op, x, ctx.builder.constant(f"{info.name}/phases", weights), biases)
    _weave(ctx, y, stride, (rows[2], columns[2]), out)


def _weave(ctx: Context, y: str, stride: tuple[int, int], skip: tuple[int, int], out: tuple[int, ...]) -> None:
    """Lay the phases side by side and cut the result out."""
    n, h, w, _ = ctx.shape(y)
    if stride != (1, 1):
        y = ctx.aside(Reshape((n, h, w, *stride, out[3])), y)
        y = ctx.aside(Transpose((0, 1, 3, 2, 4, 5)), y)
        y = ctx.aside(Reshape((n, h * stride[0], w * stride[1], out[3])), y)
    ctx.names[ctx.result] = y
    if ctx.shape(y) != out:
        ctx.emit(Slice((0, *skip, 0), out), y)
