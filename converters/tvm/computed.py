"""Packing of a computed right-hand matrix at run time, into the layout that ``gemm`` reads."""

import numpy as np

from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import Buffer, Expr, Function, cast, const, i32


def pack_at_run_time(
    fn: Function, isa: Isa, b: Buffer, shape: tuple[int, int, int], slots: list[int], vectors: int, factor: int
) -> tuple[Buffer, Buffer]:
    """Write the packing of b [G, K, N] int8 and return (packed, start) as scratch.

    slots    channel of every slot of the panel, -1 where there is none
    vectors  vectors per block
    packed   [G, blocks, steps, vectors, lanes, k_step], zeros behind the last row and in empty slots
    start    [G, slots] int32, ``-factor * sum of the column``
    """
    groups, depth, n = shape
    width, steps = vectors * isa.lanes, -(-depth // isa.k_step)
    packed = fn.scratch(isa.element, groups * len(slots) * steps * isa.k_step)
    start = fn.scratch("int32", groups * len(slots))
    table = fn.constant(np.array(slots, np.int32))
    total = fn.registers("int32")
    with fn.loop(groups) as g, fn.loop(len(slots) // width) as block, fn.loop(width) as slot:
        channel = fn.let(table.load(block * width + slot))
        at = fn.let((g * (len(slots) // width) + block) * (steps * width * isa.k_step) + slot * isa.k_step)
        total.store(0, i32(0))

        def put(step: Expr, k: Expr, filled: bool, at: Expr = at, channel: Expr = channel, g: Expr = g) -> None:
            value = const(0, isa.element)
            if filled:
                source = (g * depth + step * isa.k_step + k) * n + channel
                value = fn.let(cast(b.load(source), isa.element) if isa.element != "int8" else b.load(source))
                total.store(0, total.load(0) + cast(value, "int32"))
            packed.store(at + step * (width * isa.k_step) + k, value)

        whole, rest = divmod(depth, isa.k_step)
        with fn.when(channel >= i32(0)):
            with fn.loop(whole) as step, fn.loop(isa.k_step) as k:
                put(step, k, True)
            for k in range(isa.k_step if rest else 0):
                put(i32(whole), i32(k), k < rest)
        with fn.when(channel < i32(0)), fn.loop(steps) as step, fn.loop(isa.k_step) as k:
            put(step, k, False)
        start.store((g * (len(slots) // width) + block) * width + slot, total.load(0) * i32(-factor))
    return packed, start
