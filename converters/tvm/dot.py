"""The dot instruction of every level: k_step products added into every int32 lane.

smmla multiplies two rows by two columns at once. ``multiply_pair`` is for the micro-kernel, which keeps its sums that
way; ``unpaired`` brings them into rows.
"""

from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import Expr, Function, bits, cast, const, intrinsic, shuffle


def dot(fn: Function, isa: Isa, acc: Expr, x: Expr, w: Expr) -> Expr:
    """Return ``acc[lane] + sum of k_step products``; acc int32, x and w as the level packs them.

    x is unsigned where the level has an offset (vpdpbusd), signed otherwise; w is signed. smmla wants the same k_step
    elements in all lanes of x.
    """
    n = isa.lanes
    i32 = f"int32x{n}"
    if isa.dot == "vpdpbusd":
        return intrinsic(i32, f"llvm.x86.avx512.vpdpbusd.{n * 32}", acc, x, w)
    if isa.dot == "vpmaddwd":
        return acc + intrinsic(i32, "llvm.x86.avx2.pmadd.wd", x, w)
    if isa.dot == "sdot":
        return intrinsic(i32, f"llvm.aarch64.neon.sdot.v{n}i32.v{4 * n}i8", acc, x, w)
    if isa.dot == "smmla":
        zero = const(0, "int32", 4)
        pairs = [fn.let(_smmla(zero, _part(fn, x, h), _part(fn, w, h))) for h in (0, 1)]
        return acc + fn.let(shuffle(pairs, (0, 1, 4, 5)))
    if isa.dot == "smlad":
        return intrinsic("int32", "llvm.arm.smlad", bits(x, "int32"), bits(w, "int32"), acc)
    if isa.dot == "vmladava":
        plain = const(0, "int32")  # signed, added, in order
        return intrinsic("int32", "llvm.arm.mve.vmldava", plain, plain, plain, acc, x, w)
    if isa.dot == "widen":
        wide = fn.let(cast(x, "int16", 2 * n) * cast(w, "int16", 2 * n))
        even, odd = (cast(shuffle([wide], range(i, 2 * n, 2)), "int32", n) for i in (0, 1))
        return acc + (even + odd)
    product = intrinsic(f"int16x{2 * n}", f"llvm.aarch64.neon.smull.v{2 * n}i16", x, w)
    return acc + intrinsic(i32, f"llvm.aarch64.neon.saddlp.v{n}i32.v{2 * n}i16", product)


def add_up(fn: Function, isa: Isa, acc: Expr, x: Expr) -> Expr:
    """Return acc with all elements of x added somewhere in its lanes; x as the level takes activations."""
    if isa.dot == "smmla":  # has sdot too
        ones = const(1, "int8", 16)
        for h in (0, 1):
            acc = fn.let(intrinsic("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", acc, _part(fn, x, h), ones))
        return acc
    return dot(fn, isa, acc, x, const(1, isa.element, isa.lanes * isa.k_step))


def multiply_pair(fn: Function, acc: list[Expr], rows: Expr, w: Expr) -> list[Expr]:
    """Return both halves of ``acc`` plus two rows of 8 elements times four columns of 8."""
    return [_smmla(a, rows, _part(fn, w, h)) for h, a in enumerate(acc)]


def unpaired(fn: Function, acc: list[Expr]) -> list[Expr]:
    """Return the sums of ``multiply_pair`` as one vector of four columns per row."""
    return [fn.let(shuffle(acc, picks)) for picks in ((0, 1, 4, 5), (2, 3, 6, 7))]


def _smmla(acc: Expr, rows: Expr, columns: Expr) -> Expr:
    return intrinsic("int32x4", "llvm.aarch64.neon.smmla.v4i32.v16i8", acc, rows, columns)


def _part(fn: Function, x: Expr, half: int) -> Expr:
    return fn.let(shuffle([x], range(16 * half, 16 * half + 16)))
