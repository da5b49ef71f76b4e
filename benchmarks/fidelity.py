"""How near the softmax, GELU and LayerNorm ops come to the real functions, on the distributions of published tests.

SQNR in dB of what the op computes against the real function of the same integers, in float64. The tables' entries are
exact (``importers.functions``); the specification's NumPy functions are what is measured.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bitship.graph import DType
from bitship.graph.base import Array
from bitship.graph.fixedpoint import quantize_multiplier
from bitship.graph.ops import (
    ILayerNorm,
    LayerNorm,
    Rescale,
    ShiftGelu,
    Shiftmax,
    Softmax,
    SoftmaxMatMul,
    Table,
    TableSoftmax,
)
from bitship.importers import functions
from bitship.importers.attention import unit_of

Real = NDArray[np.float64]
HEADS, WIDTH = 4, 64
LOGITS = ((0.5, 197), (1.0, 197), (2.0, 197), (4.0, 197), (1.0, 65), (1.0, 577))
RANGES = (2, 3, 5, 6, 8, 9, 10, 20, 50)
WIDE_RANGES = (6, 12, 30)
CHANNELS = (192, 384, 768)


def sqnr(wanted: Real, found: Real) -> float:
    """Signal to noise in dB."""
    noise = float(np.square(wanted - found).sum())
    return 10 * math.log10(float(np.square(wanted).sum()) / noise) if noise else math.inf


def _quantized(x: Real, dtype: type) -> tuple[Array, float]:
    """Symmetric codes of the whole range, and their scale."""
    top = int(np.iinfo(dtype).max)
    scale = float(np.abs(x).max()) / top
    return np.rint(x / scale).astype(dtype), scale


def _late(x: Array, v: Array, scale: float, wanted: Real) -> Real:
    """softmax_matmul to int16 of a range that just holds the result; its rounding is part of what is measured."""
    step = float(np.abs(wanted).max()) / 32000
    multiplier, shift = quantize_multiplier(1 / step)
    requant = Rescale((multiplier,), (shift,), dtype=DType.INT16, qmin=-32768, qmax=32767)
    return SoftmaxMatMul(requant).run(x, v, functions.exp_table(scale, 255, "uint8")) * step


SOFTMAXES: dict[str, Callable[[Array, Array, float, Real], Real]] = {
    "softmax_matmul": _late,
    "table_softmax, matmul": lambda x, v, scale, _: (
        TableSoftmax().run(x, functions.exp_table(scale, 32767, "int16")).astype(float) / 32768 @ v
    ),
    "shiftmax, matmul": lambda x, v, scale, _: Shiftmax(unit_of(scale)).run(x).astype(float) / 32768 @ v,
    "softmax (TFLite int8), matmul": lambda x, v, scale, _: (
        (Softmax().run(x, functions.exp_table(scale)).astype(float) + 128) / 256 @ v
    ),
}


def softmaxes() -> dict[str, list[float]]:
    """SQNR of ``softmax(logits) @ v`` for every op, one figure per entry of LOGITS.

    Logits normal, int8 over their range; v int8, normal around a mean per channel.
    """
    found: dict[str, list[float]] = {name: [] for name in SOFTMAXES}
    for sigma, n in LOGITS:
        r = np.random.default_rng([n, int(10 * sigma)])
        x, scale = _quantized(r.normal(0, sigma, (HEADS, n, n)), np.int8)
        v, _ = _quantized(r.normal(0, 1, (HEADS, n, WIDTH)) + r.normal(0, 1, (HEADS, 1, WIDTH)), np.int8)
        e = np.exp(scale * (x.astype(float) - x.max(axis=-1, keepdims=True)))
        wanted = e / e.sum(axis=-1, keepdims=True) @ v
        for name, op in SOFTMAXES.items():
            found[name].append(sqnr(wanted, op(x, v, scale, wanted)))
    return found


def _gelu(x: Real) -> Real:
    return np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.reshape(-1)]).reshape(x.shape)


def _row(limit: float, dtype: type) -> tuple[Array, float]:
    """256 rows of 768, N(-0.8, 1.2), the first element of each the largest."""
    r = np.random.default_rng(int(limit))
    x = r.normal(-0.8, 1.2, (256, 768)).clip(-limit, limit)
    x[:, 0] = limit
    scale = limit / int(np.iinfo(dtype).max)
    return np.rint(x / scale).astype(dtype), scale


def gelus() -> list[tuple[float, float, float, float]]:
    """(range, largest error of the int8 table in steps of its output, its SQNR, shiftgelu's SQNR)."""
    found = []
    for limit in RANGES:
        x, scale = _row(limit, np.int8)
        wanted, every = _gelu(x * scale), np.arange(-128.0, 128.0)
        step = limit / 127
        table = functions.table(functions.gelu, (-math.inf, math.inf), scale, 0, step, 0)
        error = float(np.abs(table - _gelu(every * scale) / step).max())
        shifted = ShiftGelu(unit_of(1.702 * scale)).run(x) * (scale / 128)
        by_table = Table().run(x, table) * step
        found.append((float(limit), error, sqnr(wanted, by_table), sqnr(wanted, shifted)))
    return found


def wide_gelus() -> list[tuple[float, float]]:
    """(range, SQNR) of int16 GELU by 513 interpolated entries."""
    found = []
    for limit in WIDE_RANGES:
        x, scale = _row(limit, np.int16)
        table = functions.wide_table(functions.gelu, (-math.inf, math.inf), scale, scale)
        found.append((float(limit), sqnr(_gelu(x * scale), Table().run(x, table) * scale)))
    return found


def _affine(r: np.random.Generator, c: int, fraction: float, top: float) -> tuple[Real, Real, float, int, Array, Array]:
    """Return (gamma, beta, output step, shift, multipliers, biases) for an int16 result that reaches ``top``."""
    gamma, beta = r.normal(1, 0.2, c), r.normal(0, 0.3, c)
    step = top / 32767
    shift = int(30 + fraction - math.ceil(math.log2(np.abs(gamma).max() / step)))
    multiplier = np.rint(gamma / step * 2.0 ** (shift - fraction)).astype(np.int32)
    return gamma, beta, step, shift, multiplier, np.rint(beta / step * 65536).astype(np.int32)


def norms() -> list[tuple[str, int, bool, float, float, float]]:
    """(input, channels, outlier, SQNR of layer_norm's normalised value, of its int16 result, of i_layer_norm's)."""
    found = []
    wide = {"dtype": DType.INT16, "qmin": -32768, "qmax": 32767}
    for dtype in (np.int8, np.int16):
        for c in CHANNELS:
            for outlier in (False, True):
                r = np.random.default_rng([c, outlier])
                real = r.normal(0.1, 1, (197, c))
                real[:, c // 3] *= 20 if outlier else 1
                x, _ = _quantized(real, dtype)
                q = x.astype(np.int64)
                exact = (q - q.mean(-1, keepdims=True)) / q.std(-1, keepdims=True)
                total = q.sum(-1, keepdims=True)
                w = c * (q * q).sum(-1, keepdims=True) - total * total
                z = LayerNorm(32).normalised(c * q - total, w) / 2.0**20
                results: list[float] = []
                for kind, fraction in ((LayerNorm, 20.0), (ILayerNorm, 30 - math.log2(c) / 2)):
                    top = float(np.abs(exact).max()) * 1.6 + 1
                    gamma, beta, step, shift, m, b = _affine(np.random.default_rng(c), c, fraction, top)
                    y = kind(shift, **wide).run(x, m, b) * step  # type: ignore[arg-type]
                    results.append(sqnr(exact * gamma + beta, y))
                found.append((np.dtype(dtype).name, c, outlier, sqnr(exact, z), results[0], results[1]))
    return found
