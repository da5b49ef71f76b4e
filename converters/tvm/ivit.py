"""shiftmax and shiftgelu: I-ViT's shift exponential of ``x - max(x)`` takes 256 values, which are tables here."""

import numpy as np

from bitship.converters.tvm.copy import Shape
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.requant import Epilogue
from bitship.converters.tvm.tir import Buffer, Expr, Function, cast, const, i32, maximum, minimum, select
from bitship.converters.tvm.wide import quotient
from bitship.graph.ops import ShiftGelu, Shiftmax
from bitship.graph.ops.ivit import SHIFTGELU_N, SHIFTMAX_N, shift_exp

_ONE = (1 << 31) - 1


def _c(value: int) -> Expr:
    return const(value, "int64")


def _largest(fn: Function, x: Buffer, start: Expr, length: int) -> Expr:
    top = fn.registers("int32")
    top.store(0, i32(-128))
    with fn.loop(length) as i:
        top.store(0, maximum(top.load(0), cast(x.load(start + i), "int32")))
    return fn.let(top.load(0))


def lower_shiftmax(fn: Function, op: Shiftmax, x: Buffer, out: Buffer, shape: Shape) -> None:
    """Sum of a row's exponentials, its reciprocal, every quotient."""
    length = shape[-1]
    table = fn.constant(shift_exp(-np.arange(256, dtype=np.int64), op.unit, SHIFTMAX_N))
    total = fn.registers("int64")

    def exponential(top: Expr, i: Expr) -> Expr:
        value = fn.let(cast(x.load(i), "int32"))
        e = fn.let(table.load(top - value))
        return fn.let(select(value.__eq__(i32(-128)), _c(op.unit), e)) if op.masked else e

    with fn.divided(int(np.prod(shape[:-1]))) as row:
        start = fn.let(row * length)
        top = _largest(fn, x, start, length)
        total.store(0, _c(0))
        with fn.loop(length) as i:
            total.store(0, total.load(0) + exponential(top, start + i))
        factor = quotient(fn, _c(_ONE), fn.let(minimum(total.load(0), _c(_ONE))))
        with fn.loop(length) as i:
            out.store(start + i, cast((exponential(top, start + i) * factor) >> _c(16), "int16"))


def lower_shiftgelu(fn: Function, isa: Isa, op: ShiftGelu, x: Buffer, out: Buffer, shape: Shape) -> None:
    """A gate per element: the quotient of its exponential and that of the largest, then the epilogue."""
    length = shape[-1]
    table = fn.constant(shift_exp(-np.arange(256, dtype=np.int64), op.unit, SHIFTGELU_N))
    origin = fn.constant(shift_exp(-np.arange(-128, 128, dtype=np.int64), op.unit, SHIFTGELU_N))
    final = Epilogue(fn, isa, op.requant, 128 * 128, range(length), 1)
    with fn.divided(int(np.prod(shape[:-1]))) as row:
        start = fn.let(row * length)
        top = _largest(fn, x, start, length)
        zero = fn.let(origin.load(top + 128))
        with fn.loop(length) as i:
            value = fn.let(cast(x.load(start + i), "int32"))
            e = fn.let(table.load(top - value))
            factor = quotient(fn, _c(_ONE), fn.let(minimum(e + zero, _c(_ONE))))
            gate = fn.let(cast((e * factor) >> _c(24), "int32"))
            out.store(start + i, final.apply(fn.let(value * gate), i))
