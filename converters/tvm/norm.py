"""layer_norm, rms_norm and i_layer_norm: statistics of a row in int64, then two products per element.

A row is read twice: once for its sums, once for ``z`` and the per-channel affine, which stay in 64-bit parts between
the two products. The specification proves that the centred values fit in 32 bits, the sums and products in 64.
"""

from collections.abc import Callable

import numpy as np

from bitship.converters.tvm.copy import Shape
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import Buffer, Expr, Function, cast, clamp, const, maximum, minimum, select, splat
from bitship.converters.tvm.wide import Parts, Total, Wide, bit_length, floor_sqrt, quotient
from bitship.graph.base import Ints, Operand
from bitship.graph.ops import ILayerNorm, LayerNorm, RmsNorm

_ONE = (1 << 31) - 1

Norm = LayerNorm | RmsNorm | ILayerNorm


def _c(value: int) -> Expr:
    return const(value, "int64")


class _Affine:
    """``clamp(((z * m[c] + b[c] * 2^(shift - 16) + 2^(shift - 1)) >> shift) + zero point)`` for vectors of a row.

    reach  largest magnitude of z; narrow  whether the shifted sum is proven to fit in 32 bits with the zero point
    """

    def __init__(self, fn: Function, isa: Isa, op: Norm, length: int, reach: int, m: Ints, b: Ints) -> None:
        self.fn, self.op = fn, op
        repeats = length // m.size
        first = (b << (op.shift - 16)) + (np.int64(1) << (op.shift - 1))
        gains, offsets = np.tile(m, repeats), np.tile(first, repeats)
        largest = (reach * int(np.abs(m).max()) + int(np.abs(first).max())) >> op.shift
        self.narrow = largest + 1 + abs(op.output_zero_point) < 1 << 31
        self.whole = length // isa.lanes * isa.lanes if isa.lanes > 1 else 0
        self.shift, self.zero_point = fn.number(op.shift, "int64"), fn.number(op.output_zero_point, "int32")
        self.by_lanes: dict[int, tuple[Wide, list[Parts], list[Parts]]] = {}
        for lanes, some in ((isa.lanes, slice(0, self.whole)), (1, slice(self.whole, None))):
            if gains[some].size:
                wide = Wide(fn, isa, lanes)
                self.by_lanes[lanes] = (wide, wide.constants(gains[some]), wide.constants(offsets[some]))

    def apply(self, z: list[Expr], block: Expr, lanes: int) -> Expr:
        """Return the result for parts of z, which fit in 32 bits; ``block`` counts vectors of this width."""
        fn, op = self.fn, self.op
        wide, gains, offsets = self.by_lanes[lanes]
        n = wide.width
        found = []
        for value, gain, offset in zip(z, gains, offsets, strict=True):
            product = wide.narrowed(value) * wide.narrowed(gain.at(block))
            y = fn.let((product + offset.at(block)) >> splat(self.shift, n))
            if not self.narrow:
                y = fn.let(clamp(y, -(1 << 30), 1 << 30, "int64", n))
            found.append(y)
        y = wide.merge(found) + splat(self.zero_point, lanes)
        return cast(clamp(y, op.qmin, op.qmax, "int32", lanes), op.dtype.value, lanes)


def lower_norm(
    fn: Function, isa: Isa, op: Norm, x: Buffer, out: Buffer, shape: Shape, multiplier: Operand, bias: Operand
) -> None:
    """Write the kernel, rows shared among threads."""
    assert multiplier.value is not None, "proven constant"
    assert bias.value is not None, "proven constant"
    length = shape[-1]
    reach = _ONE if isinstance(op, ILayerNorm) else (int(np.sqrt(length)) + 2) << 20
    m, b = multiplier.value.astype(np.int64), bias.value.astype(np.int64)
    affine = _Affine(fn, isa, op, length, reach, m, b)
    statistics = _ivit if isinstance(op, ILayerNorm) else _exact
    sums = [Total(fn, Wide(fn, isa, isa.lanes)) for _ in range(2)]

    with fn.divided(int(np.prod(shape[:-1]))) as row:
        start = fn.let(row * length)

        def values(at: Expr, lanes: int) -> Expr:
            return fn.let(cast(x.load(start + at, lanes), "int32", lanes))

        normalised = statistics(fn, isa, op, length, values, sums)

        def body(at: Expr, lanes: int) -> None:
            block = at - affine.whole if lanes == 1 else _quotient(at, lanes)
            z = normalised(values(at, lanes), Wide(fn, isa, lanes))
            out.store(start + at, affine.apply(z, block, lanes), lanes)

        fn.chunks(length, isa.lanes, body)


def _quotient(value: Expr, by: int) -> Expr:
    from tvm import tirx

    return tirx.truncdiv(value, const(by, "int32"))


Values = Callable[[Expr, int], Expr]
Normalised = Callable[[Expr, Wide], list[Expr]]


def _exact(fn: Function, isa: Isa, op: Norm, length: int, values: Values, sums: list[Total]) -> Normalised:
    """Exact statistics; returns ``z = (y * R + 2^(39 - t)) >> (40 - t)``."""
    assert isinstance(op, LayerNorm | RmsNorm)
    centre = op.input_zero_point if isinstance(op, RmsNorm) else 0
    total, squares = sums
    for s in sums:
        s.clear()

    def gather(at: Expr, lanes: int) -> None:
        parts = Wide(fn, isa, lanes).split(values(at, lanes) - const(centre, "int32", lanes))
        if isinstance(op, LayerNorm):
            total.add(parts, lanes)
        squares.add([p * p for p in parts], lanes)

    fn.chunks(length, isa.lanes, gather)
    sum_ = total.value()
    w = fn.let(_c(length) * squares.value() - sum_ * sum_)
    v = fn.let(maximum(w + fn.number(op.epsilon, "int64"), _c(1)))
    t = fn.let((_c(62) - bit_length(fn, v)) >> _c(1))
    root = floor_sqrt(fn, fn.let(v << (t + t)))
    inverse = quotient(fn, _c(1 << 60), root)
    half, down = fn.let(_c(1) << (_c(39) - t)), fn.let(_c(40) - t)
    take = fn.let(cast(sum_, "int32"))

    def normalised(x: Expr, wide: Wide) -> list[Expr]:
        y = (x - const(centre, "int32", wide.lanes)) * const(length, "int32", wide.lanes)
        if isinstance(op, LayerNorm):
            y = y - splat(take, wide.lanes)
        by = wide.narrowed(wide.same(inverse))
        return [fn.let((p * by + wide.same(half)) >> wide.same(down)) for p in wide.split(y)]

    return normalised


def _ivit(fn: Function, isa: Isa, op: Norm, length: int, values: Values, sums: list[Total]) -> Normalised:
    """I-ViT's statistics; returns ``z = clamp((y * F) >> 1)``."""
    from tvm import tirx

    total, squares = sums
    for s in sums:
        s.clear()
    fn.chunks(length, isa.lanes, lambda at, n: total.add(Wide(fn, isa, n).split(values(at, n)), n))
    sum_ = total.value()
    zero, one, count = _c(0), _c(1), _c(length)
    negative = fn.let(select(sum_ < zero, sum_ - (count - one), sum_))
    mean = fn.let(tirx.truncdiv(negative, count))
    rest = fn.let((sum_ - mean * count) * _c(2))
    odd = fn.let(mean & one)
    up = select(rest > count, one, select(rest < count, zero, odd))
    centre = fn.let(cast(mean + up, "int32"))

    def spread(at: Expr, lanes: int) -> None:
        y = values(at, lanes) - splat(centre, lanes)
        squares.add([p * p for p in Wide(fn, isa, lanes).split(y)], lanes)

    fn.chunks(length, isa.lanes, spread)
    variance = squares.value()
    k: Expr = _c(1 << 16)
    for _ in range(10):
        k = fn.let((k + quotient(fn, variance, k)) >> one)
    factor = quotient(fn, _c(_ONE), k)

    def normalised(x: Expr, wide: Wide) -> list[Expr]:
        n = wide.width
        by = wide.narrowed(wide.same(factor))
        found = []
        for p in wide.split(x - splat(centre, wide.lanes)):
            z = fn.let((p * by) >> const(1, "int64", n))
            found.append(fn.let(maximum(minimum(z, const(_ONE, "int64", n)), const(-_ONE, "int64", n))))
        return found

    return normalised
