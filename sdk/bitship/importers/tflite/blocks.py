"""Block shuffles, repetition and reversal: reshapes, transposes and gathers at constant indices."""

import numpy as np

from bitship.graph.ops import Pad, Reshape, Slice, Transpose
from bitship.importers.tflite.context import Context
from bitship.importers.tflite.layout import MAX_EXTENT, moved, one_axis, pairs_of, stretch, take


def _blocks(ctx: Context, shape: tuple[int, ...], perm: tuple[int, ...], result: tuple[int, ...], x: str) -> None:
    parted = ctx.aside(Reshape(shape), x)
    ctx.emit(Reshape(result), ctx.aside(Transpose(perm), parted))


def _block_size(ctx: Context, x: str) -> tuple[int, tuple[int, ...]]:
    size, shape = ctx.option("BlockSize"), ctx.shape(x)
    if size < 1 or len(shape) != 4:
        raise ctx.refuse(f"block size {size} on input {list(shape)}")
    return size, shape


def depth_to_space(ctx: Context) -> None:
    """Lower DEPTH_TO_SPACE."""
    x = moved(ctx)
    s, (n, h, w, c) = _block_size(ctx, x)
    _blocks(ctx, (n, h, w, s, s, c // s // s), (0, 1, 3, 2, 4, 5), (n, h * s, w * s, c // s // s), x)


def space_to_depth(ctx: Context) -> None:
    """Lower SPACE_TO_DEPTH."""
    x = moved(ctx)
    s, (n, h, w, c) = _block_size(ctx, x)
    _blocks(ctx, (n, h // s, s, w // s, s, c), (0, 1, 3, 2, 4, 5), (n, h // s, w // s, s * s * c), x)


def _block_shape(ctx: Context, x: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    blocks, pairs = ctx.ints(1), pairs_of(ctx, 2)
    rank = len(ctx.shape(x))
    if len(blocks) != len(pairs) or not 1 <= len(blocks) <= 2 or rank not in (3, 4) or len(blocks) >= rank:
        raise ctx.refuse(f"{len(blocks)} block extents and {len(pairs)} pairs on rank {rank}")
    if any(b < 1 for b in blocks) or any(p < 0 for pair in pairs for p in pair):
        raise ctx.refuse(f"blocks {list(blocks)}, pairs {list(pairs)}")
    return blocks, pairs


def space_to_batch_nd(ctx: Context) -> None:
    """Lower SPACE_TO_BATCH_ND: pad with the zero point, then one block position after another in the batch."""
    x = moved(ctx)
    blocks, pairs = _block_shape(ctx, x)
    k = len(blocks)
    around = ((0, 0), *pairs, *((0, 0),) * (len(ctx.shape(x)) - 1 - k))
    if any(p for pair in pairs for p in pair):
        x = ctx.aside(Pad(around, ctx.zero_point(ctx.result)), x)
    n, *space = ctx.shape(x)
    inner, rest = [m // b for m, b in zip(space, blocks, strict=False)], space[k:]
    parted = [v for pair in zip(inner, blocks, strict=True) for v in pair]
    spatial = range(1, 2 * k, 2)
    perm = (*(i + 1 for i in spatial), 0, *spatial, *range(2 * k + 1, 2 * k + 1 + len(rest)))
    batch = n * int(np.prod(blocks, dtype=object))
    _blocks(ctx, (n, *parted, *rest), perm, (batch, *inner, *rest), x)


def batch_to_space_nd(ctx: Context) -> None:
    """Lower BATCH_TO_SPACE_ND: the inverse, then the crops."""
    x = moved(ctx)
    blocks, crops = _block_shape(ctx, x)
    k = len(blocks)
    batch, *space = ctx.shape(x)
    n, rest = batch // int(np.prod(blocks, dtype=object)), space[k:]
    woven = [i for j in range(k) for i in (k + 1 + j, j)]
    perm = (k, *woven, *range(2 * k + 1, 2 * k + 1 + len(rest)))
    full = (n, *(m * b for m, b in zip(space, blocks, strict=False)), *rest)
    _blocks(ctx, (*blocks, n, *space), perm, full, x)
    if any(c for pair in crops for c in pair):
        start = (0, *(c[0] for c in crops), *(0 for _ in rest))
        size = (n, *(m - sum(c) for m, c in zip(full[1:], crops, strict=False)), *rest)
        ctx.emit(Slice(start, size), ctx.names[ctx.result])


def tile(ctx: Context) -> None:
    """Lower TILE: one gather per repeated axis."""
    x = moved(ctx)
    repeats = ctx.ints(1)
    if len(repeats) != len(ctx.shape(x)):
        raise ctx.refuse(f"{len(repeats)} multiples for rank {len(ctx.shape(x))}")
    for axis, times in enumerate(repeats):
        extent = ctx.shape(x)[axis]
        if times < 1 or times * extent > MAX_EXTENT:
            raise ctx.refuse(f"multiple {times} of extent {extent}")
        if times > 1:
            x = take(ctx, x, axis, np.tile(np.arange(extent), times))
    ctx.names[ctx.result] = x


def broadcast_to(ctx: Context) -> None:
    """Lower BROADCAST_TO."""
    ctx.names[ctx.result] = stretch(ctx, moved(ctx), ctx.ints(1))


def reverse_v2(ctx: Context) -> None:
    """Lower REVERSE_V2."""
    x = moved(ctx)
    for axis in sorted({one_axis(ctx, a, len(ctx.shape(x))) for a in ctx.ints(1)}):
        extent = ctx.shape(x)[axis]
        x = take(ctx, x, axis, np.arange(min(extent, MAX_EXTENT + 1))[::-1])
    ctx.names[ctx.result] = x


def mirror_pad(ctx: Context) -> None:
    """Lower MIRROR_PAD: one gather per padded axis (mode 0 leaves the edge out, mode 1 repeats it)."""
    x = moved(ctx)
    mode = ctx.option("Mode", 0)
    pairs = pairs_of(ctx, 1)
    if mode not in (0, 1) or len(pairs) != len(ctx.shape(x)):
        raise ctx.refuse(f"mode {mode} with {len(pairs)} pairs for rank {len(ctx.shape(x))}")
    for axis, (before, after) in enumerate(pairs):
        n = ctx.shape(x)[axis]
        if not 0 <= max(before, after) <= n - (mode == 0) or min(before, after) < 0:
            raise ctx.refuse(f"padding ({before}, {after}) does not fit extent {n}")
        if before or after:
            skip = 1 - mode
            left = np.arange(before - 1 + skip, skip - 1, -1)
            right = np.arange(n - 1 - skip, n - 1 - skip - after, -1)
            x = take(ctx, x, axis, np.concatenate([left, np.arange(n), right]))
    ctx.names[ctx.result] = x
