"""STRIDED_SLICE: which elements its begin, end, stride and five masks choose."""

from dataclasses import dataclass

from bitship.importers.tflite.context import Context

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """For every axis of the input (first index, count, step); and the result's shape, axes added and removed."""

    axes: tuple[tuple[int, int, int], ...]
    shape: Ints


def selection(ctx: Context, extents: Ints, begin: Ints, end: Ints, stride: Ints) -> Selection:
    """Return what the operator at hand chooses from a tensor of these extents."""
    if not len(begin) == len(end) == len(stride):
        raise ctx.refuse("begin, end and stride differ in length")
    new, ellipsis, shrink = (ctx.option(f"{m}Mask", 0) for m in ("NewAxis", "Ellipsis", "ShrinkAxis"))
    if ctx.option("Offset", False):
        raise ctx.refuse("an end that counts from begin is not supported")
    named = sum(1 for i in range(len(begin)) if not (new | ellipsis) >> i & 1)
    free = len(extents) - named
    if free < 0:
        raise ctx.refuse(f"{named} axes are sliced, the input has {len(extents)}")
    axes: list[tuple[int, int, int]] = []
    shape: list[int] = []
    for i in range(len(begin)):
        if ellipsis >> i & 1:
            kept = extents[len(axes) : len(axes) + free]
            axes += [(0, n, 1) for n in kept]
            shape += kept
            free = 0
        elif new >> i & 1:
            shape.append(1)
        else:
            axes.append(_axis(ctx, extents[len(axes)], begin[i], end[i], stride[i], i))
            if not shrink >> i & 1:
                shape.append(axes[-1][1])
    rest = extents[len(axes) :]
    return Selection((*axes, *((0, n, 1) for n in rest)), (*shape, *rest))


def _axis(ctx: Context, extent: int, begin: int, end: int, step: int, i: int) -> tuple[int, int, int]:
    if step == 0:
        raise ctx.refuse("stride 0")
    if ctx.option("ShrinkAxisMask", 0) >> i & 1:
        if not -extent <= begin < extent:
            raise ctx.refuse(f"index {begin} is outside extent {extent}")
        return begin % extent, 1, 1
    from_start, to_end = ctx.option("BeginMask", 0) >> i & 1, ctx.option("EndMask", 0) >> i & 1
    chosen = range(*slice(None if from_start else begin, None if to_end else end, step).indices(extent))
    return chosen.start, len(chosen), step
