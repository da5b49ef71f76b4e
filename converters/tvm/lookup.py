"""Tables of 256 entries in registers: ``table[x + 128]`` for vectors of int8, one form per instruction set.

vbmi    x86: two byte permutes of 128 entries each, chosen by the sign of x
pshufb  x86: sixteen permutes of 16 entries. A permute gives 0 where the index is negative, and the entries are stored
        as differences (exclusive or) to the block before, so that all blocks up to the right one add up to it
tbl     aarch64: four look-ups of 64 entries, of which all but the first keep what they do not find
none    one entry after the other
"""

import numpy as np

from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import Buffer, Expr, Function, Index, bits, cast, const, i32, intrinsic, select, shuffle
from bitship.graph.base import Array


class Lookup:
    """Maps vectors of int8 through 256 constant entries of one or two bytes."""

    def __init__(self, fn: Function, isa: Isa, entries: Array) -> None:
        self.fn, self.isa, self.dtype = fn, isa, entries.dtype.name
        self.native = isa.lanes * 4
        self.memory = fn.constant(entries)
        as_bytes = np.ascontiguousarray(entries).view(np.uint8).reshape(256, -1)
        self.planes = [fn.constant(_arranged(plane, isa).view(np.int8)) for plane in as_bytes.T] if isa.table else []

    def apply(self, x: Expr, lanes: int) -> Expr:
        """Return the entries for ``lanes`` elements."""
        if lanes == 1:
            return self.memory.load(cast(x, "int32") + 128)
        fn = self.fn
        x = fn.let(x)
        if not self.planes:
            at = [fn.let(cast(shuffle([x], [i]), "int32") + 128) for i in range(lanes)]
            return shuffle([fn.let(self.memory.load(i)) for i in at], range(lanes))
        parts = []
        for first in range(0, lanes, self.native):
            picks = [min(first + i, lanes - 1) for i in range(self.native)]
            part = x if lanes == self.native else fn.let(shuffle([x] * -(-self.native // lanes), picks))
            found = [fn.let(getattr(self, f"_{self.isa.table}")(part, plane)) for plane in self.planes]
            parts.append(found[0] if len(found) == 1 else self._joined(found))
        if lanes == self.native:
            return parts[0]
        return shuffle(parts, range(lanes))

    def _joined(self, planes: list[Expr]) -> Expr:
        n = self.native
        picks = [p for i in range(n) for p in (i, n + i)]
        return self.fn.let(bits(shuffle(planes, picks), self.dtype, n))

    def _vbmi(self, x: Expr, plane: Buffer) -> Expr:
        n = self.native
        quarters = [self.fn.let(plane.load(n * i, n)) for i in range(4)]
        name, kind = "llvm.x86.avx512.vpermi2var.qi.512", f"int8x{n}"
        low = self.fn.let(intrinsic(kind, name, quarters[0], x, quarters[1]))
        high = self.fn.let(intrinsic(kind, name, quarters[2], x, quarters[3]))
        return select(x < const(0, "int8", n), low, high)

    def _pshufb(self, x: Expr, plane: Buffer) -> Expr:
        fn, n = self.fn, self.native
        kind = f"int8x{n}"
        permute = "llvm.x86.avx512.pshuf.b.512" if n == 64 else "llvm.x86.avx2.pshuf.b"
        total: Expr = None
        for half in range(2):
            index = fn.let(x if half else x ^ const(-128, "int8", n))
            for block in range(8):
                at = fn.let(plane.load((half * 8 + block) * n, n))
                found = intrinsic(kind, permute, at, index)
                total = fn.let(found if total is None else total ^ found)
                if block < 7:
                    index = fn.let(intrinsic(kind, f"llvm.ssub.sat.v{n}i8", index, const(16, "int8", n)))
        return total

    def _tbl(self, x: Expr, plane: Buffer) -> Expr:
        fn = self.fn
        index = fn.let(x ^ const(-128, "int8", 16))
        total: Expr = None
        for quarter in range(4):
            tables = [fn.let(plane.load(quarter * 64 + 16 * i, 16)) for i in range(4)]
            if total is None:
                total = fn.let(intrinsic("int8x16", "llvm.aarch64.neon.tbl4.v16i8", *tables, index))
            else:
                total = fn.let(intrinsic("int8x16", "llvm.aarch64.neon.tbx4.v16i8", total, *tables, index))
            if quarter < 3:
                index = fn.let(index - const(64, "int8", 16))
        return total


def _arranged(plane: Array, isa: Isa) -> Array:
    """Return 256 bytes as the level's look-up reads them."""
    if isa.table != "pshufb":
        return np.ascontiguousarray(plane)
    blocks = plane.reshape(2, 8, 16).copy()
    blocks[:, 1:] ^= plane.reshape(2, 8, 16)[:, :-1]
    copies = isa.lanes * 4 // 16  # one per 128-bit lane
    return np.ascontiguousarray(np.tile(blocks.reshape(16, 1, 16), (1, copies, 1)))


class MappedBuffer(Buffer):
    """An output whose int8 elements pass through a table on their way to memory."""

    def __init__(self, under: Buffer, lookup: Lookup) -> None:
        super().__init__(under.fn, under.raw, "int8")
        self.under, self.lookup = under, lookup

    def store(self, index: Index, value: Expr, lanes: int = 1) -> None:
        """Look the value up and write it."""
        self.under.store(index, self.lookup.apply(value, lanes), lanes)

    def final(self, value: Expr, lanes: int) -> tuple[Buffer, Expr]:
        """Return the buffer in memory and the value it gets."""
        return self.under, self.lookup.apply(value, lanes)


def lower_table(fn: Function, isa: Isa, x: Buffer, table: Buffer | Array, out: Buffer, size: int) -> None:
    """Look every element up; 256 entries for int8, 513 to interpolate between for int16."""
    if x.dtype == "int16":
        memory = table if isinstance(table, Buffer) else fn.constant(table)
        _interpolated(fn, x, memory, out, size)
    elif isinstance(table, Buffer):
        with fn.divided(size) as i:
            out.store(i, table.load(cast(x.load(i), "int32") + 128))
    else:
        lookup = Lookup(fn, isa, table)
        lanes = isa.lanes * 4 if isa.table else 1
        fn.chunks(size, lanes, lambda at, n: out.store(at, lookup.apply(x.load(at, n), n), n), divided=True)


def _interpolated(fn: Function, x: Buffer, table: Buffer, out: Buffer, size: int) -> None:
    """``(t[i] * 128 + (t[i + 1] - t[i]) * f + 64) >> 7``; at most 2^16 * 127 + 2^22, so int32 holds it."""
    with fn.divided(size) as at:
        v = fn.let(cast(x.load(at), "int32"))
        i = fn.let((v >> i32(7)) + 256)
        low, high = fn.let(cast(table.load(i), "int32")), fn.let(cast(table.load(i + 1), "int32"))
        y = (low * 128 + (high - low) * (v & i32(127)) + 64) >> i32(7)
        out.store(at, cast(y, "int16"))
