"""The rest of the integerize step: pools, means, softmax, resizing, and ops that move elements."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from bitship.errors import UnsupportedError
from bitship.graph.ops import (
    AvgPool2D,
    AxisMap,
    Concat,
    Gather,
    MaxPool2D,
    Pad,
    ReduceMax,
    ReduceMin,
    ReduceSum,
    Resize,
    Slice,
    Softmax,
    Transpose,
)
from bitship.importers import functions
from bitship.importers.integerize import (
    GIVEN,
    NO_LIMITS,
    STORED,
    Integerizer,
    Limits,
    QParams,
    QuantizedTensor,
    Weights,
    Window,
)

SOFTMAX = QParams(1 / 256, -128)
_BITS = 11


def mean(
    g: Integerizer,
    name: str,
    x: QuantizedTensor,
    axes: Sequence[int],
    keep: bool,
    out: QParams,
    limits: Limits = NO_LIMITS,
) -> QuantizedTensor:
    """Mean over axes: the sum, with the count in the multiplier."""
    wanted = {a % len(x.shape) for a in axes}
    count = int(np.prod([x.shape[a] for a in wanted], dtype=np.int64))
    factor = Fraction(x.q.scale) / (count * Fraction(out.scale))
    op = ReduceSum(tuple(sorted(x.axis(a) for a in wanted)), x.q.zero_point, g.epilogue([factor], out, limits))
    y = g.result(g.b.node(name, op, x.name), x, out)
    if keep:
        return y
    return reshape(g, name, y, tuple(n for i, n in enumerate(y.shape) if i not in wanted))


def extreme(
    g: Integerizer,
    name: str,
    x: QuantizedTensor,
    op: type[ReduceMax] | type[ReduceMin],
    axes: Sequence[int],
    keep: bool,
) -> QuantizedTensor:
    """Largest or smallest element over axes, parameters kept."""
    wanted = {a % len(x.shape) for a in axes}
    y = g.result(g.b.node(name, op(tuple(sorted(x.axis(a) for a in wanted))), x.name), x, x.q)
    return y if keep else reshape(g, name, y, tuple(n for i, n in enumerate(y.shape) if i not in wanted))


def avg_pool(g: Integerizer, name: str, x: QuantizedTensor, window: Window, count_padding: bool) -> QuantizedTensor:
    """Average of each window, parameters kept; padding is left out of the count unless asked for."""
    x = g.image(x)
    padding = window.padding
    if count_padding and any(padding):
        top, bottom, left, right = padding
        x = pad(g, f"{name}.pad", x, ((0, 0), (0, 0), (top, bottom), (left, right)), 0.0)
        padding = (0, 0, 0, 0)
    op = AvgPool2D(window.kernel, window.stride, padding, x.q.dtype.qmin, x.q.dtype.qmax)
    return g.result(g.b.node(name, op, x.name), x, x.q)


def avg_pool_to(
    g: Integerizer, name: str, x: QuantizedTensor, window: Window, count_padding: bool, out: QParams, limits: Limits
) -> QuantizedTensor:
    """Average of each window under other parameters, with one rounding where every window has the same count."""
    if out == x.q or (any(window.padding) and not count_padding):
        return g.requantize(f"{name}.out", avg_pool(g, name, x, window, count_padding), out, limits)
    channels, count = x.shape[1], window.kernel[0] * window.kernel[1]
    ones = Weights(np.ones((channels, 1, *window.kernel), np.int8), (Fraction(1, count),))
    return g.conv2d(name, x, ones, None, window, channels, out, limits)


def max_pool(g: Integerizer, name: str, x: QuantizedTensor, window: Window) -> QuantizedTensor:
    """Largest element of each window, parameters kept."""
    x = g.image(x)
    op = MaxPool2D(window.kernel, window.stride, window.padding, x.q.dtype.qmin, x.q.dtype.qmax)
    return g.result(g.b.node(name, op, x.name), x, x.q)


def adaptive_avg_pool(
    g: Integerizer, name: str, x: QuantizedTensor, size: tuple[int, int], out: QParams, limits: Limits = NO_LIMITS
) -> QuantizedTensor:
    """Average to a given size that divides the input's; to one pixel it is the mean with its own parameters."""
    height, width = x.shape[2:]
    if size == (1, 1):
        return mean(g, name, x, (2, 3), True, out, limits)
    if height % size[0] or width % size[1]:
        raise UnsupportedError(f"adaptive pool of {height} x {width} to {size}: the size must divide the input's")
    kernel = (height // size[0], width // size[1])
    return avg_pool_to(g, name, x, Window(kernel, kernel), False, out, limits)


def concat(
    g: Integerizer, name: str, xs: Sequence[QuantizedTensor], axis: int, out: QParams, limits: Limits = NO_LIMITS
) -> QuantizedTensor:
    """Join along an axis, operands rescaled where their parameters differ from the result's."""
    stored = g.ordered([g.requantize(f"{name}.in{i}", x, out, limits) for i, x in enumerate(xs)])
    return g.result(g.b.node(name, Concat(stored[0].axis(axis)), *(x.name for x in stored)), stored[0], out)


def pad(
    g: Integerizer, name: str, x: QuantizedTensor, padding: Sequence[tuple[int, int]], value: float
) -> QuantizedTensor:
    """Surround by a real constant, rounded and saturated to what x can hold; negative padding is refused."""
    q = functions.round_half_up(Fraction(value) / Fraction(x.q.scale)) + x.q.zero_point
    stored = tuple(padding[i] for i in STORED[len(x.shape)]) if x.planes else tuple(padding)
    return g.result(g.b.node(name, Pad(stored, min(max(q, -128), 127)), x.name), x, x.q)


def reshape(g: Integerizer, name: str, x: QuantizedTensor, shape: Sequence[int]) -> QuantizedTensor:
    """The elements in the front end's order under another shape; one -1 is inferred."""
    shape = tuple(int(n) for n in shape)
    if -1 in shape:
        known = int(np.prod([n for n in shape if n != -1], dtype=np.int64))
        size = int(np.prod(x.shape, dtype=np.int64))
        shape = tuple(size // max(known, 1) if n == -1 else n for n in shape)
    if shape == x.shape:
        return x
    if x.planes and len(shape) in STORED and shape[:2] == x.shape[:2] and math.prod(shape) == math.prod(x.shape):
        view = g.view(x.name, tuple(shape[i] for i in STORED[len(shape)]))  # [N, C, H, W] to [N, C, L], or back
        return replace(x, name=view, shape=shape)
    x = g.natural(x)
    return replace(x, name=g.view(x.name, shape), shape=shape)


def permute(g: Integerizer, name: str, x: QuantizedTensor, perm: Sequence[int]) -> QuantizedTensor:
    """Axis i of the result is axis perm[i] of x."""
    order = tuple(p % len(x.shape) for p in perm)
    if order == tuple(range(len(order))):
        return x
    shape = tuple(x.shape[p] for p in order)
    if x.planes and order == STORED[len(order)]:
        return QuantizedTensor(x.name, shape, x.q)
    x = g.natural(x)
    if order == GIVEN.get(len(order)):
        return QuantizedTensor(x.name, shape, x.q, planes=True)
    return QuantizedTensor(g.b.node(name, Transpose(order), x.name), shape, x.q)


def take(
    g: Integerizer, name: str, x: QuantizedTensor, axis: int, start: int, stop: int, step: int = 1
) -> QuantizedTensor:
    """Elements start, start + step, ... below stop along an axis; bounds as Python's slices."""
    chosen = range(*slice(start, stop, step).indices(x.shape[axis]))
    if step < 1 or not chosen:
        raise UnsupportedError(f"slice {start}:{stop}:{step} of extent {x.shape[axis]}: step must be 1 or more")
    if len(chosen) == x.shape[axis]:
        return x
    at = x.axis(axis)
    stored = g.b.types[x.name].shape
    begin = tuple(chosen.start if i == at else 0 for i in range(len(stored)))
    size = tuple(len(chosen) if i == at else n for i, n in enumerate(stored))
    stride = tuple(step if i == at else 1 for i in range(len(stored))) if step > 1 else ()
    return g.result(g.b.node(name, Slice(begin, size, stride), x.name), x, x.q)


def roll(g: Integerizer, name: str, x: QuantizedTensor, axis: int, shift: int) -> QuantizedTensor:
    """Rotate along an axis: element i moves to (i + shift) modulo the extent."""
    extent = x.shape[axis]
    cut = -shift % extent
    if cut == 0:
        return x
    parts = [take(g, f"{name}.{part}", x, axis, *ends) for part, ends in (("tail", (cut, extent)), ("head", (0, cut)))]
    return concat(g, name, parts, axis, x.q)


def choose(g: Integerizer, name: str, x: QuantizedTensor, axis: int, indices: Sequence[int]) -> QuantizedTensor:
    """Elements at constant indices along an axis, in their order; negative ones count from the end."""
    extent = x.shape[axis]
    at = np.array([i % extent for i in indices], np.int32)
    return g.result(g.b.node(name, Gather(x.axis(axis)), x.name, g.b.constant(f"{name}.indices", at)), x, x.q)


def resize(
    g: Integerizer,
    name: str,
    x: QuantizedTensor,
    size: tuple[int, int],
    source: Callable[[int, int, int], Fraction | int],
) -> QuantizedTensor:
    """Resize an image, parameters kept.

    source  (output index, output extent, input extent) -> the input coordinate: an int takes the element (nearest),
            a Fraction mixes its two neighbours with weights of 11 bits (bilinear)
    """
    x = g.image(x)
    maps, bits = [], 0
    for n, m in zip(x.shape[2:], size, strict=True):
        at = [source(i, m, n) for i in range(m)]
        if all(isinstance(v, int) for v in at):
            lo = [min(max(int(v), 0), n - 1) for v in at]
            maps.append((lo, lo, [Fraction(0)] * m))
            continue
        bits = _BITS
        at = [min(max(Fraction(v), Fraction(0)), Fraction(n - 1)) for v in at]
        lo = [int(v) for v in at]
        maps.append((lo, [min(v + 1, n - 1) for v in lo], [Fraction(v) - int(v) for v in at]))
    rows, columns = (
        AxisMap(tuple(lo), tuple(hi), tuple(functions.round_half_up(w * (1 << bits)) for w in weights))
        for lo, hi, weights in maps
    )
    return g.result(g.b.node(name, Resize(rows, columns, bits), x.name), x, x.q)


def softmax(g: Integerizer, name: str, x: QuantizedTensor, axis: int) -> QuantizedTensor:
    """Softmax along an axis; the result has scale 1/256 and zero point -128."""
    rank = len(x.shape)
    if axis % rank == rank - 1:
        x = g.natural(x)
    if x.axis(axis) != rank - 1:
        order = [i for i in range(rank) if i != axis % rank] + [axis % rank]
        back = [order.index(i) for i in range(rank)]
        return permute(g, name, softmax(g, name, permute(g, f"{name}.last", x, order), -1), back)
    entries = g.b.constant(f"{name}.exp", functions.exp_table(x.q.scale))
    return replace(x, name=g.b.node(name, Softmax(), x.name, entries), q=SOFTMAX)
