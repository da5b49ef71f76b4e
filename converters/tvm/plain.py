"""Convolutions and matrix products as plain loops: every dtype, zero point and level; the fast kernels' fallback."""

import numpy as np

from bitship.converters.tvm.computed import Strided
from bitship.converters.tvm.copy import Shape
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.requant import Epilogue
from bitship.converters.tvm.tir import Buffer, Expr, Function, cast, const, i32, maximum, minimum, select
from bitship.converters.tvm.wide import row_reciprocal
from bitship.converters.tvm.window import Window
from bitship.graph.base import Array
from bitship.graph.ops import Conv2D, DepthwiseConv2D, FullyConnected, MatMul, Rescale, SoftmaxMatMul


def _centred(buffer: Buffer, at: Expr, zero_point: int) -> Expr:
    return cast(buffer.load(at), "int32") - zero_point


class _Finish:
    """Stores accumulators through the epilogue, one at a time."""

    def __init__(self, fn: Function, isa: Isa, rq: Rescale | None, channels: int, out: Buffer) -> None:
        self.fn, self.out = fn, out
        self.epilogue = Epilogue(fn, isa, rq, (1 << 31) - 1, list(range(channels)), 1)

    def store(self, at: Expr, acc: Buffer, channel: Expr) -> None:
        self.out.store(at, self.epilogue.apply(self.fn.let(acc.load(0)), channel))


def plain_conv(
    fn: Function, isa: Isa, op: Conv2D | DepthwiseConv2D, buffers: tuple[Buffer, Buffer, Buffer, Buffer], w: Window
) -> None:
    """Both convolutions; buffers are x, weights, bias and the output; taps in the padding are skipped."""
    x, weights, bias, out = buffers
    depthwise = isinstance(op, DepthwiseConv2D)
    channels = bias.raw.shape[0].value
    kh, kw = w.kernel
    depth = 1 if isinstance(op, DepthwiseConv2D) else w.c // op.groups
    per_group = channels // (w.c if isinstance(op, DepthwiseConv2D) else op.groups)
    finish, acc = _Finish(fn, isa, op.requant, channels, out), fn.registers("int32")
    with fn.points(w.n, w.oh, w.ow, channels) as (n, y, xo, o):
        acc.store(0, bias.load(o))
        group = fn.let(_quotient(o, per_group) * depth)
        with fn.loop(kh) as ky:
            iy = fn.let(y * w.stride[0] + ky * w.dilation[0] - w.padding[0])
            with fn.when(_inside(iy, w.h)), fn.loop(kw) as kx:
                ix = fn.let(xo * w.stride[1] + kx * w.dilation[1] - w.padding[2])
                with fn.when(_inside(ix, w.w)):
                    source = fn.let(((n * w.h + iy) * w.w + ix) * w.c + group)
                    tap = ky * kw + kx
                    first = fn.let(tap * channels + o if depthwise else (o * (kh * kw) + tap) * depth)
                    with fn.loop(depth) as c:
                        a = _centred(x, source + c, op.input_zero_point)
                        b = _centred(weights, first + c, op.weight_zero_point)
                        acc.store(0, acc.load(0) + a * b)
        finish.store(((n * w.oh + y) * w.ow + xo) * channels + o, acc, o)


def _inside(index: Expr, extent: int) -> Expr:
    from tvm import tirx

    return tirx.And(index >= i32(0), index < i32(extent))


def _quotient(value: Expr, by: int) -> Expr:
    from tvm import tirx

    return value if by == 1 else tirx.truncdiv(value, i32(by))


def plain_fully_connected(
    fn: Function,
    isa: Isa,
    op: FullyConnected,
    buffers: tuple[Buffer, Buffer, Buffer, Buffer],
    x_shape: Shape,
    outputs: int,
) -> None:
    """Rows of x times rows of the weights; buffers are x, weights, bias and the output."""
    x, weights, bias, out = buffers
    depth = x_shape[1]
    finish, acc = _Finish(fn, isa, op.requant, outputs, out), fn.registers("int32")
    with fn.loop(x_shape[0]) as n, fn.divided(outputs) as o:
        acc.store(0, bias.load(o))
        with fn.loop(depth) as i:
            a = _centred(x, n * depth + i, op.input_zero_point)
            acc.store(0, acc.load(0) + a * _centred(weights, o * depth + i, op.weight_zero_point))
        finish.store(n * outputs + o, acc, o)


def plain_matmul(
    fn: Function,
    isa: Isa,
    op: MatMul,
    operands: tuple[Strided, Strided],
    out: Buffer,
    shape: tuple[Shape, int],
    placed: Shape,
) -> None:
    """Batched product of strided operands; shape is a's and the columns of b, placed the result's strides."""
    left, right = operands
    (batch, m, depth), n = shape
    finish, acc = _Finish(fn, isa, op.requant, n, out), fn.registers("int32")

    def at(x: Strided, *index: Expr) -> Expr:
        return sum((i * s for i, s in zip(index, x.strides, strict=True)), i32(x.offset))

    with fn.loop(batch) as z, fn.divided(m) as i, fn.loop(n) as j:
        acc.store(0, i32(0))
        with fn.loop(depth) as k:
            p = _centred(left.buffer, at(left, z, i, k), op.a_zero_point)
            acc.store(0, acc.load(0) + p * _centred(right.buffer, at(right, z, k, j), op.b_zero_point))
        finish.store(z * placed[0] + i * placed[1] + j, acc, j)


def plain_softmax_matmul(
    fn: Function,
    op: SoftmaxMatMul,
    x: Buffer,
    v: Strided,
    out: Buffer,
    shape: tuple[int, int, int],
    table: Array,
    columns: int,
    placed: Shape,
) -> None:
    """Every row's codes to scratch, then its products, each finished by the row's own factor."""
    groups, rows, length = shape
    memory, r = fn.constant(table.astype(np.int32)), op.requant
    codes = fn.scratch("int32", groups * rows * length)
    multipliers = fn.constant(np.resize(np.array(r.multiplier, np.int64), columns))
    shifts = fn.constant(np.resize(31 - np.array(r.shift, np.int64), columns))
    top, total, acc = fn.registers("int32"), fn.registers("int64"), fn.registers("int32")
    one, low, high = (const(n, "int64") for n in (1, r.qmin, r.qmax))
    with fn.loop(groups) as g, fn.divided(rows) as m:
        row = fn.let((g * rows + m) * length)
        top.store(0, i32(-128))
        with fn.loop(length) as i:
            top.store(0, maximum(top.load(0), cast(x.load(row + i), "int32")))
        total.store(0, const(0, "int64"))
        with fn.loop(length) as i:
            value = fn.let(cast(x.load(row + i), "int32"))
            code = fn.let(memory.load(top.load(0) - value))
            if op.masked:
                code = fn.let(select(value.__eq__(i32(-128)), i32(0), code))
            codes.store(row + i, code)
            total.store(0, total.load(0) + cast(code, "int64"))
        inverse, b = row_reciprocal(fn, fn.let(maximum(total.load(0), one)))
        with fn.loop(columns) as k:
            acc.store(0, i32(0))
            with fn.loop(length) as i:
                at = g * v.strides[0] + i * v.strides[1] + k * v.strides[2] + v.offset
                acc.store(0, acc.load(0) + codes.load(row + i) * _centred(v.buffer, at, op.v_zero_point))
            by = fn.let((inverse * multipliers.load(k) + const(1 << 29, "int64")) >> const(30, "int64"))
            down = fn.let(shifts.load(k) + b)
            y = (cast(acc.load(0), "int64") * by + (one << (down - one))) >> down
            y = fn.let(maximum(minimum(y + const(r.output_zero_point, "int64"), high), low))
            out.store(g * placed[0] + m * placed[1] + k, cast(y, r.dtype.value))
