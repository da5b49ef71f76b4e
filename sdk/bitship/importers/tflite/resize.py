"""RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR: coordinates worked out ahead of time."""

import math
from collections.abc import Callable

import numpy as np

from bitship.graph import DType
from bitship.graph.ops import AxisMap, Rescale, Resize
from bitship.importers.tflite.context import Context
from bitship.importers.tflite.layout import moved


def _half_pixel_q10(n: int, m: int, align: bool, half: bool) -> AxisMap:
    """TFLite's integer bilinear coordinates in Q10."""
    one = 1 << 10
    ratio = (one * n + m // 2) // m
    if align and m > 1:
        ratio = (one * (n - 1) + (m - 1) // 2) // (m - 1)
    lo, hi, weight = [], [], []
    for i in range(m):
        at = i * ratio + (ratio // 2 - one // 2 if half else 0)
        first = max(int(at / one), 0)
        second = min(-(-at // one) if at > 0 else max(int((at + one - 1) / one), 0), n - 1)
        first = min(first, n - 1)
        lo.append(first)
        hi.append(max(second, 0))
        weight.append(0 if first == second else at - one * first)
    return AxisMap(tuple(lo), tuple(hi), tuple(weight))


def _nearest(n: int, m: int, align: bool, half: bool) -> AxisMap:
    """TFLite's nearest coordinates, in its float32 arithmetic."""
    scale = np.float32(n - 1) / np.float32(m - 1) if align and m > 1 else np.float32(n) / np.float32(m)
    offset = np.float32(0.5) if half else np.float32(0)
    at = []
    for i in range(m):
        v = (np.float32(i) + offset) * scale
        at.append(max(0, min(math.floor(v + np.float32(0.5)) if align else math.floor(v), n - 1)))
    return AxisMap(tuple(at), tuple(at), (0,) * m)


def _float_axis(n: int, m: int, align: bool, half: bool) -> tuple[AxisMap, bool]:
    """TFLite's float32 bilinear coordinates in Q8, and whether they are exact there."""
    scale = np.float32(n - 1) / np.float32(m - 1) if align and m > 1 else np.float32(n) / np.float32(m)
    lo, hi, weight, exact = [], [], [], True
    for i in range(m):
        at = (np.float32(i) + np.float32(0.5)) * scale - np.float32(0.5) if half else np.float32(i) * scale
        first, second = min(max(math.floor(at), 0), n - 1), max(min(math.ceil(at), n - 1), 0)
        q8 = float(at - np.float32(first)) * 256
        exact = exact and q8.is_integer()
        lo.append(first)
        hi.append(second)
        weight.append(0 if first == second else int(q8))
    return AxisMap(tuple(lo), tuple(hi), tuple(weight)), exact


def _size(ctx: Context, x: str) -> tuple[int, int]:
    shape, size = ctx.shape(x), ctx.ints(1)
    if len(shape) != 4 or len(size) != 2 or any(not 1 <= n <= 1 << 14 for n in (*size, *shape[1:3])):
        raise ctx.refuse(f"input {list(shape)} and size {list(size)} do not fit")
    return size[0], size[1]


def _options(ctx: Context) -> tuple[bool, bool]:
    return bool(ctx.option("AlignCorners", False)), bool(ctx.option("HalfPixelCenters", False))


def _resize(ctx: Context, axis: Callable[..., AxisMap], bits: int) -> None:
    x = moved(ctx)
    maps = [axis(n, m, *_options(ctx)) for n, m in zip(ctx.shape(x)[1:3], _size(ctx, x), strict=True)]
    ctx.emit(Resize(maps[0], maps[1], bits), x)


def resize_bilinear(ctx: Context) -> None:
    """Lower RESIZE_BILINEAR: int8 in LiteRT's Q10; uint8, which LiteRT interpolates in float32, where that is exact.

    It is when the coordinates are multiples of 1/256 (a ratio that is a power of two) or one pixel is spread. Ties
    round up on unsigned codes, so they are resized as int16, where none is negative.
    """
    if ctx.info(ctx.operand(0)).type != "UINT8":
        return _resize(ctx, _half_pixel_q10, 10)
    x = moved(ctx)
    axes = [_float_axis(n, m, *_options(ctx)) for n, m in zip(ctx.shape(x)[1:3], _size(ctx, x), strict=True)]
    (rows, exact_rows), (columns, exact_columns) = axes
    if not (exact_rows and exact_columns) and any(a.lo != a.hi for a in (rows, columns)):
        raise ctx.refuse(
            f"uint8 from {list(ctx.shape(x)[1:3])} to {list(_size(ctx, x))} is interpolated in float; "
            "a ratio that is a power of two, or an int8 model, is supported"
        )
    wide = ctx.aside(Rescale((1 << 30,), (1,), 0, 128, dtype=DType.INT16, qmin=0, qmax=255), x)
    ctx.emit(Rescale((1 << 30,), (1,), 128), ctx.aside(Resize(rows, columns, 8), wide))
    return None


def resize_nearest_neighbor(ctx: Context) -> None:
    """Lower RESIZE_NEAREST_NEIGHBOR."""
    _resize(ctx, _nearest, 0)
