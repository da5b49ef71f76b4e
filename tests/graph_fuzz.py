"""Random integer graphs over the whole op set, and inputs that reach the corners.

``graph(seed)`` only keeps nodes that ``verify`` accepts, so every back end owes the specification's bits on all of
them; the same seed gives the same graph.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from graph_maker import BOOL, I8, I16, I32, NUMBERS, ROWS, U8, Maker, fill
from transformer_fuzz import TRANSFORMER_MAKERS

from bitship.graph import Graph, ops, verify
from bitship.graph.base import Array


def _geometry(m: Maker, extents: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return (kernel, stride, dilation, padding) that mostly fit the extents."""
    kernel, stride, dilation, padding = [], [], [], []
    for n in extents:
        before, after = self_or(m, 0, 3), self_or(m, 0, 3)
        d = m.one((1, 1, 1, 2, 3))
        k = m.whole(1, max(1, min(7, (n + before + after - 1) // d + 1)))
        kernel.append(k)
        dilation.append(d)
        stride.append(m.one((1, 1, 2, 3, m.whole(1, 9))))
        padding += [before, after]
    return kernel, stride, dilation, padding


def self_or(m: Maker, low: int, high: int) -> int:
    return m.whole(low, high) if m.chance(0.5) else low


def _weights(m: Maker, shape: tuple[int, ...], x: str) -> str:
    narrow = m.known[x].type.dtype is I16 and m.chance(0.7)
    if not narrow and m.chance(0.06):
        return m.input(shape, I8)
    return m.constant(shape, I8, *((-9, 9) if narrow else (None, None)))


def _bias(m: Maker, channels: int) -> str:
    bits = m.one((0, 12, 20, 29))
    return m.constant((channels,), I32, -(1 << bits), 1 << bits)


def _zero_points(m: Maker, x: str) -> tuple[int, int]:
    dtype = m.known[x].type.dtype
    izp = m.zero_point(dtype) if dtype is I8 else 0
    return izp, m.zero_point(I8) if m.chance(0.25) else 0


def conv(m: Maker) -> None:
    x = m.pick((I8, I8, I8, I16), 4)
    _, h, w, c = m.known[x].type.shape
    kernel, stride, dilation, padding = _geometry(m, (h, w))
    groups = m.one([g for g in range(1, c + 1) if c % g == 0]) if m.chance(0.4) else 1
    out = groups * m.whole(1, 5) if groups > 1 else m.whole(1, 20)
    izp, wzp = _zero_points(m, x)
    weights = _weights(m, (out, *kernel, c // groups), x)
    m.finished(
        lambda q: ops.Conv2D((stride[0], stride[1]), tuple(padding), tuple(dilation), izp, wzp, q, groups),  # type: ignore[arg-type]
        *(x, weights, _bias(m, out)),
    )


def depthwise(m: Maker) -> None:
    x = m.pick((I8, I8, I8, I16), 4)
    _, h, w, c = m.known[x].type.shape
    kernel, stride, dilation, padding = _geometry(m, (h, w))
    times = m.one((1, 1, 1, 2, 3))
    izp, wzp = _zero_points(m, x)
    weights = _weights(m, (*kernel, c, times), x)
    m.finished(
        lambda q: ops.DepthwiseConv2D((stride[0], stride[1]), tuple(padding), tuple(dilation), izp, wzp, q),  # type: ignore[arg-type]
        *(x, weights, _bias(m, c * times)),
    )


def fully_connected(m: Maker) -> None:
    x = m.pick((I8, I8, I16), 2)
    out, (izp, wzp) = m.whole(1, 40), _zero_points(m, x)
    weights = _weights(m, (out, m.known[x].type.shape[1]), x)
    m.finished(lambda q: ops.FullyConnected(izp, wzp, q), x, weights, _bias(m, out))


def matmul(m: Maker) -> None:
    a = m.pick((I8, I8, I16), 3)
    batch, _, depth = m.known[a].type.shape
    fits = [n for n in m.made if m.known[n].type.dtype is I8 and m.known[n].type.shape[:2] == (batch, depth)]
    fits = [n for n in fits if len(m.known[n].type.shape) == 3]
    if fits and m.chance(0.7):
        b = m.one(fits)
    else:
        shape = (batch, depth, m.whole(1, 20))
        b = m.constant(shape, I8) if m.chance(0.5) else m.input(shape, I8)
    azp, bzp = m.zero_point(m.known[a].type.dtype), m.zero_point(I8)
    m.finished(lambda q: ops.MatMul(azp, bzp, q), a, b)


def rescale(m: Maker) -> None:
    x = m.limited(m.pick((I8, U8, I16, I32)))
    known = m.known[x]
    zero = m.one(
        (0, m.zero_point(known.type.dtype) if known.type.dtype is not I32 else m.whole(-99, 99), known.range.lo)
    )
    spread = max(abs(known.range.lo - zero), abs(known.range.hi - zero))
    for _ in range(4):
        if m.node(m.rescale(spread, known.type.shape[-1] if known.type.shape else 1, zero_point=zero), x) is not None:
            return


def partner(m: Maker, a: str) -> str:
    """Return a second operand that broadcasts with the first."""
    shape = m.known[a].type.shape
    fits = [
        n
        for n in m.made
        if len(m.known[n].type.shape) == len(shape)
        and all(i == j or 1 in (i, j) for i, j in zip(m.known[n].type.shape, shape, strict=True))
        and m.known[n].type.dtype in NUMBERS
    ]
    if fits and m.chance(0.6):
        return m.limited(m.one(fits))
    small = tuple(1 if m.chance(0.3) else n for n in shape)
    dtype = m.one((I8, I8, I16, I32))
    return m.constant(small, dtype) if m.chance(0.5) else m.limited(m.input(small, dtype))


def sums(m: Maker) -> None:
    a = m.limited(m.pick((I8, I8, I16, I32)))
    b = partner(m, a)
    plus, terms = m.chance(0.5), []
    for name in (a, b):
        known = m.known[name]
        zero = m.zero_point(known.type.dtype) if known.type.dtype is not I32 else 0
        spread = max(abs(known.range.lo - zero), abs(known.range.hi - zero))
        terms.append(m.rescale(spread, 1, (I32,), zero) if m.chance(0.7) else None)
    first, second = terms
    m.finished(lambda q: ops.Add(first, second, q) if plus else ops.Sub(first, second, q), a, b)


def mul(m: Maker) -> None:
    a = m.limited(m.pick((I8, I8, I16, I32)))
    b = partner(m, a)
    zeros = [m.zero_point(m.known[n].type.dtype) if m.known[n].type.dtype is not I32 else 0 for n in (a, b)]
    m.finished(lambda q: ops.Mul(zeros[0], zeros[1], q), a, b)


def table(m: Maker) -> None:
    x = m.pick((I8,))
    m.node(ops.Table(), x, m.input((256,), I8) if m.chance(0.05) else m.constant((256,), m.one((I8, I16))))


def clamp(m: Maker) -> None:
    x = m.pick((I8, I16, I32, U8))
    lo, hi = sorted(m.zero_point(m.known[x].type.dtype) for _ in range(2))
    m.node(ops.Clamp(lo, hi), x)


def cast(m: Maker) -> None:
    m.node(ops.Cast(m.one((I8, I16, I32, U8, BOOL))), m.pick((I8, I16, I32, U8, BOOL)))


def shifts(m: Maker) -> None:
    amount = m.one((0, 1, 31, m.whole(0, 31)))
    if m.chance(0.6):
        m.node(ops.ArithmeticRightShift(amount, m.one(tuple(ops.ShiftRounding))), m.pick(NUMBERS))
        return
    x = m.limited(m.pick((I32,)))
    known = m.known[x].range
    free = 31 - max(known.hi, -known.lo - 1, 0).bit_length()
    m.node(ops.LogicalLeftShift(m.whole(0, max(free, 0))), x)


def pool(m: Maker) -> None:
    x = m.pick((I8, I8, I16), 4)
    known = m.known[x].type
    kernel, stride, _, padding = _geometry(m, known.shape[1:3])
    lo, hi = known.dtype.qmin, known.dtype.qmax
    if m.chance(0.4):
        lo, hi = sorted((m.whole(lo, hi), m.whole(lo, hi)))
    shape = ((kernel[0], kernel[1]), (stride[0], stride[1]), tuple(padding))
    if m.chance(0.5):
        m.node(ops.MaxPool2D(*shape, lo, hi), x)  # type: ignore[arg-type]
    else:
        m.node(ops.AvgPool2D(*shape, lo, hi, m.one(tuple(ops.DivRounding))), x)  # type: ignore[arg-type]


def reduce(m: Maker) -> None:
    kind = m.one((ops.ReduceSum, ops.ReduceSum, ops.ReduceMax, ops.ReduceMin, ops.ReduceAny))
    x = m.pick((BOOL,) if kind is ops.ReduceAny else NUMBERS)
    if kind is ops.ReduceSum:
        x = m.limited(x)
    rank = len(m.known[x].type.shape)
    axes = tuple(i for i in range(rank) if m.chance(0.5)) or tuple(range(rank))
    if kind is ops.ReduceSum:
        dtype = m.known[x].type.dtype
        zero = m.zero_point(dtype) if dtype is not I32 else m.one((0, m.whole(-999, 999)))
        m.finished(lambda q: ops.ReduceSum(axes, zero, q), x)
    else:
        m.node(kind(axes), x)


def argmax(m: Maker) -> None:
    x = m.pick(NUMBERS)
    m.node(ops.ArgMax(m.whole(0, max(len(m.known[x].type.shape) - 1, 0))), x)


ANY = (I8, I8, I16, I32, U8, BOOL)


def pad(m: Maker) -> None:
    x = m.pick(ANY)
    t = m.known[x].type
    m.node(ops.Pad(tuple((self_or(m, 0, 2), self_or(m, 0, 3)) for _ in t.shape), m.zero_point(t.dtype)), x)


def concat(m: Maker) -> None:
    x = m.pick(ANY)
    t = m.known[x].type
    axis = m.whole(0, max(len(t.shape) - 1, 0))
    rest = [n for i, n in enumerate(t.shape) if i != axis]
    fits = [
        n
        for n in m.made
        if m.known[n].type.dtype is t.dtype
        and len(m.known[n].type.shape) == len(t.shape)
        and [e for i, e in enumerate(m.known[n].type.shape) if i != axis] == rest
    ]
    parts = [x] + [m.one(fits) for _ in range(m.whole(0, 3)) if fits]
    if m.chance(0.3) and t.shape:
        parts.append(m.constant((*t.shape[:axis], m.whole(1, 3), *t.shape[axis + 1 :]), t.dtype))
    m.node(ops.Concat(axis), *parts)


def slice_(m: Maker) -> None:
    x = m.pick(ANY)
    start, size, stride = [], [], []
    for n in m.known[x].type.shape:
        start.append(m.whole(0, n - 1) if m.chance(0.6) else 0)
        stride.append(m.one((1, 1, 2, 3)))
        most = (n - 1 - start[-1]) // stride[-1] + 1
        size.append(m.whole(1, most) if m.chance(0.5) else most)
    m.node(ops.Slice(tuple(start), tuple(size), tuple(stride) if m.chance(0.6) else ()), x)


def reshape(m: Maker) -> None:
    x = m.pick(ANY)
    m.node(ops.Reshape(m.split(m.known[x].type.size, m.whole(0, 6))), x)


def transpose(m: Maker) -> None:
    x = m.pick(ANY)
    m.node(ops.Transpose(tuple(int(i) for i in m.r.permutation(len(m.known[x].type.shape)))), x)


def gather(m: Maker) -> None:
    x = m.pick(ANY)
    shape = m.known[x].type.shape
    axis = m.whole(0, max(len(shape) - 1, 0))
    bounds = m.one(((-2, 9), (None, None)))
    indices = m.constant((m.whole(1, 9),), I32, *bounds) if m.chance(0.7) else m.pick((I32,), 1)
    m.node(ops.Gather(axis), x, indices)


def resize(m: Maker) -> None:
    x = m.pick((I8, I8, I16), 4)
    bits = m.one((0, 1, 10, 11, m.whole(0, 11)))
    maps = []
    for n in m.known[x].type.shape[1:3]:
        size = m.whole(1, 12)
        lo, hi = ([m.whole(0, n - 1) for _ in range(size)] for _ in range(2))
        maps.append(ops.AxisMap(tuple(lo), tuple(hi), tuple(m.whole(0, 1 << bits) for _ in range(size))))
    m.node(ops.Resize(maps[0], maps[1], bits), x)


def softmax(m: Maker) -> None:
    x = m.pick((I8,))
    values = m.r.integers(0, (1 << 31) - 1, 256, endpoint=True)
    if m.chance(0.5):
        values = np.exp(-float(m.r.random()) * np.arange(256)) * ((1 << 31) - 1)
    values[0] = max(int(values[0]), 1 << 30)
    m.node(ops.Softmax(), x, m.value(values.astype(np.int32)))


MAKERS: tuple[Callable[[Maker], None], ...] = (
    *(conv, conv, conv, depthwise, depthwise, fully_connected, matmul, rescale, rescale, sums, sums, mul, table),
    *(clamp, cast, shifts, pool, pool, reduce, reduce, argmax, pad, concat, slice_, reshape, transpose, gather),
    *(resize, softmax, *TRANSFORMER_MAKERS),
)


def graph(seed: int, steps: int = 16, supported: Collection[type[ops.Op]] = ops.OPS) -> Graph:
    """Return a random graph that ``verify`` accepts; unread results are outputs, and some read ones too.

    supported  a back end's ops: no other is used
    """
    m = Maker(seed, supported)
    m.input(m.shape(4), I8)
    for _ in range(steps):
        m.one(MAKERS)(m)
    read = {i for node in m.b._nodes for i in node.inputs}
    outputs = [n for n in m.made if n not in read or m.chance(0.15)]
    outputs += [n for n in m.b.constants if m.chance(0.05)]
    made = m.b.finish([(n, None) for n in outputs])
    verify(made)
    return made


def feeds(made: Graph, seed: int) -> list[tuple[Array, ...]]:
    """Return one row for every kind of ``ROWS``, and one that mixes them."""
    r = np.random.default_rng(seed)
    rows = [tuple(fill(r, p.type.shape, p.type.dtype, kind) for p in made.inputs) for kind in ROWS]
    mixed = [fill(r, p.type.shape, p.type.dtype, ROWS[int(r.integers(len(ROWS)))]) for p in made.inputs]
    return [*rows, tuple(mixed)]
