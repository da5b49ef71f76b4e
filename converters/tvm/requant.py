"""The rescale epilogue in vectors: exact for both roundings, in as few instructions as the proven ranges allow.

Three forms give the same bits; ``Epilogue`` picks the cheapest that is proven:

single    x86, one shift: 32 x 32 -> 64 products of the even and of the odd lanes, joined again after the shift.
          AVX-512 shifts arithmetically, with the zero point in the rounding constant. AVX2 has only logical 64-bit
          shifts: 2^60 is added first, which keeps the sum positive, and ``2^60 >> down`` is taken off again together
          with the zero point. DOUBLE takes this form when the zero point
          is the lowest output (a fused ReLU): below it every result is clamped away, and at or above it nested
          floors join: ``floor((floor((p + 2^30) / 2^31) + 2^(r-1)) / 2^r) = floor((p + 2^30 + 2^(r+30)) / 2^(31+r))``.
double    x86: the even and odd products' rounded high halves, then the second rounding in 32 bits.
high      aarch64, DOUBLE: ``sqrdmulh`` is gemmlowp's rounding doubling high product.
wide      every lane in 64 bits, the formula as the specification has it. Always right.

Rounding half away from zero at 2^-r equals ``(v + 2^(r-1) - (v < 0)) >> r`` for r >= 1; the zero point joins the
constant as ``zero_point << r``.
"""

from collections.abc import Sequence

import numpy as np

from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import (
    Buffer,
    Expr,
    Function,
    Index,
    bits,
    cast,
    clamp,
    const,
    intrinsic,
    shuffle,
    splat,
)
from bitship.graph.base import Ints
from bitship.graph.ops import Rescale, Rounding

_OFFSET = 60


# The rounded high half of a product, by machine and lanes, where one instruction gives it.
_HIGH = {("arm", 4): "llvm.arm.mve.vqrdmulh.v4i32", ("aarch64", 4): "llvm.aarch64.neon.sqrdmulh.v4i32"}


class Coefficients:
    """One integer per channel slot, or one for all, as constant memory."""

    def __init__(self, fn: Function, values: Ints, dtype: str, shared: bool) -> None:
        self.shared = shared
        self.memory: Buffer = fn.constant((values[:1] if shared else values).astype(dtype))

    def at(self, block: Index, lanes: int) -> Expr:
        """Return the coefficients of a block of lanes."""
        return splat(self.memory.load(0), lanes) if self.shared else self.memory.load(block * lanes, lanes)


class Epilogue:
    """Writes ``rescale(accumulator)`` for vectors of accumulators.

    bound  largest magnitude a (centred) accumulator can have
    slots  channel of every slot in the order the kernel stores them, -1 for padding; None: one multiplier for all
    lanes  of the vectors handed to ``apply``; 1 for scalar code
    """

    def __init__(
        self, fn: Function, isa: Isa, rq: Rescale | None, bound: int, slots: Sequence[int] | None, lanes: int
    ) -> None:
        self.fn, self.isa, self.rq, self.lanes = fn, isa, rq, lanes
        if rq is None:
            return
        self.shared = not rq.per_channel or slots is None
        order = np.zeros(1, np.int64) if self.shared else np.asarray(slots, np.int64)
        self.m: Ints = np.where(order >= 0, np.array(rq.multiplier, np.int64)[order], 0)
        self.s: Ints = np.where(self.m > 0, np.array(rq.shift, np.int64)[order], -1)
        self.bound = bound << rq.pre_shift
        self.form = self._choose()
        getattr(self, f"_prepare_{self.form}")()

    @property
    def dtype(self) -> str:
        """Dtype of the result."""
        return "int32" if self.rq is None else self.rq.dtype.value

    def _choose(self) -> str:
        assert self.rq is not None
        if self.lanes == 1:
            return "wide"
        if self.rq.rounding is Rounding.SINGLE or self.rq.output_zero_point <= self.rq.qmin:
            most = 0 if self.shared else -1  # 0 needs the odd lanes shifted up, which all lanes must share
            exact = self.bound < 1 << 29 and int(self.s.min()) >= -27 and int(self.s.max()) <= most
            if self.isa.x86 and exact and abs(self.rq.output_zero_point) < 1 << 15:
                return "single"
        if self.rq.rounding is Rounding.SINGLE:
            return "wide"
        left, right = np.maximum(self.s, 0), np.maximum(-self.s, 0)
        high = max(((self.bound << int(a)) * int(m) >> 31) + 1 for a, m in zip(left, self.m, strict=True))
        largest = high + (1 + 2 * abs(self.rq.output_zero_point) << int(right.max()))
        return "double" if largest < (1 << 31) - 2 and (self.bound << int(left.max())) < 1 << 31 else "wide"

    def _coefficients(self, values: Ints, dtype: str) -> Coefficients:
        return Coefficients(self.fn, values, dtype, self.shared)

    def _halves(self, values: Ints) -> tuple[Coefficients, Coefficients]:
        """Return the even and the odd slots' coefficients as int64."""
        if self.shared:
            c = self._coefficients(values, "int64")
            return c, c
        return self._coefficients(values[0::2], "int64"), self._coefficients(values[1::2], "int64")

    def apply(self, value: Expr, block: Index) -> Expr:
        """Return the rescaled, clamped value in the output dtype for int32 accumulators; see ``scale``."""
        if self.rq is None:
            return value
        y = self.fn.let(self.scale(value, block))
        return cast(clamp(y, self.rq.qmin, self.rq.qmax, "int32", self.lanes), self.rq.dtype.value, self.lanes)

    def scale(self, value: Expr, block: Index, row: Index = 0) -> Expr:
        """Return the rescaled int32 value with its zero point, which the caller clamps.

        value  int32 vector of ``lanes`` (its input zero point not yet taken off)
        block  index of the vector in the channel slots, in vectors; row  is not needed here
        """
        if self.rq is None:
            return value
        rq, n = self.rq, self.lanes
        if self.form == "wide" and self.near:
            return cast(self._wide(value, block), "int32", n)
        if self.form == "wide":
            return cast(clamp(self._wide(value, block), rq.qmin, rq.qmax, "int64", n), "int32", n)
        if rq.input_zero_point:
            value = value - const(rq.input_zero_point, "int32", n)
        if rq.pre_shift:
            value = value << const(rq.pre_shift, "int32", n)
        return self._single(value, block) if self.form == "single" else self._double(value, block)

    def _prepare_wide(self) -> None:
        assert self.rq is not None
        factors = zip(self.m.tolist(), self.s.tolist(), strict=True)
        largest = max((self.bound * m >> (31 - s)) + 2 for m, s in factors)  # half a unit more for either rounding
        self.near = largest + abs(self.rq.output_zero_point) < 1 << 31
        if self.rq.rounding is Rounding.SINGLE:
            down = 31 - self.s
            self.multiplier = self._coefficients(self.m, "int32")
            self.half = self._coefficients(np.int64(1) << (down - 1), "int64")
            self.right = self._coefficients(down, "int64")
            return
        left, right = np.maximum(self.s, 0), np.maximum(-self.s, 0)
        self.multiplier = self._coefficients(self.m << left, "int64")
        self.half = self._coefficients((np.int64(1) << right) >> 1, "int64")
        self.rounds = self._coefficients(-(right > 0).astype(np.int64), "int64")
        self.right = self._coefficients(right, "int64")

    def _wide(self, value: Expr, block: Index) -> Expr:
        assert self.rq is not None
        rq, n = self.rq, self.lanes
        narrow = self.bound < 1 << 31  # then the code generator can see a product of 32 by 32 bits
        v = value if narrow else cast(value, "int64", n)
        if rq.input_zero_point:
            v = v - const(rq.input_zero_point, "int32" if narrow else "int64", n)
        if rq.pre_shift:
            v = v << const(rq.pre_shift, "int32" if narrow else "int64", n)
        v = cast(self.fn.let(v), "int64", n) if narrow else v
        multiplier = self.multiplier.at(block, n)
        product = v * (cast(multiplier, "int64", n) if rq.rounding is Rounding.SINGLE else multiplier)
        half, right = self.half.at(block, n), self.right.at(block, n)
        if rq.rounding is Rounding.SINGLE:
            y = (product + half) >> right
        else:
            high = self.fn.let((product + const(1 << 30, "int64", n)) >> const(31, "int64", n))
            sign = (high >> const(63, "int64", n)) & self.rounds.at(block, n)
            y = (high + half + sign) >> right
        return self.fn.let(y + const(rq.output_zero_point, "int64", n))

    def _products(self, value: Expr, block: Index) -> tuple[Expr, Expr]:
        """Return the 64-bit products of the even and of the odd lanes (vpmuldq)."""
        n = self.lanes // 2
        by = const(32, "int64", n)
        v = self.fn.let(bits(self.fn.let(value), "int64", n))
        even, odd = (self.fn.let((c.at(block, n) << by) >> by) for c in self.multipliers)
        return ((v << by) >> by) * even, (v >> by) * odd

    def _joined(self, even: Expr, odd: Expr) -> Expr:
        """Return low words of ``even`` and high words of ``odd`` as int32 lanes."""
        n = self.lanes
        picks = [i if i % 2 == 0 else n + i for i in range(n)]
        return shuffle([self.fn.let(bits(even, "int32", n)), self.fn.let(bits(odd, "int32", n))], picks)

    def _prepare_single(self) -> None:
        assert self.rq is not None
        down = 31 - self.s
        one = np.int64(1)
        rounding = one << (down - 1)
        if self.rq.rounding is Rounding.DOUBLE:
            rounding = np.where(self.s < 0, rounding, 0) + (one << 30)
        self.multipliers = self._halves(self.m)
        zero_point = abs(self.rq.output_zero_point)
        self.arithmetic = self.isa.lanes == 16 and zero_point << int(down.max()) < 1 << 61
        if self.arithmetic:
            self.rounding = self._halves(rounding + (np.int64(self.rq.output_zero_point) << down))
        else:
            self.rounding = self._halves(rounding + (one << _OFFSET))
        self.downs = self._halves(down)
        self.odd_downs = self._halves(np.abs(down - 32))[1]
        correction = self.rq.output_zero_point - (one << (_OFFSET - down))
        self.correction = self._coefficients(correction, "int32")

    def _single(self, value: Expr, block: Index) -> Expr:
        n = self.lanes // 2
        even, odd = self._products(value, block)
        dtype = "int64" if self.arithmetic else "uint64"
        even = bits(even + self.rounding[0].at(block, n), dtype, n)
        odd = bits(odd + self.rounding[1].at(block, n), dtype, n)
        by_even = bits(self.downs[0].at(block, n), dtype, n)
        by_odd = bits(self.odd_downs.at(block, n), dtype, n)
        shifted = odd << by_odd if int(self.s.max()) == 0 else odd >> by_odd
        joined = self._joined(even >> by_even, shifted)
        return joined if self.arithmetic else joined + self.correction.at(block, self.lanes)

    def _prepare_double(self) -> None:
        assert self.rq is not None
        left, right = np.maximum(self.s, 0), np.maximum(-self.s, 0)
        if self.isa.x86:
            self.multipliers = self._halves(self.m)
        else:
            self.multiplier = self._coefficients(self.m, "int32")
        self.left = self._coefficients(left, "int32") if left.any() else None
        half = ((np.int64(1) << right) >> 1) + (np.int64(self.rq.output_zero_point) << right)
        self.half = self._coefficients(half, "int32")
        self.shift = self._coefficients(right, "int32") if right.any() else None
        self.rounds = self._coefficients(-(right > 0).astype(np.int64), "int32")
        self.always = bool((right > 0).all())

    def _double(self, value: Expr, block: Index) -> Expr:
        n = self.lanes
        if self.left is not None:
            value = value << self.left.at(block, n)
        high = self.fn.let(self._high(value, block))
        y = high + self.half.at(block, n)
        if self.shift is None:
            return y
        sign = high >> const(31, "int32", n)
        if not self.always:
            sign = sign & self.rounds.at(block, n)
        return (y + sign) >> self.shift.at(block, n)

    def _high(self, value: Expr, block: Index) -> Expr:
        """Return ``(value * multiplier + 2^30) >> 31``."""
        if not self.isa.x86:
            name = _HIGH.get((self.isa.machine, self.lanes))
            multiplier = self.multiplier.at(block, self.lanes)
            if name is not None:
                return intrinsic(f"int32x{self.lanes}", name, value, multiplier)
            product = cast(value, "int64", self.lanes) * cast(multiplier, "int64", self.lanes)
            rounded = product + const(1 << 30, "int64", self.lanes)
            return cast(rounded >> const(31, "int64", self.lanes), "int32", self.lanes)
        n = self.lanes // 2
        half = const(1 << 30, "int64", n)
        even, odd = self._products(value, block)
        even = bits(even + half, "uint64", n) >> const(31, "uint64", n)
        odd = bits(odd + half, "uint64", n) << const(1, "uint64", n)
        return self._joined(even, odd)
