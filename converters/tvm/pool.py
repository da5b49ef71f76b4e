"""Pools, reductions, resize, argmax and softmax."""

from collections.abc import Callable

import numpy as np

from bitship.converters.tvm.copy import Shape, merge_axes, strides_of
from bitship.converters.tvm.elementwise import Scaler
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import (
    Buffer,
    Expr,
    Function,
    cast,
    clamp,
    const,
    i32,
    maximum,
    minimum,
    select,
)
from bitship.converters.tvm.window import Window
from bitship.graph.base import Interval
from bitship.graph.ops import (
    ArgMax,
    AvgPool2D,
    DivRounding,
    MaxPool2D,
    ReduceAny,
    ReduceMax,
    ReduceMin,
    ReduceSum,
    Resize,
)


def lower_pool(fn: Function, isa: Isa, op: AvgPool2D | MaxPool2D, x: Buffer, out: Buffer, w: Window) -> None:
    """Average or largest of the window's elements inside x, channels in vectors."""
    average = isinstance(op, AvgPool2D)
    first = 0 if average else int(np.iinfo(x.dtype).min)

    def clip(start: Expr, kernel: int, extent: int) -> tuple[Expr, Expr]:
        lo = fn.let(maximum(start, i32(0)))
        return lo, fn.let(minimum(start + kernel, i32(extent)) - lo)

    with fn.loop(w.n) as n, fn.divided(w.oh) as y, fn.loop(w.ow) as xo:
        y0, rows = clip(y * w.stride[0] - w.padding[0], w.kernel[0], w.h)
        x0, columns = clip(xo * w.stride[1] - w.padding[2], w.kernel[1], w.w)
        target = fn.let(((n * w.oh + y) * w.ow + xo) * w.c)
        count = const(w.kernel[0] * w.kernel[1], "int32") if not w.padded else fn.let(rows * columns)

        def channels(c: Expr, lanes: int) -> None:
            acc = fn.registers("int32" if lanes == 1 else f"int32x{lanes}")
            acc.store(0, const(first, "int32", lanes))
            with fn.loop(rows if w.padded else w.kernel[0]) as ky, fn.loop(columns if w.padded else w.kernel[1]) as kx:
                at = ((n * w.h + y0 + ky) * w.w + x0 + kx) * w.c + c
                value = cast(x.load(at, lanes), "int32", lanes)
                acc.store(0, acc.load(0) + value if average else maximum(acc.load(0), value))
            value = fn.let(acc.load(0))
            if isinstance(op, AvgPool2D):
                value = fn.let(_mean(fn, value, count, op.rounding, lanes))
            out.store(target + c, cast(clamp(value, op.qmin, op.qmax, "int32", lanes), out.dtype, lanes), lanes)

        fn.chunks(w.c, isa.lanes, channels)


def _mean(fn: Function, total: Expr, count: Expr, rounding: DivRounding, lanes: int) -> Expr:
    """Return total / count to nearest; both divisions are truncating ones of numbers that are not negative.

    HALF_UP is ``floor((total + count / 2) / count)``; of a negative n the floor is ``-((count - 1 - n) / count)``.
    """
    from tvm import tirx

    many = count if lanes == 1 else tirx.Broadcast(count, lanes)
    one, zero = const(1, "int32", lanes), const(0, "int32", lanes)
    half = many >> one
    if rounding is DivRounding.HALF_UP:
        n = fn.let(total + half)
        low = zero - tirx.truncdiv(maximum(many - one - n, zero), many)
        return select(n < zero, low, tirx.truncdiv(maximum(n, zero), many))
    size = fn.let(maximum(total, zero - total))
    quotient = fn.let(tirx.truncdiv(size + half, many))
    return select(total < zero, zero - quotient, quotient)


def lower_reduce(
    fn: Function,
    isa: Isa,
    op: ReduceSum | ReduceMax | ReduceMin | ReduceAny,
    x: Buffer,
    out: Buffer,
    shape: Shape,
    value: Interval,
) -> None:
    """Reduce over axes; the last kept axis runs in vectors when it is contiguous."""
    strides = strides_of(shape)
    reduced = [i for i in range(len(shape)) if i in op.axes]
    kept = [i for i in range(len(shape)) if i not in op.axes]
    kept_shape = [shape[i] for i in kept] or [1]
    outer, (read, write) = merge_axes(kept_shape, ([strides[i] for i in kept] or [1], strides_of(kept_shape)))
    inner, (step,) = merge_axes([shape[i] for i in reduced], ([strides[i] for i in reduced],))
    terms = int(np.prod([shape[i] for i in reduced]))
    zero_point = op.input_zero_point if isinstance(op, ReduceSum) else 0
    ends = [terms * (value.lo - zero_point), terms * (value.hi - zero_point)]
    final = Scaler(fn, isa, op.requant, Interval(min(*ends, 0), max(*ends, 0))) if isinstance(op, ReduceSum) else None
    combine, first = _combiner(op, value, zero_point)

    def body(source: Expr, target: Expr, lanes: int) -> None:
        acc = fn.registers("int32" if lanes == 1 else f"int32x{lanes}")
        acc.store(0, const(first, "int32", lanes))
        _loops(fn, inner, step, lambda at: acc.store(0, combine(acc.load(0), x.load(source + at, lanes), lanes)))
        result = fn.let(acc.load(0))
        if final is not None:
            result = final.apply(result, lanes)
        out.store(target, result if final is not None else cast(result, out.dtype, lanes), lanes)

    def last(source: Expr, target: Expr) -> None:
        wide = isa.lanes if read[-1] == 1 and kept and kept[-1] == len(shape) - 1 else 1
        fn.chunks(outer[-1], wide, lambda c, n: body(source + c * read[-1], target + c, n))

    _loops2(fn, outer[:-1], read, write, last)


def _combiner(
    op: ReduceSum | ReduceMax | ReduceMin | ReduceAny, value: Interval, zero_point: int
) -> tuple[Callable[[Expr, Expr, int], Expr], int]:
    def widen(e: Expr, lanes: int) -> Expr:
        return cast(e, "int32", lanes)

    if isinstance(op, ReduceSum):
        return lambda acc, e, n: acc + (widen(e, n) - const(zero_point, "int32", n)), 0
    if isinstance(op, ReduceMin):
        return lambda acc, e, n: minimum(acc, widen(e, n)), value.hi
    return lambda acc, e, n: maximum(acc, widen(e, n)), value.lo


def _loops(fn: Function, extents: list[int], steps: list[int], body: Callable[[Expr], None], at: Expr = None) -> None:
    at = i32(0) if at is None else at
    if not extents:
        body(at)
        return
    with fn.loop(extents[0]) as i:
        _loops(fn, extents[1:], steps[1:], body, at + i * steps[0])


def _loops2(
    fn: Function, extents: list[int], read: list[int], write: list[int], body: Callable[[Expr, Expr], None]
) -> None:
    def go(axis: int, source: Expr, target: Expr) -> None:
        if axis == len(extents):
            body(fn.let(source), fn.let(target))
            return
        with fn.loop(extents[axis]) as i:
            go(axis + 1, source + i * read[axis], target + i * write[axis])

    go(0, i32(0), i32(0))


def lower_argmax(fn: Function, op: ArgMax, x: Buffer, out: Buffer, shape: Shape) -> None:
    """Index of the first largest element along the axis."""
    outer, extent = int(np.prod(shape[: op.axis])), shape[op.axis]
    inner = int(np.prod(shape[op.axis + 1 :]))
    best, index = fn.registers(x.dtype), fn.registers("int32")
    with fn.loop(outer) as o, fn.loop(inner) as i:
        start = fn.let(o * (extent * inner) + i)
        best.store(0, x.load(start))
        index.store(0, i32(0))
        with fn.loop(extent) as k:
            value = fn.let(x.load(start + k * inner))
            with fn.when(value > best.load(0)):
                best.store(0, value)
                index.store(0, k)
        out.store(o * inner + i, index.load(0))


def lower_resize(fn: Function, isa: Isa, op: Resize, x: Buffer, out: Buffer, shape: Shape) -> None:
    """Mix four neighbours by the tables' weights, rounded half away from zero; channels in vectors."""
    n_, h, w, c_ = shape
    tables = [
        fn.constant(np.array(t, np.int32)) for axis in (op.rows, op.columns) for t in (axis.lo, axis.hi, axis.weight)
    ]
    oh, ow = len(op.rows.lo), len(op.columns.lo)
    one, shift = 1 << op.bits, 2 * op.bits
    with fn.loop(n_) as n, fn.divided(oh) as y, fn.loop(ow) as xo:
        rows = [fn.let((n * h + tables[k].load(y)) * (w * c_)) for k in (0, 1)]
        columns = [fn.let(tables[k].load(xo) * c_) for k in (3, 4)]
        wy, wx = fn.let(tables[2].load(y)), fn.let(tables[5].load(xo))
        target = fn.let(((n * oh + y) * ow + xo) * c_)

        def channels(c: Expr, lanes: int) -> None:
            from tvm import tirx

            def spread(e: Expr) -> Expr:
                return e if lanes == 1 else tirx.Broadcast(e, lanes)

            def at(i: int, j: int) -> Expr:
                return cast(x.load(rows[i] + columns[j] + c, lanes), "int32", lanes)

            left = [at(0, j) * spread(one - wy) + at(1, j) * spread(wy) for j in (0, 1)]
            acc = fn.let(left[0] * spread(one - wx) + left[1] * spread(wx))
            zero, half = const(0, "int32", lanes), const((1 << shift) >> 1, "int32", lanes)
            size = fn.let((maximum(acc, zero - acc) + half) >> const(shift, "int32", lanes))
            out.store(target + c, cast(select(acc < zero, zero - size, size), out.dtype, lanes), lanes)

        fn.chunks(c_, isa.lanes, channels)
