"""Grows a random integer graph node by node: what ``graph_fuzz`` writes its ops with."""

from collections.abc import Callable, Collection, Sequence
from math import prod
from typing import TypeVar

import numpy as np

from bitship.errors import GraphError
from bitship.graph import DType, GraphBuilder, ops
from bitship.graph.base import Array, Interval, Operand
from bitship.graph.ops import AnyOp, Rescale, Rounding

I8, I16, I32, U8, BOOL = DType.INT8, DType.INT16, DType.INT32, DType.UINT8, DType.BOOL
NUMBERS = (I8, I16, I32)
T = TypeVar("T")
LIMIT = 6000
ROWS = ("random", "min", "max", "alternating", "small")


class Maker:
    """Grows one graph node by node; a node that inference or the range proof refuses is left out."""

    def __init__(self, seed: int, supported: Collection[type[ops.Op]] = ops.OPS, name: str = "g") -> None:
        self.supported = supported
        self.r = np.random.default_rng(seed)
        self.b = GraphBuilder(f"{name}{seed}")
        self.known: dict[str, Operand] = {}
        self.made: list[str] = []

    def whole(self, lo: int, hi: int) -> int:
        return int(self.r.integers(lo, hi, endpoint=True))

    def one(self, choices: Sequence[T]) -> T:
        return choices[self.whole(0, len(choices) - 1)]

    def chance(self, p: float) -> bool:
        return bool(self.r.random() < p)

    def shape(self, rank: int) -> tuple[int, ...]:
        """Mostly small extents, now and then one of 17..70 on the last axis."""
        last = self.whole(17, 70) if self.chance(0.25) else self.whole(1, 17)
        rest = [self.whole(1, 9) for _ in range(rank - 1)]
        if rank == 4:
            rest[0] = self.one((1, 1, 1, 2, 3))
        while prod(rest) * last > LIMIT:
            rest[int(np.argmax(rest))] //= 2
        return (*rest, last) if rank else ()

    def zero_point(self, dtype: DType) -> int:
        return self.one((dtype.qmin, dtype.qmax, 0, 0, self.whole(dtype.qmin, dtype.qmax)))

    def input(self, shape: tuple[int, ...], dtype: DType) -> str:
        name = self.b.input("x", shape, dtype)
        self.known[name] = Operand(self.b.types[name], Interval.of(dtype))
        self.made.append(name)
        return name

    def constant(self, shape: tuple[int, ...], dtype: DType, lo: int | None = None, hi: int | None = None) -> str:
        return self.value(fill(self.r, shape, dtype, self.one(("random", "random", "random", *ROWS)), lo, hi))

    def value(self, array: Array) -> str:
        name = self.b.constant("c", array)
        array = self.b.constants[name]
        self.known[name] = Operand(self.b.types[name], Interval(int(array.min()), int(array.max())), array)
        return name

    def node(self, op: AnyOp, *inputs: str) -> str | None:
        """Add a node where verify accepts it, and return its name."""
        operands = [self.known[i] for i in inputs]
        if type(op) not in self.supported:
            return None
        try:
            out = op.infer(*(o.type for o in operands))
            if not 0 < out.size <= 4 * LIMIT:
                return None
            found = op.bounds(out, *operands)
        except GraphError:
            return None
        name = self.b.node("n", op, *inputs)
        self.known[name] = Operand(out, found)
        self.made.append(name)
        return name

    def pick(self, dtypes: Sequence[DType], rank: int | None = None) -> str:
        """Return a tensor of one of the dtypes and this rank: an old one, an old one reshaped, or a new input."""
        fits = [n for n in self.made if self.known[n].type.dtype in dtypes]
        exact = [n for n in fits if rank is None or len(self.known[n].type.shape) == rank]
        if exact and self.chance(0.75):
            return self.one(exact)
        if fits and rank is not None and self.chance(0.4):
            made = self.node(ops.Reshape(self.split(self.known[self.one(fits)].type.size, rank)), self.one(fits))
            if made is not None:
                return made
        rank = self.one((1, 2, 3, 4, 4, 5, 6, 0)) if rank is None else rank
        return self.input(self.shape(rank), self.one(dtypes))

    def split(self, size: int, rank: int) -> tuple[int, ...]:
        """Return a shape of this rank with ``size`` elements (rank 0 only for one element)."""
        result = []
        for _ in range(rank - 1):
            divisors = [d for d in range(1, min(size, 64) + 1) if size % d == 0]
            result.append(self.one(divisors))
            size //= result[-1]
        return (*result, size) if rank else ()

    def rescale(
        self, spread: int, channels: int = 1, dtypes: Sequence[DType] = (I8, I8, I16, I32, U8), zero_point: int = 0
    ) -> Rescale:
        """Return any legal rescale; half the time one that keeps values of this spread inside the output's range."""
        dtype, rounding = self.one(dtypes), self.one((Rounding.SINGLE, Rounding.DOUBLE))
        n = channels if channels > 1 and self.chance(0.5) else 1
        pre = self.one((0, 0, 0, self.whole(0, 31)))
        free = max(31 - spread.bit_length(), 0)
        if self.chance(0.8):
            pre = min(pre, free)
        middle = dtype.itemsize * 8 - 1 - max(spread.bit_length(), 1) - pre
        sane, multipliers, shifts = self.chance(0.6), [], []
        for _ in range(n):
            edge = self.one((0, 1, 1 << 30, (1 << 31) - 1, (1 << 31) - 2, self.whole(0, (1 << 31) - 1)))
            multipliers.append(self.whole(1 << 30, (1 << 31) - 1) if sane and self.chance(0.9) else edge)
            shift = middle + self.whole(-2, 2) if sane else self.one((-31, 30, 0, -1, 1, self.whole(-31, 30)))
            if rounding is Rounding.DOUBLE and self.chance(0.95):
                shift = min(shift, free - pre)
            shifts.append(max(-31, min(30, shift)))
        lo, hi = dtype.qmin, dtype.qmax
        if self.chance(0.3):
            lo, hi = sorted((self.whole(lo, hi), self.whole(lo, hi)))
        out_zero = self.one((0, self.zero_point(dtype), self.whole(-300, 300), self.one((-(1 << 31), (1 << 31) - 1))))
        if sane:
            out_zero = self.zero_point(dtype)
        return Rescale(tuple(multipliers), tuple(shifts), zero_point, out_zero, rounding, pre, dtype, lo, hi)

    def finished(self, make: Callable[[Rescale | None], AnyOp], *inputs: str) -> None:
        """Add an op with an optional epilogue: first bare, to learn the accumulator's range, then the one to keep."""
        operands = [self.known[i] for i in inputs]
        try:
            out = make(None).infer(*(o.type for o in operands))
            acc = make(None).bounds(out, *operands)
        except GraphError:
            return
        if self.chance(0.2):
            self.node(make(None), *inputs)
            return
        spread = max(abs(acc.lo), abs(acc.hi))
        for _ in range(4):
            if self.node(make(self.rescale(spread, out.shape[-1] if out.shape else 1)), *inputs) is not None:
                return

    def limited(self, name: str) -> str:
        """Return the tensor, or one derived from it with a range far inside int32."""
        kept = self.known[name]
        if kept.type.dtype is not I32 or self.chance(0.1):
            return name
        bits = self.whole(4, 30)
        if self.chance(0.5):
            return self.node(ops.Clamp(-(1 << bits), (1 << bits) - self.whole(0, 1)), name) or name
        return self.node(ops.ArithmeticRightShift(bits, self.one(tuple(ops.ShiftRounding))), name) or name


def fill(
    r: np.random.Generator,
    shape: tuple[int, ...],
    dtype: DType,
    kind: str,
    lo: int | None = None,
    hi: int | None = None,
) -> Array:
    """Return an array of one kind of ``ROWS`` inside [lo, hi], by default the dtype's whole range."""
    lo, hi = dtype.qmin if lo is None else lo, dtype.qmax if hi is None else hi
    if kind == "alternating":
        return np.resize(np.array([lo, hi]), shape).astype(dtype.numpy)
    if kind == "small":
        lo, hi = max(lo, -2), min(hi, 2)
    if kind in ("min", "max"):
        return np.full(shape, lo if kind == "min" else hi, dtype.numpy)
    return r.integers(lo, hi, shape, endpoint=True).astype(dtype.numpy)
