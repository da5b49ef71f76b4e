"""Build single-op graphs with inputs that reach the corners: extremes, zero points, ties, strides, padding, tails."""

import numpy as np

from bitship.graph import DType, Graph, GraphBuilder
from bitship.graph.base import Array
from bitship.graph.ops import (
    AnyOp,
    AxisMap,
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Gather,
    MatMul,
    Rescale,
    Resize,
    Rounding,
    Softmax,
)

Case = tuple[Graph, list[tuple[Array, ...]]]
S, D = Rounding.SINGLE, Rounding.DOUBLE
I8, I16, I32 = DType.INT8, DType.INT16, DType.INT32


def rng(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))


def ints(
    r: np.random.Generator, shape: tuple[int, ...], dtype: DType = I8, lo: int | None = None, hi: int | None = None
) -> Array:
    lo, hi = dtype.qmin if lo is None else lo, dtype.qmax if hi is None else hi
    return r.integers(lo, hi, shape, np.int64, endpoint=True).astype(dtype.numpy)


def feeds(
    r: np.random.Generator, *specs: tuple[tuple[int, ...], DType, int | None, int | None]
) -> list[tuple[Array, ...]]:
    """Random, all lowest, all highest, and alternating extremes."""
    result: list[tuple[Array, ...]] = [tuple(ints(r, *s) for s in specs) for _ in range(2)]
    for pick in ("lo", "hi", "mix"):
        row = []
        for shape, dtype, lo, hi in specs:
            low, high = dtype.qmin if lo is None else lo, dtype.qmax if hi is None else hi
            flat = np.full(int(np.prod(shape)), low if pick != "hi" else high, np.int64)
            if pick == "mix":
                flat[::2] = high
            row.append(flat.reshape(shape).astype(dtype.numpy))
        result.append(tuple(row))
    return result


def requant(
    r: np.random.Generator,
    channels: int,
    factor: float,
    rounding: Rounding = S,
    zp: int = 0,
    dtype: DType = I8,
    qmin: int | None = None,
    qmax: int | None = None,
) -> Rescale:
    """An epilogue whose factors spread around ``factor``; one entry is an exact power of two, so ties occur."""
    m, s = [], []
    for c in range(channels):
        mantissa, exponent = np.frexp(factor * (r.uniform(0.3, 1.5) if c else 0.5))
        m.append(min(round(mantissa * (1 << 31)), (1 << 31) - 1) if c else 1 << 30)
        s.append(int(exponent))
    return Rescale(
        multiplier=tuple(m),
        shift=tuple(s),
        output_zero_point=zp,
        rounding=rounding,
        dtype=dtype,
        qmin=dtype.qmin if qmin is None else qmin,
        qmax=dtype.qmax if qmax is None else qmax,
    )


def single(
    name: str,
    op: AnyOp,
    inputs: list[tuple[tuple[int, ...], DType]],
    constants: tuple[Array, ...] = (),
    lo: int | None = None,
    hi: int | None = None,
) -> Graph:
    """One op; with ``lo`` and ``hi`` a clamp before it, where the overflow proof needs to know the input's range."""
    b = GraphBuilder(name)
    names = [b.input(f"x{i}", shape, dtype) for i, (shape, dtype) in enumerate(inputs)]
    if lo is not None and hi is not None:
        names = [b.node(f"{n}_clamped", Clamp(lo, hi), n) for n in names]
    names += [b.constant(f"c{i}", c) for i, c in enumerate(constants)]
    return b.finish([(b.node("y", op, *names), None)])


def conv(
    name: str,
    x: tuple[int, int, int, int],
    o: int,
    k: tuple[int, int],
    *,
    groups: int = 1,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    izp: int = 0,
    wzp: int = 0,
    per_channel: bool = True,
    rounding: Rounding = S,
    epilogue: bool = True,
    xtype: DType = I8,
    otype: DType = I8,
    clamp: tuple[int, int] | None = None,
    wrange: tuple[int, int] = (-128, 127),
    zp: int = 3,
) -> Case:
    r = rng(name)
    c = x[3] // groups
    w = ints(r, (o, *k, c), I8, *wrange)
    scale = 60.0 if xtype is I8 else 9000.0
    rq = None
    if epilogue:
        rq = requant(
            r,
            o if per_channel else 1,
            (1.0 if otype is I8 else 250.0) / (scale * np.sqrt(k[0] * k[1] * c)),
            rounding,
            zp,
            otype,
            *(clamp or (None, None)),
        )
    op = Conv2D(
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        input_zero_point=izp,
        weight_zero_point=wzp,
        requant=rq,
    )
    g = single(name, op, [(x, xtype)], (w, ints(r, (o,), I32, -20000, 20000)))
    return g, feeds(r, (x, xtype, None, None))


def depthwise(
    name: str,
    x: tuple[int, int, int, int],
    k: tuple[int, int],
    m: int = 1,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    izp: int = 0,
    wzp: int = 0,
    per_channel: bool = True,
    rounding: Rounding = S,
    epilogue: bool = True,
    xtype: DType = I8,
) -> Case:
    r = rng(name)
    o = x[3] * m
    w = ints(r, (*k, x[3], m))
    rq = requant(r, o if per_channel else 1, 1.0 / (60 * np.sqrt(k[0] * k[1])), rounding, -7) if epilogue else None
    op = DepthwiseConv2D(
        stride=stride, padding=padding, dilation=dilation, input_zero_point=izp, weight_zero_point=wzp, requant=rq
    )
    g = single(name, op, [(x, xtype)], (w, ints(r, (o,), I32, -9000, 9000)))
    return g, feeds(r, (x, xtype, None, None))


def fc(
    name: str,
    n: int,
    i: int,
    o: int,
    *,
    izp: int = 0,
    wzp: int = 0,
    rounding: Rounding = S,
    epilogue: bool = True,
    per_channel: bool = False,
    xtype: DType = I8,
) -> Case:
    r = rng(name)
    rq = requant(r, o if per_channel else 1, 1.0 / (60 * np.sqrt(i)), rounding, 5) if epilogue else None
    g = single(
        name,
        FullyConnected(input_zero_point=izp, weight_zero_point=wzp, requant=rq),
        [((n, i), xtype)],
        (ints(r, (o, i)), ints(r, (o,), I32, -9000, 9000)),
    )
    return g, feeds(r, ((n, i), xtype, None, None))


def matmul(
    name: str,
    b: int,
    m: int,
    k: int,
    n: int,
    *,
    azp: int = 0,
    bzp: int = 0,
    epilogue: bool = True,
    atype: DType = I8,
    constant_b: bool = False,
) -> Case:
    r = rng(name)
    rq = requant(r, 1, 1.0 / (60 * np.sqrt(k)), S, 0) if epilogue else None
    op = MatMul(a_zero_point=azp, b_zero_point=bzp, requant=rq)
    if constant_b:
        return single(name, op, [((b, m, k), atype)], (ints(r, (b, k, n)),)), feeds(r, ((b, m, k), atype, None, None))
    g = single(name, op, [((b, m, k), atype), ((b, k, n), I8)])
    return g, feeds(r, ((b, m, k), atype, None, None), ((b, k, n), I8, None, None))


def unary(
    name: str,
    op: AnyOp,
    shape: tuple[int, ...],
    dtype: DType = I8,
    constants: tuple[Array, ...] = (),
    lo: int | None = None,
    hi: int | None = None,
) -> Case:
    return single(name, op, [(shape, dtype)], constants, lo, hi), feeds(rng(name), (shape, dtype, None, None))


def binary(
    name: str,
    op: AnyOp,
    a: tuple[int, ...],
    b: tuple[int, ...],
    at: DType = I8,
    bt: DType = I8,
    limit: int | None = None,
) -> Case:
    lo = None if limit is None else -limit
    g = single(name, op, [(a, at), (b, bt)], (), lo, limit)
    return g, feeds(rng(name), (a, at, None, None), (b, bt, None, None))


def tflite_add(rounding: Rounding = D) -> tuple[Rescale, Rescale, Rescale]:
    """The three rescales of TFLite's ADD for scales 0.05, 0.031 -> 0.06, zero points 4, -9 -> 1."""
    i32 = {"dtype": I32, "qmin": I32.qmin, "qmax": I32.qmax, "rounding": rounding}
    return (
        Rescale((1 << 30,), (0,), input_zero_point=4, pre_shift=20, **i32),  # type: ignore[arg-type]
        Rescale((1331439862,), (-1,), input_zero_point=-9, pre_shift=20, **i32),  # type: ignore[arg-type]
        Rescale((1789569707,), (-18,), output_zero_point=1, rounding=rounding),
    )


def resize(name: str, x: tuple[int, int, int, int], out: tuple[int, int], bits: int) -> Case:
    def axis(n: int, m: int) -> AxisMap:
        at = [i * n / m for i in range(m)]
        lo = [min(int(v), n - 1) for v in at]
        hi = [min(v + 1, n - 1) if bits else v for v in lo]
        return AxisMap(tuple(lo), tuple(hi), tuple(int((v - int(v)) * (1 << bits)) if bits else 0 for v in at))

    return unary(name, Resize(axis(x[1], out[0]), axis(x[2], out[1]), bits), x)


def softmax(name: str, shape: tuple[int, ...], scale: float) -> Case:
    table = np.array([min(round(float(np.exp(-scale * d)) * (1 << 31)), (1 << 31) - 1) for d in range(256)], np.int64)
    table[200:] = 0
    return unary(name, Softmax(), shape, I8, (table.astype(np.int32),))


def gather(name: str) -> Case:
    g = single(name, Gather(axis=1), [((2, 9, 3), I8), ((4,), I32)])
    return g, feeds(rng(name), ((2, 9, 3), I8, None, None), ((4,), I32, -3, 12))
