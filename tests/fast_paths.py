"""Random graphs that reach the corners of a back end's fast kernels: tails, strides, groups, shifts, extreme inputs."""

import numpy as np
from op_builders import ints, requant

from bitship.graph import DType, Graph, GraphBuilder
from bitship.graph.base import Array
from bitship.graph.ops import (
    ArithmeticRightShift,
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    MatMul,
    Rescale,
    Rounding,
)

I8, I32 = DType.INT8, DType.INT32
Rng = np.random.Generator


def extremes(graph: Graph) -> list[tuple[Array, ...]]:
    """Random, all lowest, all highest, alternating, and checkered extremes."""
    r = np.random.default_rng(0)
    rows: list[tuple[Array, ...]] = []
    for kind in range(5):
        row = []
        for port in graph.inputs:
            d, size = port.type.dtype, port.type.size
            values = {
                0: r.integers(d.qmin, d.qmax, size, np.int64, endpoint=True),
                1: np.full(size, d.qmin),
                2: np.full(size, d.qmax),
                3: np.where(np.arange(size) % 2, d.qmin, d.qmax),
                4: np.where(r.integers(0, 2, size), d.qmin, d.qmax),
            }[kind]
            row.append(values.astype(d.numpy).reshape(port.type.shape))
        rows.append(tuple(row))
    return rows


def _epilogue(r: Rng, channels: int, depth: int) -> Rescale | None:
    """A random epilogue: one or many factors, both roundings, ReLU-like and other clamps, now and then none."""
    if r.random() < 0.05:
        return None
    zero_point = int(r.choice([-128, -128, 0, 5, 127, -7]))
    qmin = int(r.choice([-128, -128, zero_point, -100]))
    qmax = int(r.choice([127, 127, max(qmin, 60)]))
    many = channels if r.random() < 0.7 else 1
    rounding = Rounding.SINGLE if r.random() < 0.5 else Rounding.DOUBLE
    return requant(r, many, 1.0 / (60 * np.sqrt(depth)), rounding, zero_point, I8, qmin, qmax)


def _weights(r: Rng, shape: tuple[int, ...]) -> Array:
    """Random int8 weights, at times nothing but extremes."""
    if r.random() < 0.2:
        return np.where(r.integers(0, 2, shape), -128, 127).astype(np.int8)
    return ints(r, shape)


def _conv(b: GraphBuilder, r: Rng, c: int, o: int) -> str:
    k = (1, 1) if r.random() < 0.5 else (int(r.integers(1, 5)), int(r.integers(1, 5)))
    groups = int(r.choice([g for g in (1, 1, 2, 3) if c % g == 0 and o % g == 0]))
    h, w = k[0] + int(r.integers(0, 9)), k[1] + int(r.integers(0, 22))
    padding = (0, 0, 0, 0) if r.random() < 0.4 else tuple(int(v) for v in r.integers(0, 3, 4))
    dilation = (1, 1) if k == (1, 1) or r.random() < 0.7 else (2, 2)
    padding = (2, 2, 2, 2) if dilation == (2, 2) and k != (1, 1) and max(k) > 1 else padding
    h, w = h * dilation[0], w * dilation[1]
    op = Conv2D(
        stride=(int(r.integers(1, 3)), int(r.integers(1, 3))),
        padding=padding,  # type: ignore[arg-type]
        dilation=dilation,
        groups=groups,
        input_zero_point=int(r.choice([-128, 127, 0, 3])),
        weight_zero_point=0 if r.random() < 0.9 else int(r.integers(-5, 5)),
        requant=_epilogue(r, o, k[0] * k[1] * c // groups),
    )
    x = b.input("x", (int(r.integers(1, 3)), h, w, c), I8)
    weights = b.constant("w", _weights(r, (o, *k, c // groups)))
    return b.node("conv", op, x, weights, b.constant("b", ints(r, (o,), I32, -20000, 20000)))


def _depthwise(b: GraphBuilder, r: Rng, c: int) -> str:
    k = (int(r.integers(1, 6)), int(r.integers(1, 6)))
    h, w = 2 * k[0] + int(r.integers(0, 6)), 2 * k[1] + int(r.integers(0, 12))
    op = DepthwiseConv2D(
        stride=(int(r.integers(1, 3)), int(r.integers(1, 3))),
        padding=tuple(int(v) for v in r.integers(0, 3, 4)),  # type: ignore[arg-type]
        dilation=(1, 1) if r.random() < 0.7 else (2, 1),
        input_zero_point=int(r.choice([-128, 127, 0, 3])),
        weight_zero_point=0 if r.random() < 0.8 else int(r.integers(-128, 127)),
        requant=_epilogue(r, c, k[0] * k[1]),
    )
    x = b.input("x", (int(r.integers(1, 3)), h, w, c), I8)
    return b.node(
        "dw", op, x, b.constant("w", _weights(r, (*k, c, 1))), b.constant("b", ints(r, (c,), I32, -9000, 9000))
    )


def products(r: Rng) -> Graph:
    """Convolutions, matrix products of every channel tail from 1 to 70, side by side."""
    b = GraphBuilder("products")
    outputs = []
    for c in range(1, 71):
        kind = c % 3
        if kind == 0:
            outputs.append(_conv(b, r, int(r.integers(1, 40)), c))
        elif kind == 1:
            outputs.append(_depthwise(b, r, c))
        else:
            n, depth = int(r.integers(1, 15)), int(r.integers(1, 130))
            zp = int(r.choice([-128, 127, 5]))
            x = b.input("x", (n, depth), I8)
            w, bias = b.constant("w", _weights(r, (c, depth))), b.constant("b", ints(r, (c,), I32, -9000, 9000))
            outputs.append(b.node("fc", FullyConnected(zp, requant=_epilogue(r, c, depth)), x, w, bias))
            a = b.input("a", (1, n, depth), I8)
            m = b.constant("m", _weights(r, (1, depth, c)))
            outputs.append(b.node("mm", MatMul(zp, 0, _epilogue(r, 1, depth)), a, m))
            batch = int(r.integers(1, 4))
            p, q = b.input("p", (batch, n, depth), I8), b.input("q", (batch, depth, c), I8)
            outputs.append(b.node("pq", MatMul(zp, 0, _epilogue(r, c, depth)), p, q))
    return b.finish([(name, None) for name in outputs])


def _range(r: Rng, dtype: DType) -> tuple[int, int]:
    if r.random() < 0.6:
        return dtype.qmin, dtype.qmax
    lo, hi = sorted(int(v) for v in r.integers(dtype.qmin, dtype.qmax, 2, np.int64, endpoint=True))
    return lo, hi


def _rescale(r: Rng, channels: int, reach_bits: int) -> Rescale:
    """A random rescale whose results mostly lie inside the output range for inputs below ``2^reach_bits``."""
    dtype = DType(r.choice(["int8", "int8", "int16", "int32", "uint8"]))
    pre_shift = int(r.choice([0, 0, 5])) if reach_bits < 24 else 0
    usual = 8 * min(dtype.itemsize, 2) - reach_bits - pre_shift
    count = channels if r.random() < 0.5 else 1
    spread = 3 if r.random() < 0.7 else 1
    shift = np.clip(usual + r.integers(-2, 2) + r.integers(0, spread, count), -31, 0 if reach_bits > 16 else 8)
    multiplier = r.integers(1 << 30, 1 << 31, count)
    for edge in (0, 1, 1 << 30, 1 << 30, (1 << 31) - 1):
        if r.random() < 0.2:
            multiplier[r.integers(0, count)] = edge
    qmin, qmax = _range(r, dtype)
    return Rescale(
        tuple(map(int, multiplier)),
        tuple(map(int, shift)),
        input_zero_point=int(r.choice([0, 0, -7])),
        output_zero_point=int(r.choice([0, qmin, 9, -100])),
        rounding=Rounding.SINGLE if r.random() < 0.5 else Rounding.DOUBLE,
        pre_shift=pre_shift,
        dtype=dtype,
        qmin=qmin,
        qmax=qmax,
    )


def rescales(r: Rng, count: int) -> Graph:
    """Rescales whose factors, shifts, zero points and input ranges reach every form of the epilogue."""
    b = GraphBuilder("rescales")
    outputs: list[str] = []
    while len(outputs) < count:
        channels, bits = int(r.choice([1, 5, 16, 33])), int(r.choice([4, 8, 12, 15, 24, 28, 29, 30]))
        x = b.input("x", (9, channels), I32)
        small = b.node("small", ArithmeticRightShift(31 - bits), x)  # now within 2^bits
        limited = b.node("limited", Clamp(-(1 << bits) + 8, (1 << bits) - 8), small)
        outputs.append(b.node("rescale", _rescale(r, channels, bits), limited))
    return b.finish([(name, None) for name in outputs])
