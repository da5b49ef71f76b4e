"""softmax_matmul and table_softmax: codes from a table, normalised by the reciprocal of their sum.

softmax_matmul makes a tile of rows of codes right before the matrix product reads them, so they stay in the first
cache; the reciprocal of a row's sum is in the multiplier that ends the product. vpdpbusd takes the codes as they are,
unsigned. Where the dot instruction takes signed bytes, rows hold ``code - 128`` and the start value gives 128 times
the column's sum back.
"""

from dataclasses import replace

import msgspec
import numpy as np

from bitship.converters.tvm.computed import Strided, horizontal
from bitship.converters.tvm.copy import Shape
from bitship.converters.tvm.dot import add_up
from bitship.converters.tvm.gemm import GemmKernel, Product
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.lookup import Lookup
from bitship.converters.tvm.plain import plain_softmax_matmul
from bitship.converters.tvm.tir import (
    Buffer,
    Expr,
    Function,
    Index,
    bits,
    cast,
    clamp,
    const,
    i32,
    maximum,
    select,
    splat,
)
from bitship.converters.tvm.wide import Wide, row_reciprocal
from bitship.converters.tvm.window import Window
from bitship.graph.base import Array, Ints, Operand
from bitship.graph.ops import SoftmaxMatMul, TableSoftmax

_MASKED = -128


def _c(value: int) -> Expr:
    return const(value, "int64")


class CodeRows:
    """Rows of codes for one softmax_matmul, and what their sums make of the epilogue.

    codes     scratch [B * M, pitch], of the dot instruction's element type; what lies behind a row's end is of no
              matter, for it meets zeros
    inverse   scratch [B * M] int64: R, or with one multiplier M; places  [B * M] int64: b, or with one multiplier d
    start     scratch [B * M] int32: ``-v_zero_point * S``
    """

    def __init__(
        self, fn: Function, isa: Isa, op: SoftmaxMatMul, x: Buffer, table: Array, shape: tuple[int, int, int]
    ) -> None:
        self.fn, self.isa, self.op, self.x = fn, isa, op, x
        groups, rows, self.length = shape
        self.width = isa.lanes * isa.k_step
        self.pitch = -(-self.length // self.width) * self.width
        self.offset = 0 if isa.offset or isa.element != "int8" else 128
        order = np.arange(256) ^ 128  # the look-up adds 128 to what it reads as signed
        self.lookup = Lookup(fn, isa, table[order])
        self.codes = fn.scratch(isa.element, groups * rows * self.pitch + 64)
        self.inverse, self.places = fn.scratch("int64", groups * rows), fn.scratch("int64", groups * rows)
        self.start = fn.scratch("int32", groups * rows) if op.v_zero_point else None
        self.multiplier = fn.number(op.requant.multiplier[0], "int64")
        self.down = fn.number(31 - op.requant.shift[0], "int64")
        self.v_zero_point = fn.number(op.v_zero_point, "int32")
        self.top = fn.registers(f"int8x{self.width}")
        self.total = fn.registers(f"int32x{isa.lanes}")
        self.shared = not op.requant.per_channel
        rest = self.length % self.width
        kept = np.where(np.arange(self.width) < (rest or self.width), -1, 0).astype(np.int8)
        self.kept, self.absent = fn.constant(kept), fn.constant(np.where(kept, 0, -128).astype(np.int8))

    def prepare(self, row: Expr, count: int) -> None:
        """Write the codes and the factors of rows."""
        fn, width = self.fn, self.width
        whole = self.length // width
        with fn.loop(count) as i:
            number = fn.let(row + i)
            source, target = fn.let(number * self.length), fn.let(number * self.pitch)
            self.top.store(0, const(-128, "int8", width))
            with fn.loop(whole) as k:
                self.top.store(0, maximum(self.top.load(0), self.x.load(source + k * width, width)))
            if whole < self.pitch // width:
                last = self.x.load(source + whole * width, width) & self.kept.load(0, width)
                self.top.store(0, maximum(self.top.load(0), last | self.absent.load(0, width)))
            top = fn.let(splat(horizontal(fn, fn.let(self.top.load(0)), width, maximum), width))
            self.total.store(0, const(0, "int32", self.isa.lanes))
            with fn.loop(whole) as k:
                self._codes(source + k * width, target + k * width, top, False)
            if whole < self.pitch // width:
                self._codes(source + whole * width, target + whole * width, top, True)
            found = horizontal(fn, fn.let(self.total.load(0)), self.isa.lanes, lambda a, b: a + b)
            self._factors(number, fn.let(found + i32(self.offset * self.pitch)))

    def _codes(self, source: Expr, target: Expr, top: Expr, last: bool) -> None:
        """Look one vector up and add it to the sum."""
        fn, width, element = self.fn, self.width, self.isa.element
        x = fn.let(self.x.load(source, width))
        code = fn.let(bits(self.lookup.apply(top - x, width), "int8", width))
        if self.op.masked:
            code = fn.let(select(x.__eq__(const(_MASKED, "int8", width)), const(0, "int8", width), code))
        if last:
            code = fn.let(code & self.kept.load(0, width))
        if element != "int8":
            code = fn.let(cast(bits(code, "uint8", width), element, width))
        elif self.offset:
            code = fn.let(code ^ const(-128, "int8", width))
        self.codes.store(target, code, width)
        self.total.store(0, add_up(fn, self.isa, self.total.load(0), fn.let(code)))

    def _factors(self, number: Expr, total: Expr) -> None:
        fn = self.fn
        inverse, place = row_reciprocal(fn, fn.let(cast(maximum(total, i32(1)), "int64")))
        if self.shared:
            inverse = (inverse * self.multiplier + _c(1 << 29)) >> _c(30)
            place = place + self.down
        self.inverse.store(number, inverse)
        self.places.store(number, place)
        if self.start is not None:
            self.start.store(number, i32(0) - total * self.v_zero_point)

    def epilogue(self, slots: list[int]) -> "RowScales":
        """Return the epilogue of a panel."""
        return RowScales(self.fn, self.isa, self, slots)


class RowScales:
    """``((acc * M + 2^(d - 1)) >> d) + zero point`` with M and d of the row."""

    def __init__(self, fn: Function, isa: Isa, rows: CodeRows, slots: list[int]) -> None:
        self.fn, self.rows, self.rq = fn, rows, rows.op.requant
        self.wide = Wide(fn, isa, isa.lanes)
        self.zero_point = fn.number(self.rq.output_zero_point, "int32")
        self.far = max(self.rq.shift) > 21  # |acc| <= 255 * S, so |y| <= 255 * 2^shift + 1: within 2^30 otherwise
        if not rows.shared:
            order: Ints = np.maximum(np.array(slots, np.int64), 0)
            self.multipliers = self.wide.constants(np.array(self.rq.multiplier, np.int64)[order])
            self.shifts = self.wide.constants(31 - np.array(self.rq.shift, np.int64)[order])

    def scale(self, value: Expr, block: Index, row: Index = 0) -> Expr:
        """Return the scaled value of a block of channels of a row, within 16 bits and a little more."""
        fn, wide, rows = self.fn, self.wide, self.rows
        n = wide.width
        inverse = fn.let(wide.narrowed(wide.same(rows.inverse.load(row))))
        place = fn.let(wide.same(rows.places.load(row)))
        found = []
        for i, part in enumerate(wide.split(value)):
            by, down = inverse, place
            if not rows.shared:
                product = inverse * wide.narrowed(self.multipliers[i].at(block))
                by = wide.narrowed((product + const(1 << 29, "int64", n)) >> const(30, "int64", n))
                down = fn.let(place + self.shifts[i].at(block))
            half = const(1, "int64", n) << (down - const(1, "int64", n))
            y = fn.let((part * by + half) >> down)
            found.append(fn.let(clamp(y, -(1 << 30), 1 << 30, "int64", n)) if self.far else y)
        return wide.merge(found) + splat(self.zero_point, wide.lanes)


def lower_softmax_matmul(
    fn: Function,
    isa: Isa,
    op: SoftmaxMatMul,
    x: Buffer,
    v: Strided,
    out: Buffer,
    shape: tuple[int, int, int],
    table: Operand,
    columns: int,
    placed: Shape,
) -> None:
    """Write the kernel; shape is x's, columns v's last axis, placed the result's strides."""
    assert table.value is not None, "proven constant"
    groups, rows, length = shape
    if isa.k_step == 0 or not isa.single or 1 not in v.strides[1:]:
        return plain_softmax_matmul(fn, op, x, v, out, shape, table.value, columns, placed)
    made = CodeRows(fn, isa, op, x, table.value, shape)
    weights: Ints = np.broadcast_to(np.int64(0), (groups, columns, 1, length))
    product = Product(
        Window(groups, 1, rows, made.pitch, 1, rows),
        weights,
        np.zeros(0, np.int64),
        ((1, 0), (1, 0)),
        rows * made.pitch,
        -made.offset,
        msgspec.structs.replace(op.requant, multiplier=(1 << 30,), shift=(0,)),  # for its range; rows have factors
        0,
        computed=v,
        placed=(placed[0], placed[1]),
        unsigned=True,
        rows=made,
        row_start=made.start,
        row_bound=255 * length * abs(op.v_zero_point),
    )
    if not replace(product, input_zero_point=127 if made.offset else 0).fits(isa):
        return plain_softmax_matmul(fn, op, x, v, out, shape, table.value, columns, placed)
    return GemmKernel(fn, isa, product, made.codes, out).write()


def lower_table_softmax(fn: Function, op: TableSoftmax, x: Buffer, table: Operand, out: Buffer, shape: Shape) -> None:
    """Largest element, sum of codes, then every quotient, one element after the other."""
    assert table.value is not None, "proven constant"
    length = shape[-1]
    memory = fn.constant(table.value.astype(np.int32))
    top, total = fn.registers("int32"), fn.registers("int64")
    with fn.divided(int(np.prod(shape[:-1]))) as row:
        start = fn.let(row * length)

        def code(i: Expr) -> Expr:
            value = fn.let(cast(x.load(start + i), "int32"))
            found = fn.let(cast(memory.load(top.load(0) - value), "int64"))
            return fn.let(select(value.__eq__(i32(_MASKED)), _c(0), found)) if op.masked else found

        top.store(0, i32(-128))
        with fn.loop(length) as i:
            top.store(0, maximum(top.load(0), cast(x.load(start + i), "int32")))
        total.store(0, _c(0))
        with fn.loop(length) as i:
            total.store(0, total.load(0) + code(i))
        inverse, b = row_reciprocal(fn, fn.let(maximum(total.load(0), _c(1))))
        half, down = fn.let(_c(1) << (b + _c(14))), fn.let(b + _c(15))
        with fn.loop(length) as i:
            y = fn.let((code(i) * inverse + half) >> down)
            out.store(start + i, cast(clamp(y, 0, 32767, "int64"), "int16"))
