"""Chooses between the fast and the plain kernel for convolutions and matrix products."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bitship.converters.tvm.computed import Strided, row_sums, widened
from bitship.converters.tvm.copy import strides_of
from bitship.converters.tvm.depthwise import Depthwise, DepthwiseKernel
from bitship.converters.tvm.gemm import GemmKernel, Product
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.plain import plain_conv, plain_fully_connected, plain_matmul
from bitship.converters.tvm.tir import Buffer, Function
from bitship.converters.tvm.window import Window
from bitship.graph.base import Array, Interval, Ints, Operand, TensorType
from bitship.graph.dtypes import DType
from bitship.graph.ops import Conv2D, DepthwiseConv2D, FullyConnected, MatMul
from bitship.graph.ops.conv import dot_range

Reader = Callable[[int], Buffer]
_MANY_TAPS = 9


def reach(x: Operand, input_zero_point: int, weights: Ints, bias: Ints) -> int:
    """Largest magnitude of ``bias + sum w * (x - zero point)``; weights [O, K], bias [O]."""
    centred = Interval(x.range.lo - input_zero_point, x.range.hi - input_zero_point).union(Interval(0, 0))
    known = Operand(TensorType(bias.shape, DType.INT32), Interval(0, 0), bias)
    found = dot_range(centred, weights, known, (1,))
    return max(abs(found.lo), abs(found.hi))


def conv_window(
    op: Conv2D | DepthwiseConv2D, x: tuple[int, ...], kernel: tuple[int, int], out: tuple[int, ...]
) -> Window:
    """Return the geometry of a convolution from its operands' shapes."""
    return Window(x[0], x[1], x[2], x[3], out[1], out[2], kernel, op.stride, op.dilation, op.padding)


def lower_conv(
    fn: Function,
    isa: Isa,
    op: Conv2D,
    x: Reader,
    out: Buffer,
    operands: tuple[Operand, Operand, Operand],
    out_shape: tuple[int, ...],
) -> None:
    """conv2d; ``x`` declares operand i as a parameter."""
    a, w, b = operands
    o, kh, kw, depth = w.type.shape
    window = conv_window(op, a.type.shape, (kh, kw), out_shape)
    if w.value is None or b.value is None or a.type.dtype is not DType.INT8:
        return plain_conv(fn, isa, op, (x(0), x(1), x(2), out), window)
    weights = w.value.astype(np.int64) - op.weight_zero_point
    bias = b.value.astype(np.int64)
    row, column = op.dilation[0] * window.pw * window.c, op.dilation[1] * window.c
    if op.groups == 1 and op.dilation[1] == 1:
        runs, levels = weights.reshape(1, o, kh, kw * depth), ((kh, row), (1, 0))
    else:
        runs, levels = weights.reshape(op.groups, o // op.groups, kh * kw, depth), ((kh, row), (kw, column))
    bound = reach(a, op.input_zero_point, weights.reshape(o, -1), bias)
    product = Product(window, runs, bias, levels, depth, op.input_zero_point, op.requant, bound)
    if not product.fits(isa):
        return plain_conv(fn, isa, op, (x(0), x(1), x(2), out), window)
    return GemmKernel(fn, isa, product, x(0), out).write()


def lower_depthwise(
    fn: Function,
    isa: Isa,
    op: DepthwiseConv2D,
    x: Reader,
    out: Buffer,
    operands: tuple[Operand, Operand, Operand],
    out_shape: tuple[int, ...],
) -> None:
    """depthwise_conv2d; ``x`` declares operand i as a parameter."""
    a, w, b = operands
    kh, kw, c, multiplier = w.type.shape
    window = conv_window(op, a.type.shape, (kh, kw), out_shape)
    if w.value is None or b.value is None or a.type.dtype is not DType.INT8 or multiplier != 1 or isa.k_step == 0:
        return plain_conv(fn, isa, op, (x(0), x(1), x(2), out), window)
    weights = w.value.astype(np.int64)[..., 0] - op.weight_zero_point
    bias = b.value.astype(np.int64)
    bound = reach(a, op.input_zero_point, weights.reshape(-1, c).T, bias)
    if window.dense:  # its pixels are addressed as one row
        window = Window(1, 1, window.n * window.h * window.w, c, 1, window.n * window.oh * window.ow)
    task = Depthwise(window, weights, bias, op.input_zero_point, op.requant, bound)
    if not task.fits() or (not isa.single and kh * kw > _MANY_TAPS):
        return plain_conv(fn, isa, op, (x(0), x(1), x(2), out), window)
    return DepthwiseKernel(fn, isa, task, x(0), out).write()


def lower_fully_connected(
    fn: Function,
    isa: Isa,
    op: FullyConnected,
    x: Reader,
    out: Buffer,
    operands: tuple[Operand, Operand, Operand],
) -> None:
    """fully_connected; ``x`` declares operand i as a parameter."""
    a, w, b = operands
    if w.value is not None and b.value is not None and a.type.dtype is DType.INT8:
        weights, bias = w.value.astype(np.int64) - op.weight_zero_point, b.value.astype(np.int64)
        bound = reach(a, op.input_zero_point, weights, bias)
        product = _rows(a.type.shape[0], weights, bias, op.input_zero_point, op.requant, bound)
        if product.fits(isa):
            return GemmKernel(fn, isa, product, x(0), out).write()
    return plain_fully_connected(fn, isa, op, (x(0), x(1), x(2), out), a.type.shape, w.type.shape[0])


def lower_matmul(
    fn: Function,
    isa: Isa,
    op: MatMul,
    read: Callable[[int], Strided],
    out: Buffer,
    operands: tuple[Operand, Operand],
    placed: tuple[int, ...],
) -> None:
    """matmul; ``read`` declares operand i as a parameter. A constant b of one batch is packed ahead of time.

    placed  strides of the result in memory
    """
    a, b = operands
    (batch, rows, depth), n = a.type.shape, b.type.shape[2]
    fast = a.type.dtype is DType.INT8
    if fast and b.value is not None and batch == 1 and placed == strides_of((batch, rows, n)):
        weights: Array = b.value[0].astype(np.int64).T - op.b_zero_point
        bias = np.zeros(weights.shape[0], np.int64)
        bound = reach(a, op.a_zero_point, weights, bias)
        product = _rows(rows, weights, bias, op.a_zero_point, op.requant, bound)
        left = read(0)
        if product.fits(isa) and left.strides[1] == depth and not left.offset:
            return GemmKernel(fn, isa, product, left.buffer, out).write()
    if fast and _both_computed(fn, isa, op, read, out, operands, placed):
        return None
    return plain_matmul(fn, isa, op, (read(0), read(1)), out, (a.type.shape, n), placed)


def _both_computed(
    fn: Function,
    isa: Isa,
    op: MatMul,
    read: Callable[[int], Strided],
    out: Buffer,
    operands: tuple[Operand, Operand],
    placed: tuple[int, ...],
) -> bool:
    """Write the kernel that packs b at run time, and say whether there is one.

    A zero point of b takes ``b_zero_point * sum(row of a - a_zero_point)`` off every accumulator of the row.
    """
    a, b = operands
    (batch, rows, depth), n = a.type.shape, b.type.shape[2]
    most = max(abs(a.range.lo - op.a_zero_point), abs(a.range.hi - op.a_zero_point))
    bound = depth * most * max(abs(b.range.lo - op.b_zero_point), abs(b.range.hi - op.b_zero_point))
    shape: Ints = np.broadcast_to(np.int64(0), (batch, n, 1, depth))
    window, levels = Window(batch, 1, rows, depth, 1, rows), ((1, 0), (1, 0))
    product = Product(window, shape, np.zeros(0, np.int64), levels, 0, op.a_zero_point, op.requant, bound)
    product = replace(
        product, placed=(placed[0], placed[1]), row_bound=abs(op.b_zero_point) * depth * (128 + abs(op.a_zero_point))
    )
    right = read(1)
    if 1 not in right.strides[1:] or not replace(product, computed=right).fits(isa):
        return False
    left = read(0)
    starts = None
    if op.b_zero_point:
        constant = depth * op.a_zero_point * op.b_zero_point
        starts = row_sums(fn, isa, left, (batch, rows, depth), -op.b_zero_point, constant)
    if isa.element != "int8":
        left = widened(fn, left, (batch, rows, depth), isa.element)
    product = replace(
        product,
        window=replace(window, c=left.strides[1]),
        computed=right,
        offset=left.offset,
        group_stride=left.strides[0],
        row_start=starts,
    )
    GemmKernel(fn, isa, product, left.buffer, out).write()
    return True


def _rows(rows: int, weights: Ints, bias: Ints, zero_point: int, requant: object, bound: int) -> Product:
    from bitship.graph.ops import Rescale

    assert requant is None or isinstance(requant, Rescale)
    o, depth = weights.shape
    window = Window(1, 1, rows, depth, 1, rows)
    return Product(window, weights.reshape(1, o, 1, depth), bias, ((1, 0), (1, 0)), 0, zero_point, requant, bound)
