"""The dot instruction of every level: k_step products added into every int32 lane."""

from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import Expr, Function, intrinsic


def dot(fn: Function, isa: Isa, acc: Expr, x: Expr, w: Expr) -> Expr:
    """Return ``acc[lane] + sum of k_step products``; acc int32, x and w as the level packs them.

    x is unsigned where the level has an offset (vpdpbusd), signed otherwise; w is signed.
    """
    n = isa.lanes
    i32 = f"int32x{n}"
    if isa.dot == "vpdpbusd":
        return intrinsic(i32, f"llvm.x86.avx512.vpdpbusd.{n * 32}", acc, x, w)
    if isa.dot == "vpmaddwd":
        return acc + intrinsic(i32, "llvm.x86.avx2.pmadd.wd", x, w)
    if isa.dot == "sdot":
        return intrinsic(i32, f"llvm.aarch64.neon.sdot.v{n}i32.v{4 * n}i8", acc, x, w)
    product = intrinsic(f"int16x{2 * n}", f"llvm.aarch64.neon.smull.v{2 * n}i16", x, w)
    return acc + intrinsic(i32, f"llvm.aarch64.neon.saddlp.v{n}i32.v{2 * n}i16", product)
