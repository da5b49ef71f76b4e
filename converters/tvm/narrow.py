"""From int32 vectors to one vector of outputs: in which order channels sit in the registers, and the final pack.

x86 packs pairs of vectors with saturation, inside 128-bit lanes. Channels are therefore dealt to the vectors in
groups of four, so that packing two or four of them leaves every byte where it belongs, with no shuffle.
"""

from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import Expr, Function, cast, clamp, const, intrinsic, maximum, minimum, shuffle
from bitship.graph.ops import Rescale


def packs(isa: Isa, rq: Rescale | None) -> bool:
    """Whether results are packed in lanes."""
    return isa.x86 and isa.lanes >= 8 and rq is not None and rq.dtype.value == "int8"


def channel_order(parts: int, isa: Isa, rq: Rescale | None) -> list[int]:
    """Return the channel (of parts * lanes) in every slot of the vectors, one vector after the other."""
    n = isa.lanes
    if not packs(isa, rq):
        return list(range(parts * n))
    return interleaved(parts, n)


def interleaved(parts: int, lanes: int) -> list[int]:
    """Return the channels of every slot when they are dealt to the vectors in groups of four."""
    return [4 * parts * (i // 4) + 4 * j + i % 4 for j in range(parts) for i in range(lanes)]


def join(fn: Function, isa: Isa, rq: Rescale | None, parts: list[Expr], order: list[int]) -> Expr:
    """Clamp, narrow and join 1, 2 or 4 int32 vectors whose slots hold the channels of ``order``."""
    n, count = isa.lanes, len(parts)
    if count > 1 and packs(isa, rq) and order == interleaved(count, n):
        assert rq is not None
        return _packed(fn, isa, rq, parts)
    if rq is not None:
        parts = [fn.let(clamp(p, rq.qmin, rq.qmax, "int32", n)) for p in parts]
    if count == 1:
        joined = parts[0]
    else:
        place = {c: i for i, c in enumerate(order)}
        joined = fn.let(shuffle(parts, [place[c] for c in range(count * n)]))
    return joined if rq is None else cast(joined, rq.dtype.value, count * n)


def _packed(fn: Function, isa: Isa, rq: Rescale, parts: list[Expr]) -> Expr:
    n, count = isa.lanes, len(parts)
    dword, word = (
        ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packsswb.512")
        if n == 16
        else ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packsswb")
    )
    halves = [fn.let(intrinsic(f"int16x{2 * n}", dword, a, b)) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    if count == 4:
        result = intrinsic(f"int8x{4 * n}", word, *halves)
    else:
        result = cast(clamp(halves[0], -128, 127, "int16", 2 * n), "int8", 2 * n)
    if rq.qmin > -128:
        result = maximum(result, const(rq.qmin, "int8", count * n))
    if rq.qmax < 127:
        result = minimum(result, const(rq.qmax, "int8", count * n))
    return fn.let(result)
