"""Cases of the ops a transformer needs; same form as ``op_cases.CASES``."""

from collections.abc import Callable

import numpy as np
from op_builders import I8, I16, Case, S, feeds, ints, requant, rng, single, unary

from bitship.graph import DType
from bitship.graph.base import Array
from bitship.graph.ops import (
    AnyOp,
    ILayerNorm,
    LayerNorm,
    Rescale,
    RmsNorm,
    ShiftGelu,
    Shiftmax,
    SoftmaxMatMul,
    Table,
    TableSoftmax,
)

Rows = list[tuple[Array, ...]]


def _with_rows(case: Case, *rows: Array) -> Case:
    """Add rows for the first input; the other inputs are the first feed's."""
    graph, known = case
    shape, dtype = graph.inputs[0].type.shape, graph.inputs[0].type.dtype.numpy
    return graph, [*known, *((np.resize(r, shape).astype(dtype), *known[0][1:]) for r in rows)]


def norm(
    name: str,
    kind: type[LayerNorm] | type[RmsNorm] | type[ILayerNorm],
    shape: tuple[int, ...],
    dtype: DType = I8,
    out: DType = I8,
    period: int | None = None,
    shift: int | None = None,
    **more: int,
) -> Case:
    """Affine of both signs; the output of a normal row spans a third of its dtype. Rows: constant, one spike, tiny."""
    r, c = rng(name), shape[-1]
    p = period or c
    fraction, spread = (30 - np.log2(c) / 2, 1.0) if kind is ILayerNorm else (20.0, 1.0)
    gain = r.normal(1, 0.4, p) * spread * out.qmax / 3
    shift = shift or int(min(62, np.floor(30 - np.log2(np.abs(gain).max()) + fraction)))
    gain = np.minimum(gain, 2.0 ** (30 + fraction - shift))
    multiplier = np.rint(gain * 2.0 ** (shift - fraction)).astype(np.int32)
    bias = np.rint(r.normal(0, out.qmax / 4, p) * 65536).clip(-(1 << 31), (1 << 31) - 1).astype(np.int32)
    op = kind(shift, dtype=out, qmin=out.qmin, qmax=out.qmax, **more)
    case = unary(name, op, shape, dtype, (multiplier, bias))
    spike = np.full(c, 5)
    spike[c // 2] = dtype.qmax
    tiny = 7 + (np.arange(c) % 2)
    wide = r.normal(0, dtype.qmax / 4, shape).clip(dtype.qmin, dtype.qmax)
    return _with_rows(case, np.full(c, -3), spike, tiny, np.zeros(c), wide)


def _codes(scale: float, one: int, dtype: type) -> Array:
    return np.asarray(np.rint(one * np.exp(-scale * np.arange(256))).astype(dtype))


def table_softmax(name: str, shape: tuple[int, ...], scale: float, masked: bool = False) -> Case:
    case = unary(name, TableSoftmax(masked), shape, I8, (_codes(scale, 32767, np.int16),))
    return _with_rows(case, _masked_rows(shape))


def _masked_rows(shape: tuple[int, ...]) -> Array:
    r = rng(str(shape))
    x = ints(r, shape)
    x[r.random(shape) < 0.4] = -128
    return x


def softmax_matmul(
    name: str,
    b: int,
    m: int,
    n: int,
    k: int,
    scale: float,
    *,
    zp: int = 0,
    masked: bool = False,
    per_channel: bool = False,
    out: DType = I8,
    out_zp: int = 0,
) -> Case:
    r = rng(name)
    rq = requant(r, k if per_channel else 1, 1.2 * out.qmax / 127, S, out_zp)
    rq = Rescale(rq.multiplier, rq.shift, output_zero_point=out_zp, dtype=out, qmin=out.qmin, qmax=out.qmax)
    op = SoftmaxMatMul(rq, zp, masked)
    shapes = ((b, m, n), (b, n, k))
    g = single(name, op, [(s, I8) for s in shapes], (_codes(scale, 255, np.uint8),))
    rows = feeds(r, *((s, I8, None, None) for s in shapes))
    return _with_rows((g, rows), _masked_rows(shapes[0]))


def wide_table(name: str, shape: tuple[int, ...], entries: Array) -> Case:
    return _with_rows(unary(name, Table(), shape, I16, (entries.astype(np.int16),)), np.arange(-32768, 32768, 31))


def plain(name: str, op: AnyOp, shape: tuple[int, ...]) -> Case:
    r, c = rng(name), shape[-1]
    peak = np.full(shape, -90)
    peak[..., c // 2] = 100
    return _with_rows(unary(name, op, shape), peak, np.full(c, -5), r.normal(-20, 30, shape).clip(-128, 127))


_CURVE = np.rint(np.tanh(np.arange(-256, 257) / 80) * 32767)
_NOISE = ints(rng("noise"), (513,), I16)

TRANSFORMER_CASES: dict[str, Callable[[], Case]] = {
    name: (lambda f=f, name=name: f(name))  # type: ignore[misc]
    for name, f in {
        "layer_norm": lambda n: norm(n, LayerNorm, (3, 5, 64)),
        "layer_norm_odd": lambda n: norm(n, LayerNorm, (7, 33), epsilon=40),
        "layer_norm_int16": lambda n: norm(n, LayerNorm, (5, 192), I16, epsilon=12345),
        "layer_norm_int16_out": lambda n: norm(n, LayerNorm, (4, 96), I16, I16, output_zero_point=0),
        "layer_norm_to_int16": lambda n: norm(n, LayerNorm, (4, 37), I8, I16),
        "layer_norm_period": lambda n: norm(n, LayerNorm, (2, 60), period=5, output_zero_point=-9),
        "layer_norm_one_gain": lambda n: norm(n, LayerNorm, (2, 3, 17), period=1),
        "layer_norm_one": lambda n: norm(n, LayerNorm, (6, 1)),
        "layer_norm_long": lambda n: norm(n, LayerNorm, (1, 4608), I16, period=64, epsilon=1),
        "layer_norm_low_shift": lambda n: norm(n, LayerNorm, (2, 9), shift=30),
        "layer_norm_high_shift": lambda n: norm(n, LayerNorm, (2, 9), I16, shift=51),
        "rms_norm": lambda n: norm(n, RmsNorm, (3, 5, 64), input_zero_point=-128),
        "rms_norm_int16": lambda n: norm(n, RmsNorm, (5, 48), I16, epsilon=999),
        "rms_norm_int16_out": lambda n: norm(n, RmsNorm, (5, 31), I8, I16, input_zero_point=11),
        "i_layer_norm": lambda n: norm(n, ILayerNorm, (5, 64), I16),
        "i_layer_norm_int8": lambda n: norm(n, ILayerNorm, (3, 33)),
        "i_layer_norm_wide": lambda n: norm(n, ILayerNorm, (3, 192), I16, I16),
        "table_softmax": lambda n: table_softmax(n, (3, 4, 65), 0.05),
        "table_softmax_odd": lambda n: table_softmax(n, (5, 7), 0.2),
        "table_softmax_masked": lambda n: table_softmax(n, (4, 49), 0.03, True),
        "table_softmax_wide": lambda n: table_softmax(n, (1, 3000), 0.0),
        "table_softmax_one": lambda n: table_softmax(n, (3, 1), 0.1, True),
        "softmax_matmul": lambda n: softmax_matmul(n, 2, 9, 65, 16, 0.05),
        "softmax_matmul_odd": lambda n: softmax_matmul(n, 1, 7, 5, 3, 0.2, zp=-4, out_zp=5),
        "softmax_matmul_tall": lambda n: softmax_matmul(n, 2, 50, 49, 16, 0.03, zp=7),
        "softmax_matmul_masked": lambda n: softmax_matmul(n, 2, 49, 49, 24, 0.04, masked=True, out_zp=-3),
        "softmax_matmul_channels": lambda n: softmax_matmul(n, 1, 12, 33, 20, 0.07, per_channel=True),
        "softmax_matmul_int16": lambda n: softmax_matmul(n, 2, 6, 40, 17, 0.02, out=I16),
        "softmax_matmul_one": lambda n: softmax_matmul(n, 1, 1, 1, 1, 0.5, masked=True),
        "softmax_matmul_wide": lambda n: softmax_matmul(n, 1, 3, 577, 10, 0.01),
        "table_interpolated": lambda n: wide_table(n, (3, 705), _CURVE),
        "table_interpolated_noise": lambda n: wide_table(n, (2, 2, 531), _NOISE),
        "shiftmax": lambda n: plain(n, Shiftmax(17), (3, 4, 65)),
        "shiftmax_one_unit": lambda n: plain(n, Shiftmax(1), (5, 9)),
        "shiftmax_fine": lambda n: plain(n, Shiftmax(1 << 15), (2, 197)),
        "shiftmax_masked": lambda n: _with_rows(plain(n, Shiftmax(20, True), (3, 49)), _masked_rows((3, 49))),
        "shiftmax_one": lambda n: plain(n, Shiftmax(12), (3, 1)),
        "shiftgelu": lambda n: plain(n, ShiftGelu(12), (3, 5, 64)),
        "shiftgelu_int8": lambda n: plain(n, ShiftGelu(25, requant(rng(n), 1, 1 / 128, S, -7)), (4, 33)),
        "shiftgelu_one_unit": lambda n: plain(n, ShiftGelu(1), (4, 18)),
        "shiftgelu_fine": lambda n: plain(n, ShiftGelu(1 << 15), (2, 40)),
    }.items()
}
