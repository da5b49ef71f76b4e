"""Loops every other kernel is made of: strided copies, broadcast element-wise loops, and the layout ops."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from bitship.converters.tvm.tir import Buffer, Expr, Function, clamp, const, i32
from bitship.graph.ops import Concat, Gather, Pad, Slice, Transpose

Shape = tuple[int, ...]


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the row-major strides of a shape, in elements."""
    result = [1]
    for extent in reversed(tuple(shape)[1:]):
        result.append(result[-1] * extent)
    return tuple(reversed(result)) if len(shape) else ()


def broadcast_strides(shape: Sequence[int], out: Sequence[int]) -> tuple[int, ...]:
    """Return strides that read an operand of this shape along the output: 0 where it is repeated."""
    return tuple(0 if n == 1 and m != 1 else s for n, m, s in zip(shape, out, strides_of(shape), strict=True))


def merge_axes(extents: Sequence[int], walks: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Drop axes of extent 1 and join neighbours that every walk steps through evenly."""
    shape: list[int] = []
    merged: list[list[int]] = [[] for _ in walks]
    for axis, n in enumerate(extents):
        if n == 1:
            continue
        if shape and all(m[-1] == w[axis] * n for m, w in zip(merged, walks, strict=True)):
            shape[-1] *= n
            for m, w in zip(merged, walks, strict=True):
                m[-1] = w[axis]
        else:
            shape.append(n)
            for m, w in zip(merged, walks, strict=True):
                m.append(w[axis])
    if not shape:
        return [1], [[1] for _ in walks]
    return shape, merged


def nest(
    fn: Function,
    extents: Sequence[int],
    walks: Sequence[Sequence[int]],
    lanes: int,
    body: Callable[[list[Expr], list[int], int], None],
) -> None:
    """Loop over an index space, the outermost loop shared among threads; a walk is a tuple of strides per axis.

    ``body(offsets, steps, lanes)`` gets each walk's element offset and its stride along the vectorised last axis.
    """
    shape, merged = merge_axes(extents, walks)
    steps = [m[-1] for m in merged]
    wide = lanes if all(s in (0, 1) for s in steps) else 1
    with ExitStack() as stack:
        index = [stack.enter_context(fn.loop(n) if i else fn.divided(n)) for i, n in enumerate(shape[:-1])]
        bases = [fn.let(sum((i * s for i, s in zip(index, m, strict=False)), i32(0))) for m in merged]

        def chunk(at: Expr, width: int) -> None:
            body([base + at * s for base, s in zip(bases, steps, strict=True)], steps, width)

        fn.chunks(shape[-1], wide, chunk, divided=len(shape) == 1)


def copy(
    fn: Function,
    source: Buffer,
    target: Buffer,
    extents: Sequence[int],
    read: Sequence[int],
    write: Sequence[int],
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Copy an index space: element ``origin[0] + read . i`` to ``origin[1] + write . i``."""

    def body(at: list[Expr], _: list[int], width: int) -> None:
        target.store(at[1] + origin[1], source.load(at[0] + origin[0], width), width)

    nest(fn, extents, (read, write), 64 // np.dtype(source.dtype).itemsize, body)


def lower_pad(fn: Function, op: Pad, x: Buffer, out: Buffer, shape: Shape, out_shape: Shape) -> None:
    """Fill the result, then copy x into its place."""
    strides = strides_of(out_shape)
    size = int(np.prod(out_shape))

    def fill(at: Expr, width: int) -> None:
        out.store(at, const(op.value, out.dtype, width), width)

    fn.chunks(size, 64 // np.dtype(out.dtype).itemsize, fill, divided=True)
    fn.barrier()
    origin = sum(before * s for (before, _), s in zip(op.padding, strides, strict=True))
    copy(fn, x, out, shape, strides_of(shape), strides, (0, origin))


def lower_concat(
    fn: Function, op: Concat, xs: list[Buffer], out: Buffer, shapes: list[Shape], out_shape: Shape
) -> None:
    """Copy every operand into its place."""
    strides = strides_of(out_shape)
    at = 0
    for x, shape in zip(xs, shapes, strict=True):
        copy(fn, x, out, shape, strides_of(shape), strides, (0, at * strides[op.axis]))
        at += shape[op.axis]


def lower_slice(fn: Function, op: Slice, x: Buffer, out: Buffer, shape: Shape) -> None:
    """Copy the chosen elements."""
    strides = strides_of(shape)
    read = tuple(s * step for s, step in zip(strides, op.steps(), strict=True))
    origin = sum(b * s for b, s in zip(op.start, strides, strict=True))
    copy(fn, x, out, op.size, read, strides_of(op.size), (origin, 0))


def lower_transpose(fn: Function, op: Transpose, x: Buffer, out: Buffer, shape: Shape, out_shape: Shape) -> None:
    """Copy along permuted strides."""
    strides = strides_of(shape)
    copy(fn, x, out, out_shape, tuple(strides[p] for p in op.perm), strides_of(out_shape))


def lower_gather(fn: Function, op: Gather, x: Buffer, indices: Buffer, out: Buffer, shape: Shape, count: int) -> None:
    """Copy one run per index, the index limited to the axis."""
    outer, extent = int(np.prod(shape[: op.axis])), shape[op.axis]
    run = int(np.prod(shape[op.axis + 1 :]))
    with fn.loop(outer) as o, fn.loop(count) as j:
        chosen = fn.let(clamp(indices.load(j), 0, extent - 1, "int32"))
        source = fn.let((o * extent + chosen) * run)
        target = fn.let((o * count + j) * run)

        def body(at: Expr, width: int) -> None:
            out.store(target + at, x.load(source + at, width), width)

        fn.chunks(run, 64 // np.dtype(x.dtype).itemsize, body)
