"""64-bit arithmetic on vectors of int32: split into parts, worked on, merged again."""

from dataclasses import dataclass

import numpy as np

from bitship.converters.tvm.computed import horizontal
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import Buffer, Expr, Function, bits, cast, const, intrinsic, select, shuffle, splat
from bitship.graph.base import Ints


@dataclass(frozen=True)
class Wide:
    """The parts of a vector of ``lanes`` int32 as int64: the even and the odd lanes on x86, all lanes elsewhere.

    Even and odd is how x86 multiplies 32 by 32 bits to 64 (vpmuldq); aarch64 widens halves by itself.
    """

    fn: Function
    isa: Isa
    lanes: int

    @property
    def halves(self) -> bool:
        """Whether there are two parts."""
        return self.isa.x86 and self.lanes > 1

    @property
    def width(self) -> int:
        """Lanes of a part."""
        return self.lanes // 2 if self.halves else self.lanes

    def split(self, value: Expr) -> list[Expr]:
        """Return the parts of an int32 vector."""
        if not self.halves:
            return [self.fn.let(cast(value, "int64", self.lanes))]
        v = self.fn.let(bits(self.fn.let(value), "int64", self.width))
        return [self.narrowed(v), self.fn.let(v >> const(32, "int64", self.width))]

    def narrowed(self, part: Expr) -> Expr:
        """Return a part whose values fit in 32 bits, so that the code generator sees that they do."""
        if not self.halves:
            return self.fn.let(cast(cast(part, "int32", self.width), "int64", self.width))
        by = const(32, "int64", self.width)
        return self.fn.let((part << by) >> by)

    def merge(self, parts: list[Expr]) -> Expr:
        """Return the low 32 bits of all parts as one int32 vector."""
        if not self.halves:
            return self.fn.let(cast(parts[0], "int32", self.lanes))
        words = [self.fn.let(bits(self.fn.let(p), "int32", self.lanes)) for p in parts]
        return self.fn.let(shuffle(words, [i if i % 2 == 0 else self.lanes + i - 1 for i in range(self.lanes)]))

    def constants(self, values: Ints) -> list["Parts"]:
        """Return one value per lane of consecutive vectors as memory, part by part."""
        if not self.halves:
            return [Parts(self.fn.constant(values.astype(np.int64)), self.width)]
        return [Parts(self.fn.constant(values[i::2].astype(np.int64)), self.width) for i in (0, 1)]

    def same(self, value: Expr) -> Expr:
        """Return a scalar int64 in every lane of a part."""
        return splat(value, self.width)


@dataclass(frozen=True)
class Parts:
    """Constants of one part, vector after vector."""

    memory: Buffer
    width: int

    def at(self, block: Expr) -> Expr:
        """Return those of vector number ``block``."""
        return self.memory.load(block * self.width, self.width)


class Total:
    """A sum of int64 parts over a row."""

    def __init__(self, fn: Function, wide: Wide) -> None:
        self.fn, self.wide = fn, wide
        self.vector = fn.registers(f"int64x{wide.width}" if wide.width > 1 else "int64")
        self.scalar = fn.registers("int64")

    def clear(self) -> None:
        """Begin a row."""
        self.vector.store(0, const(0, "int64", self.wide.width))
        self.scalar.store(0, const(0, "int64"))

    def add(self, parts: list[Expr], lanes: int) -> None:
        """Add the parts of a vector, or a single one."""
        place = self.scalar if lanes == 1 else self.vector
        for part in parts:
            place.store(0, place.load(0) + part)

    def value(self) -> Expr:
        """Return the sum."""
        lanes = self.wide.width
        total = horizontal(self.fn, self.fn.let(self.vector.load(0)), lanes, lambda a, b: a + b)
        return self.fn.let(total + self.scalar.load(0))


def bit_length(fn: Function, value: Expr) -> Expr:
    """Return the number of bits of an int64 in [0, 2^63)."""
    from tvm import tirx

    if fn.portable:
        return _bit_length_by_halves(fn, value)
    zeros = intrinsic("int64", "llvm.ctlz.i64", value, tirx.IntImm("bool", 0))
    return fn.let(const(64, "int64") - zeros)


def _bit_length_by_halves(fn: Function, value: Expr) -> Expr:
    """Count by comparisons, in memory, for TVM puts names' values into each other: is anything in the upper half?"""
    one, zero = const(1, "int64"), const(0, "int64")
    length, left = fn.registers("int64"), fn.registers("int64")
    length.store(0, zero)
    left.store(0, value)
    with fn.loop(6) as i:
        half = fn.let(const(32, "int64") >> cast(i, "int64"))
        more = fn.let(select(left.load(0) >= (one << half), half, zero))
        length.store(0, length.load(0) + more)
        left.store(0, left.load(0) >> more)
    return fn.let(length.load(0) + left.load(0))  # 0 or 1 is left


def _floor_sqrt_by_bits(fn: Function, value: Expr) -> Expr:
    """Find the root's bits from the highest one down."""
    one, zero = const(1, "int64"), const(0, "int64")
    root = fn.registers("int64")
    root.store(0, zero)
    with fn.loop(31) as i:
        more = fn.let(root.load(0) + (one << (const(30, "int64") - cast(i, "int64"))))
        root.store(0, select(more * more <= value, more, root.load(0)))
    return fn.let(root.load(0))


def quotient(fn: Function, a: Expr, b: Expr) -> Expr:
    """Return ``floor(a / b)`` for a >= 0 and b >= 1."""
    from tvm import tirx

    return fn.let(tirx.truncdiv(a, b))


def floor_sqrt(fn: Function, value: Expr) -> Expr:
    """Return the integer square root of an int64 in [0, 2^62).

    The processor's double-precision root is off by less than one, and mended, as the specification does it.
    """
    from tvm import tirx

    if fn.portable:
        return _floor_sqrt_by_bits(fn, value)
    one, zero = const(1, "int64"), const(0, "int64")
    real = intrinsic("float64", "llvm.sqrt.f64", tirx.Cast("float64", value))
    k = fn.let(tirx.Cast("int64", real))
    k = fn.let(k - select(k * k > value, one, zero))
    return fn.let(k + select((k + one) * (k + one) <= value, one, zero))


def row_reciprocal(fn: Function, total: Expr) -> tuple[Expr, Expr]:
    """Return (floor(2^(b + 30) / S), b) with b = bit_length(S) - 1, for an int64 S in [1, 2^31)."""
    b = fn.let(bit_length(fn, total) - const(1, "int64"))
    return quotient(fn, const(1, "int64") << (b + const(30, "int64")), total), b
