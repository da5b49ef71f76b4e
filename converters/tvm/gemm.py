"""conv2d, fully_connected and constant matmul as one implicit matrix product with packed weights.

Rows are output pixels, columns output channels, depth the window's taps. A micro-kernel keeps ``rows x vectors``
accumulators in registers, walks the depth, and applies the epilogue before anything is stored. The window's taps are
read where they lie: a 1x1 convolution reads the activations themselves, any other a padded copy.

The accumulator starts at ``bias - input_zero_point * sum(w) - offset * sum(w)``: dot instructions for unsigned x
signed read x + 128 (offset 128), and padding holds the input zero point. The kernel is taken only when
``|start| + sum |w| * 255`` (128 for signed dots) stays below 2^31, so no partial sum wraps.
"""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from bitship.converters.tvm.computed import RunTimePacking, Strided
from bitship.converters.tvm.dot import dot, multiply_pair, unpaired
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.narrow import channel_order, join
from bitship.converters.tvm.requant import Epilogue
from bitship.converters.tvm.tir import Buffer, Expr, Function, Index, bits, const, shuffle, splat
from bitship.converters.tvm.window import Window, padded_input, split_rows, store_vector
from bitship.graph.base import Array, Ints
from bitship.graph.ops import Rescale


class Scales(Protocol):
    """Turns a vector of accumulators into scaled int32 values; see ``requant.Epilogue.scale``."""

    def scale(self, value: Expr, block: Index, row: Index = 0) -> Expr:
        """Return the scaled value of a block of channels of a row."""
        ...


class Rows(Protocol):
    """Activations that are made tile by tile, and the epilogue that depends on what was made."""

    def prepare(self, row: Expr, count: int) -> None:
        """Write ``count`` rows from number ``row`` on, counted over all groups."""
        ...

    def epilogue(self, slots: list[int]) -> Scales:
        """Return the epilogue for a panel's channel slots."""
        ...


@dataclass(frozen=True)
class Product:
    """A convolution as a matrix product.

    weights  [G, O, S, L] int64, zero point taken off: group, channel in the group, tap run, element of the run
    levels   element offset of the runs as (count, stride) per level, outermost first, in the padded activations
    computed  the matrices [G, L, O] where they are not constants; weights then has their shape alone, and every group
              has activations and outputs of its own (a batch)
    offset    element of the activations where the first row begins
    placed    elements from one group's outputs, and one row's, to the next
    row_start [G * rows] int32, what else the accumulators of a row start at; at most row_bound in magnitude
    unsigned  the activations are what the dot instruction takes, with no offset to add
    rows      makes rows of activations right before they are multiplied
    """

    window: Window
    weights: Ints
    bias: Ints
    levels: tuple[tuple[int, int], ...]
    group_stride: int
    input_zero_point: int
    requant: Rescale | None
    bound: int
    computed: Strided | None = None
    offset: int = 0
    placed: tuple[int, int] | None = None
    row_start: Buffer | None = None
    row_bound: int = 0
    unsigned: bool = False
    rows: "Rows | None" = None

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.weights.shape[0])

    @cached_property
    def sums(self) -> Ints:
        """[G, O] sum of the weights of every channel."""
        total: Ints = self.weights.sum(axis=(2, 3))
        return total

    def start(self, isa: Isa) -> Ints:
        """[G, O] what the accumulators start at."""
        start: Ints = self.bias.reshape(self.sums.shape) - (self.input_zero_point + isa.offset) * self.sums
        return start

    def fits(self, isa: Isa) -> bool:
        """Whether this level has a kernel for it and no partial sum can wrap."""
        if self.computed is not None:
            largest = abs(self.input_zero_point + isa.offset) + 128 + isa.offset
            return isa.k_step > 0 and int(self.weights.shape[3]) * 128 * largest + self.row_bound < 1 << 31
        if isa.k_step == 0 or self.weights.min() < -128 or self.weights.max() > 127:
            return False
        reach = np.abs(self.start(isa)) + np.abs(self.weights).sum(axis=(2, 3)) * (128 + isa.offset)
        return int(reach.max()) < 1 << 31


@dataclass(frozen=True)
class Panel:
    """Column blocks of equal width: the packed weights and the start values of ``count`` blocks.

    vectors  vectors per block; tail  channels in the last vector (lanes when it is full); first  its first channel
    """

    first: int
    count: int
    vectors: int
    tail: int


def panels(channels: int, lanes: int, widest: int) -> list[Panel]:
    """Split channels into blocks of ``widest`` vectors, then ever smaller powers of two; a ragged last block apart."""
    total = -(-channels // lanes)
    widths: list[int] = []
    while sum(widths) < total:
        widths.append(min(widest, 1 << ((total - sum(widths)).bit_length() - 1)))
    tail = channels - (total - 1) * lanes
    result: list[Panel] = []
    first = 0
    for i, width in enumerate(widths):
        ragged = tail if i == len(widths) - 1 else lanes
        last = result[-1] if result else None
        if last is not None and last.vectors == width and last.tail == ragged == lanes:
            result[-1] = replace(last, count=last.count + 1)
        else:
            result.append(Panel(first, 1, width, ragged))
        first += width * lanes
    return result


def pack(weights: Ints, panel: Panel, isa: Isa, order: list[int]) -> Array:
    """Return [count, steps, vectors, lanes, k_step] of one group's weights [O, S, L] for a panel's blocks.

    order  the channel in every slot of the vectors that are joined
    """
    o, s, length = weights.shape
    steps = -(-length // isa.k_step)
    wanted = panel.first + panel.count * panel.vectors * isa.lanes
    full = np.zeros((max(o, wanted), s, steps * isa.k_step), np.int64)
    full[:o, :, :length] = weights
    dealt = full[panel.first : wanted].reshape(-1, len(order), s * steps, isa.k_step)[:, order]
    block = dealt.reshape(panel.count, panel.vectors, isa.lanes, s * steps, isa.k_step)
    return block.transpose(0, 3, 1, 2, 4).astype(isa.element)


class GemmKernel:
    """Writes the kernel of one product for one level."""

    def __init__(self, fn: Function, isa: Isa, product: Product, x: Buffer, out: Buffer) -> None:
        self.fn, self.isa, self.product, self.out = fn, isa, product, out
        self.window = product.window
        widen = isa.element if isa.element != x.dtype else None
        self.x = padded_input(fn, x, self.window, product.input_zero_point, widen)
        self.per_group = int(product.weights.shape[1])
        self.steps = -(-int(product.weights.shape[3]) // isa.k_step)
        self.depth = int(product.weights.shape[2]) * self.steps
        # Loaded, not an immediate: LLVM would move the exclusive or before the broadcast, one instruction more.
        flipped = isa.offset and not product.unsigned
        self.flip = fn.constant(np.full(64, 0x80, np.uint8).view(np.int32)) if flipped else None

    def write(self) -> None:
        """Write the whole loop nest."""
        w = self.window
        batch, rows, columns = (1, 1, w.n * w.oh * w.ow) if w.dense else (w.n, w.oh, w.ow)
        if self.product.computed is not None:
            columns = w.oh * w.ow
        widest = 4 if self.isa.registers >= 24 else 2
        if columns == 1:
            widest = 8 if self.isa.registers >= 24 else 4
        micros = [Micro(self, panel) for panel in panels(self.per_group, self.isa.lanes, widest)]
        if self.product.computed is not None:
            for micro in micros:
                micro.pack()
            self.fn.barrier()
        if self.product.rows is not None:
            self._write_by_rows(micros, columns)
            return
        for micro in micros:
            panel = micro.panel
            most = min(max(self.isa.registers // panel.vectors, 1), 12)
            tile, whole, rest = split_rows(columns, most)
            with ExitStack() as nest:
                extents = (self.product.groups, panel.count, batch, rows)
                shared = self._shared(extents, whole)
                g, b, n, y = (
                    nest.enter_context(self.fn.divided(extent) if i == shared else self.fn.loop(extent))
                    for i, extent in enumerate(extents)
                )
                with self.fn.divided(whole) if shared is None else self.fn.loop(whole) as t:
                    micro.tile(g, b, n, y, t * tile, tile)
                if rest:
                    with self.fn.last_part() if shared is None else nullcontext():
                        micro.tile(g, b, n, y, const(whole * tile, "int32"), rest)

    def _write_by_rows(self, micros: list["Micro"], columns: int) -> None:
        """Make a tile of rows ready, then multiply it, all columns in turn, while it is near."""
        fn, rows = self.fn, self.product.rows
        assert rows is not None
        most = min(max(self.isa.registers // micros[0].panel.vectors, 1), 12)
        tile, whole, rest = split_rows(columns, most)
        none = const(0, "int32")

        def one(g: Expr, x0: Expr, count: int) -> None:
            rows.prepare(fn.let(g * columns + x0), count)
            for micro in micros:
                with fn.loop(micro.panel.count) as b:
                    micro.tile(g, b, none, none, x0, count)

        with fn.loop(self.product.groups) as g:
            with fn.divided(whole) as t:
                one(g, fn.let(t * tile), tile)
            if rest:
                with fn.last_part():
                    one(g, const(whole * tile, "int32"), rest)

    @staticmethod
    def _shared(extents: tuple[int, ...], tiles: int) -> int | None:
        """Return which loop of (groups, blocks, images, rows) threads share; None: the tiles of a row."""
        if tiles >= 8 or tiles >= max(extents):
            return None
        return max(range(len(extents)), key=lambda i: (extents[i], i))


class Micro:
    """One panel's micro-kernel."""

    def __init__(self, kernel: GemmKernel, panel: Panel) -> None:
        self.k, self.panel = kernel, panel
        fn, isa, p = kernel.fn, kernel.isa, kernel.product
        width = panel.count * panel.vectors * isa.lanes
        last = min(width, kernel.per_group - panel.first)
        shape = (p.groups, kernel.per_group)
        numbers = (
            np.broadcast_to(np.arange(shape[1]), shape) if p.computed is not None else np.arange(shape[0] * shape[1])
        )
        slots = np.full((p.groups, width), -1)
        slots[:, :last] = numbers.reshape(shape)[:, panel.first : panel.first + last]
        self.parts = min(panel.vectors, 4)
        self.order = channel_order(self.parts, isa, p.requant)
        dealt = self._deal(slots).reshape(-1).tolist()
        self.packing: RunTimePacking | None = None
        if p.computed is not None:
            factor = p.input_zero_point + (0 if p.unsigned else isa.offset)
            matrices = (p.groups, int(p.weights.shape[3]), shape[1])
            place = (panel.first, panel.count, panel.vectors)
            self.packing = RunTimePacking(fn, isa, p.computed, matrices, self.order, place, factor)
            self.weights, self.start = self.packing.packed, self.packing.start
        else:
            start = np.zeros((p.groups, width), np.int64)
            start[:, :last] = p.start(isa)[:, panel.first : panel.first + last]
            self.start = fn.constant(self._deal(start).astype(np.int32))
            self.weights = fn.constant(np.stack([pack(w, panel, isa, self.order) for w in p.weights]))
        self.epilogue: Scales = (
            p.rows.epilogue(dealt) if p.rows is not None else Epilogue(fn, isa, p.requant, p.bound, dealt, isa.lanes)
        )

    def pack(self) -> None:
        """Write the packing of a computed matrix."""
        assert self.packing is not None
        self.packing.write()

    def _deal(self, values: Ints) -> Ints:
        """Bring [groups, channels of the panel] into slot order."""
        dealt: Ints = values.reshape(-1, len(self.order))[:, self.order]
        return dealt

    def tile(self, g: Expr, b: Expr, n: Expr, y: Expr, x0: Expr, rows: int) -> None:
        """Compute ``rows`` pixels from column x0 of output row y for block b of group g."""
        k, fn, nv, lanes = self.k, self.k.fn, self.panel.vectors, self.k.isa.lanes
        w = k.window
        block = fn.let((g * self.panel.count + b) * nv)
        acc = fn.registers(f"int32x{lanes}", rows * nv)
        batched = k.product.computed is not None
        row = fn.let(g * (w.oh * w.ow) + x0) if batched else x0
        self._begin(acc, block, row, rows)
        base = fn.let(w.origin(n, y, x0) + g * k.product.group_stride + k.product.offset)
        weight = fn.let((g * self.panel.count + b) * (k.depth * nv * lanes * k.isa.k_step))
        if k.isa.dot == "smmla":
            self._walk_pairs(acc, base, weight, rows)
        else:
            self._walk(base, weight, lambda x, at: self._step(acc, x, at, rows))
        pixel = fn.let(w.pixel(n, y, x0))
        total = k.per_group if batched else k.per_group * k.product.groups
        apart = w.oh * w.ow * k.per_group if batched else k.per_group
        if k.product.placed is not None:
            apart, total = k.product.placed
        target = fn.let(pixel * total + g * apart + b * (nv * lanes) + self.panel.first)
        for first in range(0, nv, self.parts):
            used = self.parts * lanes - (lanes - self.panel.tail if first + self.parts == nv else 0)
            for i in range(rows):
                vectors = range(first, first + self.parts)
                scaled = [fn.let(self.epilogue.scale(acc.load(i * nv + j), block + j, row + i)) for j in vectors]
                value = fn.let(join(fn, k.isa, k.product.requant, scaled, self.order))
                store_vector(k.out, target + (i * total + first * lanes), value, self.parts * lanes, used)

    def _begin(self, acc: Buffer, block: Expr, row: Expr, rows: int) -> None:
        """Load the start values, and what a row adds to them."""
        k, fn, nv, lanes = self.k, self.k.fn, self.panel.vectors, self.k.isa.lanes
        more: Expr = None
        for i in range(rows):
            if k.product.row_start is not None:
                more = fn.let(splat(k.product.row_start.load(row + i), lanes))
            for j in range(nv):
                start = self.start.load((block + j) * lanes, lanes)
                acc.store(i * nv + j, start if more is None else start + more)

    def _walk(self, base: Expr, weight: Expr, step: Callable[[Expr, Expr], None]) -> None:
        """Loop over the depth: ``step(activations, weights)`` gets where k_step elements lie."""
        k, fn = self.k, self.k.fn
        counts = [c for c, _ in k.product.levels]
        with fn.loop(counts[0]) as outer, fn.loop(counts[1]) as inner, fn.loop(k.steps) as s:
            offset = outer * k.product.levels[0][1] + inner * k.product.levels[1][1] + s * k.isa.k_step
            at = ((outer * counts[1] + inner) * k.steps + s) * (self.panel.vectors * k.isa.lanes * k.isa.k_step)
            step(fn.let(base + offset), fn.let(weight + at))

    def _walk_pairs(self, acc: Buffer, base: Expr, weight: Expr, rows: int) -> None:
        """Two rows by two columns at once; an odd last row is paired with itself."""
        fn, nv, pitch = self.k.fn, self.panel.vectors, self.k.window.pitch
        pairs = [(i, min(i + 1, rows - 1)) for i in range(0, rows, 2)]
        sums = fn.registers("int32x4", len(pairs) * nv * 2)
        for i in range(len(pairs) * nv * 2):
            sums.store(i, const(0, "int32", 4))

        def step(x: Expr, at: Expr) -> None:
            words = [tuple(fn.let(bits(self.k.x.load(x + i * pitch, 8), "int64")) for i in pair) for pair in pairs]
            both = [fn.let(bits(fn.let(shuffle(pair, (0, 1))), "int8", 16)) for pair in words]
            for j in range(nv):
                w = fn.let(self.weights.load(at + j * 32, 32))
                for p, x2 in enumerate(both):
                    first = (p * nv + j) * 2
                    for h, value in enumerate(multiply_pair(fn, [sums.load(first), sums.load(first + 1)], x2, w)):
                        sums.store(first + h, value)

        self._walk(base, weight, step)
        for p, pair in enumerate(pairs):
            for j in range(nv):
                first = (p * nv + j) * 2
                found = unpaired(fn, [fn.let(sums.load(first)), fn.let(sums.load(first + 1))])
                for i, value in dict(zip(reversed(pair), reversed(found), strict=True)).items():
                    acc.store(i * nv + j, acc.load(i * nv + j) + value)

    def _step(self, acc: Buffer, x: Expr, weight: Index, rows: int) -> None:
        """One step of the depth: k_step elements of every row against every vector."""
        k, fn, nv = self.k, self.k.fn, self.panel.vectors
        width = k.isa.lanes * k.isa.k_step
        vectors = [fn.let(self.weights.load(weight + j * width, width)) for j in range(nv)]
        for i in range(rows):
            a = fn.let(self._broadcast(x + i * k.window.pitch))
            for j in range(nv):
                acc.store(i * nv + j, dot(fn, k.isa, acc.load(i * nv + j), a, vectors[j]))

    def _broadcast(self, index: Expr) -> Expr:
        """Return k_step activations repeated in every lane, as the dot instruction takes them."""
        k, isa = self.k, self.k.isa
        if isa.lanes == 1:
            return k.x.load(index, isa.k_step)
        group = isa.k_step * np.dtype(isa.element).itemsize * 8
        word = bits(k.x.load(index, isa.k_step), f"int{group}")
        a = splat(word, isa.lanes)
        if k.flip is not None:
            a = a ^ k.flip.load(0, isa.lanes)
        return bits(a, isa.element, isa.lanes * isa.k_step)
