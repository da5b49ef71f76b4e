"""The operators that move elements and change none; CONCATENATION also rescales unsigned operands."""

from collections.abc import Callable

import numpy as np

from bitship.graph.base import Array
from bitship.graph.fixedpoint import round_half_away
from bitship.graph.ops import Concat, Gather, Pad, Reshape, Slice, Table, Transpose
from bitship.importers.tflite.context import Context, FloatValue
from bitship.importers.tflite.strided import selection

MAX_EXTENT = 1 << 22


def same_scale(ctx: Context, *indices: int) -> None:
    """Refuse operands whose type, scale or zero point is not the result's."""
    out = ctx.info(ctx.result)
    for index in indices:
        info = ctx.info(index)
        if info.type == out.type and not info.scale and not out.scale:
            continue
        if ctx.scale(index) != ctx.scale(ctx.result) or ctx.zero_point(index) != ctx.zero_point(ctx.result):
            raise ctx.refuse(f"{ctx.info(index).where} and the result differ in scale or zero point")


def moved(ctx: Context, position: int = 0) -> str:
    """Return the operand an operator moves: codes are copied whatever the scales, as LiteRT copies them."""
    index = ctx.operand(position)
    if ctx.info(index).type != ctx.info(ctx.result).type:
        raise ctx.refuse(f"{ctx.info(index).where} and the result differ in type")
    return ctx.name(index)


def one_axis(ctx: Context, axis: int, rank: int) -> int:
    """Return an axis counted from the front; refuses one outside the rank."""
    if not -rank <= axis < rank:
        raise ctx.refuse(f"axis {axis} is outside rank {rank}")
    return axis % rank


def take(ctx: Context, x: str, axis: int, indices: Array) -> str:
    """Gather constant indices along one axis."""
    if indices.size > MAX_EXTENT or not indices.size:
        raise ctx.refuse(f"{indices.size} elements along axis {axis}")
    return ctx.aside(Gather(axis), x, ctx.builder.constant("indices", indices.astype(np.int32)))


def _wanted_shape(ctx: Context, x: str) -> tuple[int, ...]:
    """Return the shape RESHAPE gives: its second operand's, or its option's, with -1 worked out."""
    shape = ctx.ints(1) if ctx.has_operand(1) and ctx.value(ctx.operand(1)) is not None else ()
    shape = shape or tuple(ctx.option("NewShape", ())) or ctx.info(ctx.result).shape
    if shape.count(-1) == 1:
        rest = int(-np.prod(shape, dtype=object))
        size = ctx.builder.types[x].size
        if rest <= 0 or size % rest:
            raise ctx.refuse(f"shape {list(shape)} does not divide {size} elements")
        shape = tuple(size // rest if n == -1 else n for n in shape)
    return shape


def _float_source(ctx: Context) -> FloatValue | None:
    """Return the float island an operator moves, when it moves one."""
    value = ctx.floats.get(ctx.operand(0))
    if value is not None and value.source is None:
        raise ctx.refuse("a float graph input must go straight into QUANTIZE")
    return value


def _emit_shape(ctx: Context, shape_of: Callable[[str], tuple[int, ...]]) -> None:
    island = _float_source(ctx)
    if island is None:
        x = moved(ctx)
        ctx.emit(Reshape(shape_of(x)), x)
    else:
        x = str(island.source)
        ctx.floats[ctx.result] = FloatValue(ctx.aside(Reshape(shape_of(x)), x), island.table, island.quant)


def reshape(ctx: Context) -> None:
    """Lower RESHAPE."""
    _emit_shape(ctx, lambda x: _wanted_shape(ctx, x))


def squeeze(ctx: Context) -> None:
    """Lower SQUEEZE: the named axes, or every axis of extent 1."""

    def shape_of(x: str) -> tuple[int, ...]:
        shape = ctx.shape(x)
        named = {one_axis(ctx, a, len(shape)) for a in ctx.option("SqueezeDims", ())}
        return tuple(n for i, n in enumerate(shape) if (i not in named if named else n != 1))

    _emit_shape(ctx, shape_of)


def expand_dims(ctx: Context) -> None:
    """Lower EXPAND_DIMS."""

    def shape_of(x: str) -> tuple[int, ...]:
        shape = ctx.shape(x)
        axis = one_axis(ctx, ctx.ints(1)[0], len(shape) + 1)
        return (*shape[:axis], 1, *shape[axis:])

    _emit_shape(ctx, shape_of)


def transpose(ctx: Context) -> None:
    """Lower TRANSPOSE."""
    x = moved(ctx)
    ctx.emit(Transpose(tuple(one_axis(ctx, a, len(ctx.shape(x))) for a in ctx.ints(1))), x)


def pairs_of(ctx: Context, position: int) -> tuple[tuple[int, int], ...]:
    """Return a constant [n, 2] operand as pairs."""
    flat = ctx.ints(position)
    return tuple(zip(flat[::2], flat[1::2], strict=True))


def pad(ctx: Context) -> None:
    """Lower PAD and PADV2."""
    x = moved(ctx)
    value = ctx.zero_point(ctx.result)
    if ctx.has_operand(2):
        info = ctx.info(ctx.operand(2))
        ctx.constant(2)
        value = int(ctx.codes(info).reshape(-1)[0])
    ctx.emit(Pad(pairs_of(ctx, 1), value), x)


def _rescale_table(ctx: Context, index: int) -> Array | None:
    """TFLite's ConcatenationWithScaling for every code of an unsigned operand, in float32; None when it copies."""
    scale, zero_point = np.float32(ctx.scale(index)), np.float32(ctx.info(index).zero_point[0])
    out_scale, out_zero_point = ctx.scale(ctx.result), ctx.info(ctx.result).zero_point[0]
    if ctx.scale(index) == out_scale and ctx.zero_point(index) == ctx.zero_point(ctx.result):
        return None
    if ctx.info(index).type != "UINT8":
        raise ctx.refuse(f"{ctx.info(index).where} and the result differ in scale or zero point")
    with np.errstate(all="ignore"):
        factor = scale * (np.float32(1) / np.float32(out_scale))
        real = np.arange(256, dtype=np.float32) * factor + -zero_point * factor
    if not (np.abs(real) < 1 << 30).all():
        raise ctx.refuse(f"{ctx.info(index).where} and the result differ too much in scale")
    codes = [round_half_away(float(v)) + out_zero_point for v in real]
    return (np.clip(codes, 0, 255) - 128).astype(np.int8)


def concatenation(ctx: Context) -> None:
    """Lower CONCATENATION; an unsigned operand of another scale goes through a table, a signed one is refused."""
    assert ctx.op is not None
    if ctx.option("FusedActivationFunction", 0):
        raise ctx.refuse("a fused activation is not supported")
    names = []
    for position, index in enumerate(ctx.op.inputs):
        name = moved(ctx, position)
        if ctx.info(index).type in ("INT8", "UINT8"):
            table = _rescale_table(ctx, index)
            name = name if table is None else ctx.aside(Table(), name, ctx.builder.constant("table", table))
        names.append(name)
    ctx.emit(Concat(one_axis(ctx, ctx.option("Axis"), len(ctx.shape(names[0])))), *names)


def pack(ctx: Context) -> None:
    """Lower PACK: a new axis, then a concatenation along it."""
    assert ctx.op is not None
    same_scale(ctx, *ctx.op.inputs)
    axis = one_axis(ctx, ctx.option("Axis", 0), len(ctx.shape(moved(ctx))) + 1)
    names = []
    for index in ctx.op.inputs:
        shape = ctx.shape(ctx.name(index))
        names.append(ctx.aside(Reshape((*shape[:axis], 1, *shape[axis:])), ctx.name(index)))
    ctx.emit(Concat(axis), *names)


def _part(ctx: Context, x: str, axis: int, start: int, size: int) -> Slice:
    shape = ctx.shape(x)
    begin = tuple(start if i == axis else 0 for i in range(len(shape)))
    return Slice(begin, tuple(size if i == axis else n for i, n in enumerate(shape)))


def unpack(ctx: Context) -> None:
    """Lower UNPACK: one slice and reshape per result."""
    assert ctx.op is not None
    same_scale(ctx, ctx.operand(0))
    x = moved(ctx)
    shape = ctx.shape(x)
    axis = one_axis(ctx, ctx.option("Axis", 0), len(shape))
    for i, result in enumerate(ctx.op.outputs):
        part = ctx.aside(_part(ctx, x, axis, i, 1), x)
        ctx.emit(Reshape(shape[:axis] + shape[axis + 1 :]), part, result=result)


def _split(ctx: Context, x: str, axis: int, sizes: list[int]) -> None:
    assert ctx.op is not None
    if len(sizes) != len(ctx.op.outputs) or sum(sizes) != ctx.shape(x)[axis]:
        raise ctx.refuse(f"parts {sizes} do not make up extent {ctx.shape(x)[axis]}")
    start = 0
    for result, size in zip(ctx.op.outputs, sizes, strict=True):
        ctx.emit(_part(ctx, x, axis, start, size), x, result=result)
        start += size


def split(ctx: Context) -> None:
    """Lower SPLIT into equal slices."""
    assert ctx.op is not None
    x = moved(ctx, 1)
    axis = one_axis(ctx, ctx.ints(0)[0], len(ctx.shape(x)))
    n = len(ctx.op.outputs)
    _split(ctx, x, axis, [ctx.shape(x)[axis] // n] * n)


def split_v(ctx: Context) -> None:
    """Lower SPLIT_V into slices of the given sizes; one of them may be -1, the rest."""
    x = moved(ctx)
    axis = one_axis(ctx, ctx.ints(2)[0], len(ctx.shape(x)))
    sizes = list(ctx.ints(1))
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = ctx.shape(x)[axis] - (sum(sizes) + 1)
    _split(ctx, x, axis, sizes)


def slice_(ctx: Context) -> None:
    """Lower SLICE."""
    x = moved(ctx)
    start = ctx.ints(1)
    size = tuple(e - b if n == -1 else n for b, n, e in zip(start, ctx.ints(2), ctx.shape(x), strict=True))
    ctx.emit(Slice(start, size), x)


def strided_slice(ctx: Context) -> None:
    """Lower STRIDED_SLICE; an axis of negative stride is gathered."""
    x = moved(ctx)
    chosen = selection(ctx, ctx.shape(x), ctx.ints(1), ctx.ints(2), ctx.ints(3))
    for axis, (first, count, step) in enumerate(chosen.axes):
        if step < 0:
            x = take(ctx, x, axis, first + step * np.arange(min(count, MAX_EXTENT + 1)))
    forward = [(f, n, s) if s > 0 else (0, n, 1) for f, n, s in chosen.axes]
    starts, sizes, steps = (tuple(column) for column in zip(*forward, strict=True))
    ctx.emit(Reshape(chosen.shape), ctx.aside(Slice(starts, sizes, steps), x))


def gather(ctx: Context) -> None:
    """Lower GATHER; indices of any rank are read in a row."""
    x, indices = moved(ctx), ctx.name(ctx.operand(1))
    if ctx.option("BatchDims", 0):
        raise ctx.refuse("batch dimensions are not supported")
    axis = one_axis(ctx, ctx.option("Axis", 0), len(ctx.shape(x)))
    shape, at = ctx.shape(x), ctx.shape(indices)
    value = ctx.value(ctx.operand(1))
    if value is not None and value.size and not (value.min() >= 0 and value.max() < shape[axis]):
        raise ctx.refuse(f"an index is outside extent {shape[axis]}")
    flat = indices if len(at) == 1 else ctx.aside(Reshape((ctx.builder.types[indices].size,)), indices)
    ctx.emit(Reshape(shape[:axis] + at + shape[axis + 1 :]), ctx.aside(Gather(axis), x, flat))


def gather_nd(ctx: Context) -> None:
    """Lower GATHER_ND with constant indices: one gather over the leading axes read as one."""
    x, at = moved(ctx), ctx.constant(1)
    shape = ctx.shape(x)
    if at.dtype.kind != "i" or at.ndim < 1 or not 1 <= at.shape[-1] <= len(shape):
        raise ctx.refuse(f"indices {list(at.shape)} do not fit rank {len(shape)}")
    leading = shape[: at.shape[-1]]
    columns = tuple(at.reshape(-1, at.shape[-1]).T.astype(np.int64))
    if any(c.size and not (c.min() >= 0 and c.max() < n) for c, n in zip(columns, leading, strict=True)):
        raise ctx.refuse(f"an index is outside {list(leading)}")
    merged = ctx.aside(Reshape((int(np.prod(leading)), *shape[len(leading) :])), x)
    rows = take(ctx, merged, 0, np.ravel_multi_index(columns, leading))
    ctx.emit(Reshape(at.shape[:-1] + shape[len(leading) :]), rows)


def stretch(ctx: Context, x: str, shape: tuple[int, ...]) -> str:
    """Repeat axes of extent 1 until the tensor has the shape, new axes in front."""
    missing = len(shape) - len(ctx.shape(x))
    if missing < 0:
        raise ctx.refuse(f"{list(ctx.shape(x))} does not broadcast to {list(shape)}")
    if missing:
        x = ctx.aside(Reshape((1,) * missing + ctx.shape(x)), x)
    for axis, extent in enumerate(shape):
        have = ctx.shape(x)[axis]
        if (have != extent and have != 1) or not 1 <= extent <= MAX_EXTENT:
            raise ctx.refuse(f"{list(ctx.shape(x))} does not broadcast to {list(shape)}")
        if have != extent:
            x = take(ctx, x, axis, np.zeros(extent))
    return x
