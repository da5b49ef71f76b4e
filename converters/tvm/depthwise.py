"""depthwise_conv2d with one output per channel, vectorised over channels.

Taps above each other go through the dot instruction in pairs: two rows of activations, widened to int16 and
interleaved, times the two rows' weights. An interleaved pair of one column serves every output pixel whose window
holds that column, so a tile of neighbouring pixels shares the loads and the interleaving. Interleaving leaves the
channels in two vectors, the low and the high halves of every 128-bit lane; start values and epilogue coefficients
are stored in that order, and the final pack puts the channels back.

Levels without that instruction multiply lane by lane. Both read a padded copy, and the input zero point is folded
into the start value, as in ``gemm``.
"""

from dataclasses import dataclass

import numpy as np

from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.narrow import interleaved, join
from bitship.converters.tvm.requant import Epilogue
from bitship.converters.tvm.tir import Buffer, Expr, Function, cast, const, intrinsic, shuffle
from bitship.converters.tvm.window import Window, padded_input, split_rows, store_vector
from bitship.graph.base import Array, Ints
from bitship.graph.ops import Rescale


@dataclass(frozen=True)
class Depthwise:
    """One depthwise convolution: weights [KH, KW, C] int64 with the zero point taken off, bias [C] int64."""

    window: Window
    weights: Ints
    bias: Ints
    input_zero_point: int
    requant: Rescale | None
    bound: int

    @property
    def start(self) -> Ints:
        """[C] what the accumulators start at."""
        start: Ints = self.bias - self.input_zero_point * self.weights.sum(axis=(0, 1))
        return start

    def fits(self) -> bool:
        """Whether weights are int16 and no partial sum can wrap."""
        if int(np.abs(self.weights).max()) > 255 or self.window.kernel[1] > 16:
            return False
        return int((np.abs(self.start) + 128 * np.abs(self.weights).sum(axis=(0, 1))).max()) < 1 << 31


class DepthwiseKernel:
    """Writes the kernel of one depthwise convolution for one level."""

    def __init__(self, fn: Function, isa: Isa, op: Depthwise, x: Buffer, out: Buffer) -> None:
        self.fn, self.isa, self.op, self.out = fn, isa, op, out
        self.window = op.window
        self.paired = isa.x86 and isa.lanes >= 8
        self.width = 2 * isa.lanes if self.paired else isa.lanes
        self.x = padded_input(fn, x, self.window, op.input_zero_point)
        self.blocks = -(-self.window.c // self.width)
        order = np.arange(self.blocks * self.width).reshape(self.blocks, self.width)
        if self.paired:
            order = order[:, interleaved(2, isa.lanes)]
        self.order = np.where(order < self.window.c, order, -1)
        start = np.where(self.order >= 0, op.start[self.order], 0)
        self.start = fn.constant(start.astype(np.int32))
        self.weights = fn.constant(self._paired_weights() if self.paired else self._plain_weights())
        self.epilogue = Epilogue(fn, isa, op.requant, op.bound, self.order.reshape(-1).tolist(), isa.lanes)

    def _plain_weights(self) -> Array:
        """[blocks, KH, KW, lanes] int16."""
        kh, kw, c = self.op.weights.shape
        full = np.zeros((kh, kw, self.blocks * self.width), np.int64)
        full[:, :, :c] = self.op.weights
        return full.reshape(kh, kw, self.blocks, self.width).transpose(2, 0, 1, 3).astype(np.int16)

    def _paired_weights(self) -> Array:
        """[blocks, KH / 2 rounded up, KW, half, lanes, 2] int16; an odd last row is paired with zeros."""
        kh, kw, _ = self.op.weights.shape
        taken = np.where(self.order >= 0, self.op.weights[:, :, self.order], 0)  # [KH, KW, blocks, 2 * lanes]
        full = np.zeros((kh + kh % 2, *taken.shape[1:]), np.int64)
        full[:kh] = taken
        pairs = full.reshape(-1, 2, kw, self.blocks, 2, self.isa.lanes)
        return pairs.transpose(3, 0, 2, 4, 5, 1).astype(np.int16)

    def write(self) -> None:
        """Write the whole loop nest."""
        w = self.window
        halves = 2 if self.paired else 1
        most = max(1, min(8, self.isa.registers // (halves + 1)))
        tile, whole, rest = split_rows(w.ow, most)
        ragged = w.c % self.width
        full = self.blocks - (1 if ragged else 0)
        with self.fn.loop(w.n) as n, self.fn.divided(w.oh) as y:
            for first, count, used in ((0, full, self.width), (full, self.blocks - full, ragged)):
                with self.fn.loop(count) as b0:
                    b = self.fn.let(b0 + first)
                    with self.fn.loop(whole) as t:
                        self._tile(n, y, t * tile, b, tile, used)
                    if rest:
                        self._tile(n, y, const(whole * tile, "int32"), b, rest, used)

    def _tile(self, n: Expr, y: Expr, x0: Expr, b: Expr, pixels: int, used: int) -> None:
        fn, lanes, w = self.fn, self.isa.lanes, self.window
        halves = 2 if self.paired else 1
        acc = fn.registers(f"int32x{lanes}", pixels * halves)
        for i in range(pixels):
            for h in range(halves):
                acc.store(i * halves + h, self.start.load((b * halves + h) * lanes, lanes))
        base = fn.let(w.origin(n, y, x0) + b * self.width)
        if self.paired:
            self._walk_pairs(acc, base, b, pixels)
        else:
            self._walk_taps(acc, base, b, pixels)
        target = fn.let(w.pixel(n, y, x0) * w.c + b * self.width)
        for i in range(pixels):
            parts = [fn.let(self.epilogue.scale(acc.load(i * halves + h), b * halves + h)) for h in range(halves)]
            value = fn.let(join(fn, self.isa, self.op.requant, parts, interleaved(halves, lanes)))
            store_vector(self.out, target + i * w.c, value, self.width, used)

    def _columns(self, pixels: int) -> dict[int, list[tuple[int, int]]]:
        """Return, for every column of the tile's window, the (pixel, kernel column) pairs that read it."""
        w = self.window
        uses: dict[int, list[tuple[int, int]]] = {}
        for i in range(pixels):
            for kx in range(w.kernel[1]):
                uses.setdefault(i * w.stride[1] + kx * w.dilation[1], []).append((i, kx))
        return dict(sorted(uses.items()))

    def _walk_taps(self, acc: Buffer, base: Expr, b: Expr, pixels: int) -> None:
        fn, lanes, w = self.fn, self.isa.lanes, self.window
        kh, kw = w.kernel
        with fn.loop(kh) as ky:
            row = fn.let(base + ky * (w.dilation[0] * w.pw * w.c))
            at = fn.let((b * kh + ky) * (kw * lanes))
            taps = [fn.let(cast(self.weights.load(at + kx * lanes, lanes), "int32", lanes)) for kx in range(kw)]
            for column, uses in self._columns(pixels).items():
                x = fn.let(cast(self.x.load(row + column * w.c, lanes), "int16", lanes))
                x = fn.let(cast(x, "int32", lanes))
                for i, kx in uses:
                    acc.store(i, acc.load(i) + x * taps[kx])

    def _walk_pairs(self, acc: Buffer, base: Expr, b: Expr, pixels: int) -> None:
        fn, w = self.fn, self.window
        kh, kw = w.kernel
        n = self.width
        down = w.dilation[0] * w.pw * w.c
        pairs = -(-kh // 2)
        low, high = _unpack_picks(n)

        def pair(p: Expr, last_alone: bool) -> None:
            row = fn.let(base + p * (2 * down))
            at = fn.let((b * pairs + p) * (kw * 2 * n))
            for column, uses in self._columns(pixels).items():
                rows = [fn.let(cast(self.x.load(row + column * w.c, n), "int16", n))]
                below = self.x.load(row + (down + column * w.c), n)
                rows.append(const(0, "int16", n) if last_alone else fn.let(cast(below, "int16", n)))
                for h, picks in ((0, low), (1, high)):
                    x = fn.let(shuffle(rows, picks))
                    for i, kx in uses:
                        taps = self.weights.load(at + (kx * 2 + h) * n, n)
                        acc.store(i * 2 + h, self._dot(acc.load(i * 2 + h), x, taps))

        with fn.loop(kh // 2) as p:
            pair(p, False)
        if kh % 2:
            pair(const(kh // 2, "int32"), True)

    def _dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        """Return ``acc[lane] + x[2 lane] * w[2 lane] + x[2 lane + 1] * w[2 lane + 1]``."""
        n = self.isa.lanes
        i32 = f"int32x{n}"
        if self.isa.offset:
            return intrinsic(i32, f"llvm.x86.avx512.vpdpwssd.{32 * n}", acc, x, w)
        return acc + intrinsic(i32, "llvm.x86.avx2.pmadd.wd", x, w)


def _unpack_picks(n: int) -> tuple[list[int], list[int]]:
    """Return the lanes that interleave the low (high) halves of every 128-bit lane of two int16 vectors of n."""
    low = [source for k in range(0, n, 8) for j in range(4) for source in (k + j, n + k + j)]
    return low, [p + 4 for p in low]
