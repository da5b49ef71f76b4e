"""Packing of a computed right-hand matrix at run time, into the layout that ``gemm`` reads."""

from dataclasses import dataclass

import numpy as np

from bitship.converters.tvm.copy import nest, strides_of
from bitship.converters.tvm.dot import dot
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import Buffer, Expr, Function, bits, cast, const, i32, maximum, shuffle, splat


@dataclass(frozen=True)
class Strided:
    """A tensor where it lies: element (i, j, k) at ``offset + strides . (i, j, k)``."""

    buffer: Buffer
    offset: int
    strides: tuple[int, ...]


def widened(fn: Function, x: Strided, shape: tuple[int, ...], dtype: str) -> Strided:
    """Return a consecutive copy in another dtype."""
    copy = fn.scratch(dtype, int(np.prod(shape)) + 64)

    def body(at: list[Expr], _: list[int], lanes: int) -> None:
        copy.store(at[1], cast(x.buffer.load(at[0] + x.offset, lanes), dtype, lanes), lanes)

    nest(fn, shape, (x.strides, strides_of(shape)), 16, body)
    fn.barrier()
    return Strided(copy, 0, strides_of(shape))


class RunTimePacking:
    """Writes the packing of b [G, K, N] int8.

    shape    G, K, N; order  the channel in every slot of the vectors that are joined
    first    first channel of the panel; blocks, vectors  blocks of the panel and vectors per block
    packed   scratch [G, blocks, steps, vectors, lanes, k_step], zeros behind the last row; what empty slots hold is
             of no matter
    start    scratch [G, slots] int32, ``-factor * sum of the column``
    """

    def __init__(
        self,
        fn: Function,
        isa: Isa,
        b: Strided,
        shape: tuple[int, int, int],
        order: list[int],
        panel: tuple[int, int, int],
        factor: int,
    ) -> None:
        self.fn, self.isa, self.b, self.shape, self.order = fn, isa, b, shape, order
        self.first, self.blocks, self.vectors = panel
        self.steps = -(-shape[1] // isa.k_step)
        self.width = self.vectors * isa.lanes
        slots = shape[0] * self.blocks * self.width
        self.packed = fn.scratch(isa.element, slots * self.steps * isa.k_step)
        self.start = fn.scratch("int32", slots)
        self.taken = fn.number(-factor, "int32")

    def write(self) -> None:
        """Write the kernel: one block after the other, its columns' sums, its start values."""
        from tvm import tirx

        fn, lanes, width = self.fn, self.isa.lanes, self.isa.lanes * self.isa.k_step
        total = fn.registers(f"int32x{lanes}", self.vectors)
        ones = const(1, self.isa.element, width)
        with fn.divided(self.shape[0] * self.blocks) as i:
            g = fn.let(tirx.truncdiv(i, i32(self.blocks)))
            column = fn.let((i - g * self.blocks) * self.width + self.first)
            source = fn.let(g * self.b.strides[0] + column * self.b.strides[2] + self.b.offset)
            target = fn.let(i * (self.steps * self.vectors * width))
            if self.b.strides[2] == 1:
                self._rows(source, target)
            else:
                self._columns(g, column, target)
            for j in range(self.vectors):
                total.store(j, const(0, "int32", lanes))
            with fn.loop(self.steps) as step:
                at = fn.let(target + step * (self.vectors * width))
                for j in range(self.vectors):
                    w = fn.let(self.packed.load(at + j * width, width))
                    total.store(j, dot(fn, self.isa, total.load(j), ones, w))
            for j in range(self.vectors):
                value = total.load(j) * splat(self.taken, lanes)
                self.start.store(i * self.width + j * lanes, value, lanes)

    def _rows(self, source: Expr, target: Expr) -> None:
        """Consecutive columns: k_step rows are interleaved, channels dealt in the same go."""
        fn, k_step = self.fn, self.isa.k_step
        whole, rest = divmod(self.shape[1], k_step)
        channels = len(self.order)
        size = self.isa.lanes * k_step

        def step(index: Expr, rows: int) -> None:
            for first in range(0, self.width, channels):
                found = []
                for k in range(k_step):
                    at = source + (index * k_step + k) * self.b.strides[1] + first
                    value = self.b.buffer.load(at, channels) if k < rows else const(0, "int8", channels)
                    found.append(fn.let(value if self.isa.element == "int8" else cast(value, "int16", channels)))
                for j, vector in enumerate(self._dealt(found)):
                    at = target + index * (self.vectors * size) + (first // self.isa.lanes + j) * size
                    self.packed.store(at, vector, size)

        with fn.loop(whole) as index:
            step(index, k_step)
        if rest:
            step(i32(whole), rest)

    def _dealt(self, rows: list[Expr]) -> list[Expr]:
        """Return the vectors [lanes, k_step] of rows whose elements are consecutive channels."""
        fn, lanes, n = self.fn, self.isa.lanes, len(self.order)
        dealt = [self.order[i : i + lanes] for i in range(0, n, lanes)]
        if len(rows) == 2:
            return [fn.let(shuffle(rows, [p for c in slots for p in (c, n + c)])) for slots in dealt]
        zipped, size = [p for c in range(n) for p in (c, n + c)], 8
        while len(rows) > 2:
            size *= 2
            pairs = [fn.let(shuffle(rows[i : i + 2], zipped)) for i in range(0, len(rows), 2)]
            rows = [fn.let(bits(p, f"int{size}", n)) for p in pairs]
        words = [fn.let(shuffle(rows, [p for c in slots for p in (c, n + c)])) for slots in dealt]
        return [fn.let(bits(w, "int8", self.isa.k_step * lanes)) for w in words]

    def _columns(self, g: Expr, column: Expr, target: Expr) -> None:
        """Consecutive rows (a transposed matrix): k_step elements of a column are moved at once."""
        fn, k_step = self.fn, self.isa.k_step
        whole, rest = divmod(self.shape[1], k_step)
        places = fn.constant(np.tile(self.order, self.width // len(self.order)).astype(np.int32))
        groups = fn.constant((np.arange(self.width) // len(self.order) * len(self.order)).astype(np.int32))
        last = i32(self.shape[2] - 1)
        with fn.loop(self.width) as slot:
            wanted = column + places.load(slot) + groups.load(slot)
            channel = fn.let(wanted - maximum(wanted - last, i32(0)))
            at = fn.let(g * self.b.strides[0] + channel * self.b.strides[2] + self.b.offset)
            to = fn.let(target + slot * k_step)
            with fn.loop(whole) as step:
                value = fn.let(self.b.buffer.load(at + step * k_step, k_step))
                value = value if self.isa.element == "int8" else cast(value, "int16", k_step)
                self.packed.store(to + step * (self.width * k_step), value, k_step)
            for k in range(k_step if rest else 0):
                value = self.b.buffer.load(at + (whole * k_step + k)) if k < rest else const(0, "int8")
                value = value if self.isa.element == "int8" else cast(value, "int16")
                self.packed.store(to + (whole * self.width * k_step + k), value)


def row_sums(fn: Function, isa: Isa, a: Strided, shape: tuple[int, int, int], factor: int, constant: int) -> Buffer:
    """Return scratch [G * M] int32: ``constant + factor * sum of the row`` of a [G, M, K] int8."""
    groups, rows, depth = shape
    result = fn.scratch("int32", groups * rows)
    lanes = isa.lanes
    vector, scalar = fn.registers(f"int32x{lanes}"), fn.registers("int32")
    whole = depth // lanes
    with fn.loop(groups) as g, fn.divided(rows) as m:
        at = fn.let(g * a.strides[0] + m * a.strides[1] + a.offset)
        scalar.store(0, i32(0))
        vector.store(0, const(0, "int32", lanes))
        with fn.loop(whole) as i:
            vector.store(0, vector.load(0) + cast(a.buffer.load(at + i * lanes, lanes), "int32", lanes))
        with fn.loop(depth - whole * lanes) as i:
            scalar.store(0, scalar.load(0) + cast(a.buffer.load(at + (i + whole * lanes)), "int32"))
        total = horizontal(fn, fn.let(vector.load(0)), lanes, lambda x, y: x + y) + scalar.load(0)
        result.store(g * rows + m, total * fn.number(factor, "int32") + fn.number(constant, "int32"))
    fn.barrier()
    return result


def horizontal(fn: Function, value: Expr, lanes: int, combine: object) -> Expr:
    """Combine all lanes of a vector into one, halving it."""
    assert callable(combine)
    while lanes > 1:
        lanes //= 2
        low = fn.let(shuffle([value], range(lanes)))
        value = fn.let(combine(low, fn.let(shuffle([value], range(lanes, 2 * lanes)))))
    return value
