"""Random graphs for the fast kernels of transformers: strided operands, tables behind products, rows' own factors."""

import numpy as np
from op_builders import ints, requant

from bitship.graph import DType, Graph, GraphBuilder
from bitship.graph.base import Array
from bitship.graph.ops import (
    Add,
    FullyConnected,
    LayerNorm,
    MatMul,
    Rescale,
    Reshape,
    RmsNorm,
    Rounding,
    Slice,
    SoftmaxMatMul,
    Table,
    Transpose,
)

I8, I16, I32 = DType.INT8, DType.INT16, DType.INT32
S = Rounding.SINGLE
Rng = np.random.Generator


def _linear(b: GraphBuilder, r: Rng, x: str, outputs: int, zero_point: int, dtype: DType = I8) -> str:
    depth = b.types[x].shape[1]
    rq = requant(r, outputs, dtype.qmax / 127 / (60 * np.sqrt(depth)), S, zero_point if dtype is I8 else 0, dtype)
    w, bias = b.constant("w", ints(r, (outputs, depth))), b.constant("b", ints(r, (outputs,), I32, -9000, 9000))
    return b.node("fc", FullyConnected(int(r.integers(-9, 9)), requant=rq), x, w, bias)


def _norm(b: GraphBuilder, r: Rng, x: str) -> str:
    c = b.types[x].shape[-1]
    gain = r.normal(1, 0.4, c) * 40
    shift = int(np.floor(50 - np.log2(np.abs(gain).max())))
    m = b.constant("m", np.rint(gain * 2.0 ** (shift - 20)).astype(np.int32))
    kind = LayerNorm if r.random() < 0.7 else RmsNorm
    return b.node("norm", kind(shift, 3, epsilon=9), x, m, b.constant("o", ints(r, (c,), I32, -(1 << 21), 1 << 21)))


def _sum(b: GraphBuilder, r: Rng, x: str, y: str) -> str:
    def term(factor: float) -> Rescale:
        m, e = np.frexp(factor)
        return Rescale((int(m * (1 << 31)),), (int(e),), pre_shift=12, dtype=I32, qmin=I32.qmin, qmax=I32.qmax)

    final = Rescale((int(r.integers(1 << 30, 1 << 31)),), (-11,), dtype=I16, qmin=I16.qmin, qmax=I16.qmax)
    return b.node("add", Add(term(0.7), term(0.9), final), x, y)


def _codes(r: Rng) -> Array:
    return np.asarray(np.rint(255 * np.exp(-r.uniform(0.01, 0.2) * np.arange(256))).astype(np.uint8))


def block(
    r: Rng, tokens: int, heads: int, head: int, *, fused: bool = True, zero_points: bool = True, name: str = "block"
) -> Graph:
    """One encoder block with an int16 residual stream.

    fused  q, k and v are views of one product; otherwise each has its own
    """
    b, dim = GraphBuilder(name), heads * head

    def zp() -> int:
        return int(r.integers(-30, 30)) if zero_points else 0

    x = b.input("x", (tokens, dim), I16)
    h = _norm(b, r, x)
    if fused:
        split = b.node("split", Reshape((tokens, 3, heads, head)), _linear(b, r, h, 3 * dim, zp()))
        moved = b.node("moved", Transpose((1, 2, 0, 3)), split)
        parts = [b.node("part", Slice((i, 0, 0, 0), (1, heads, tokens, head)), moved) for i in range(3)]
        q, k, v = (b.node("qkv", Reshape((heads, tokens, head)), p) for p in parts)
    else:
        split_each = [b.node("s", Reshape((tokens, heads, head)), _linear(b, r, h, dim, zp())) for _ in range(3)]
        q, k, v = (b.node("t", Transpose((1, 0, 2)), s) for s in split_each)
    turned = b.node("turned", Transpose((0, 2, 1)), k)
    scores = b.node("scores", MatMul(zp(), zp(), requant(r, 1, 1 / (60 * np.sqrt(head)), S, zp())), q, turned)
    rq = requant(r, 1, 1.2, S, zp())
    mixed = b.node("mixed", SoftmaxMatMul(rq, zp(), bool(r.random() < 0.3)), scores, v, b.constant("e", _codes(r)))
    back = b.node("back", Reshape((tokens, dim)), b.node("t", Transpose((1, 0, 2)), mixed))
    x = _sum(b, r, x, _linear(b, r, back, dim, 0, I16))
    wide = b.node("r", Reshape((1, tokens, 2 * dim)), _linear(b, r, _norm(b, r, x), 2 * dim, zp()))
    table = b.node("table", Table(), wide, b.constant("gelu", ints(r, (256,))))
    narrow = _linear(b, r, b.node("r", Reshape((tokens, 2 * dim)), table), dim, 0, I16)
    outputs = [_sum(b, r, x, narrow), *([scores] if r.random() < 0.3 else [])]
    return b.finish([(name, None) for name in outputs])


def attentions(r: Rng, count: int) -> Graph:
    """Products of every kind a block has, of random sizes, zero points and factors, side by side."""
    b = GraphBuilder("attentions")
    outputs = []
    for _ in range(count):
        batch, rows, length, columns = (int(r.integers(1, n)) for n in (4, 30, 90, 80))
        zp, masked, wide = int(r.choice([0, 0, 7, -128])), bool(r.random() < 0.4), r.random() < 0.3
        out = I16 if wide else I8
        rq = requant(r, columns if r.random() < 0.5 else 1, float(r.choice([0.7, 1.3])) * out.qmax / 127, S, 0, out)
        x, v = b.input("x", (batch, rows, length), I8), b.input("v", (batch, length, columns), I8)
        if r.random() < 0.3:
            v = b.node("v", Transpose((0, 2, 1)), b.input("vt", (batch, columns, length), I8))
        y = b.node("sm", SoftmaxMatMul(rq, zp, masked), x, v, b.constant("e", _codes(r)))
        outputs.append(b.node("t", Transpose((1, 0, 2)), y) if r.random() < 0.5 else y)
        depth = int(r.integers(1, 70))
        p, q = b.input("p", (batch, rows, depth), I8), b.input("q", (batch, length, depth), I8)
        product = MatMul(int(r.choice([0, -5])), zp, requant(r, length if r.random() < 0.5 else 1, 0.002, S, 3))
        outputs.append(b.node("qk", product, p, b.node("qt", Transpose((0, 2, 1)), q)))
        f = b.input("f", (rows, depth), I8)
        table = b.constant("table", ints(r, (256,)))
        outputs.append(b.node("gelu", Table(), _linear(b, r, f, columns, 4), table))
        outputs.append(b.node("wide", Table(), f, b.constant("table16", ints(r, (256,), I16))))
    return b.finish([(name, None) for name in outputs])
