"""What kernels of a device's core could get wrong: odd channels and widths, borders, extremes, both roundings, tails.

``DEVICE_CASES`` is like ``op_cases.CASES``.
"""

from collections.abc import Callable

import numpy as np
from op_builders import (
    I8,
    I16,
    I32,
    Case,
    D,
    S,
    binary,
    conv,
    depthwise,
    fc,
    feeds,
    ints,
    matmul,
    requant,
    rng,
    single,
    unary,
)

from bitship.graph.ops import (
    Add,
    AvgPool2D,
    Conv2D,
    DivRounding,
    FullyConnected,
    MaxPool2D,
    Mul,
    Pad,
    ReduceSum,
    Rescale,
    Rounding,
    Sub,
)

_LIMIT = (1 << 31) - 1


def extreme(name: str, lowest: int, rounding: Rounding) -> Case:
    """Weights and input at their ends, the accumulator within a few hundred of int32's ends."""
    w = np.full((6, 1, 1, 20), -128, np.int64)
    w[1::2] = 127
    most = 20 * 255 * 128
    bias = np.where(np.arange(6) % 3 == 0, _LIMIT - most - 7, most - _LIMIT + 5)
    factors = tuple((1 << 30) + 12345 * c for c in range(6))
    r = Rescale(factors, (-24, -23, -31, -24, -22, -3), 0, lowest, rounding)
    op = Conv2D(input_zero_point=lowest, requant=r)
    g = single(name, op, [((1, 3, 3, 20), I8)], (w.astype(np.int8), bias.astype(np.int32)))
    return g, feeds(rng(name), ((1, 3, 3, 20), I8, None, None))


def shifts(name: str, rounding: Rounding, zero_point: int, entries: tuple[tuple[int, int], ...]) -> Case:
    """A fully connected layer with these (multiplier, shift)s."""
    n = len(entries)
    r = Rescale(tuple(m for m, _ in entries), tuple(s for _, s in entries), 0, zero_point, rounding)
    op = FullyConnected(input_zero_point=3, requant=r)
    random = rng(name)
    g = single(name, op, [((3, 21), I8)], (ints(random, (n, 21)), ints(random, (n,), I32, -9000, 9000)))
    return g, feeds(random, ((3, 21), I8, None, None))


def _half(lo: int, hi: int, rounding: Rounding, zp: int) -> Rescale:
    return Rescale((1 << 30,), (-17,), 0, zp, rounding, qmin=lo, qmax=hi)


def _sum(name: str, rounding: Rounding, shape: tuple[int, ...], other: tuple[int, ...], *, sub: bool = False) -> Case:
    """Operands of equal scale, so that ties occur: the sum's half is between two codes."""
    i32 = {"dtype": I32, "qmin": I32.qmin, "qmax": I32.qmax, "rounding": rounding, "pre_shift": 20}
    a, b = (Rescale((1 << 30,), (0,), input_zero_point=z, **i32) for z in (4, -9))  # type: ignore[arg-type]
    op = (Sub if sub else Add)(a, b, Rescale((1 << 30,), (-19,), output_zero_point=-3, rounding=rounding))
    return binary(name, op, shape, other)


def _sum16(name: str, shift: int, zero_point: int, *, sub: bool = False) -> Case:
    """int16 operands, one rounding each, as our quantizer makes residual additions."""
    i32 = {"dtype": I32, "qmin": I32.qmin, "qmax": I32.qmax, "pre_shift": 12}
    a, b = Rescale((1 << 30,), (0,), **i32), Rescale((1950134107,), (shift,), **i32)  # type: ignore[arg-type]
    r = Rescale((2095968579,), (-11,), 0, zero_point, dtype=I16, qmin=I16.qmin, qmax=I16.qmax)
    return binary(name, (Sub if sub else Add)(a, b, r), (1, 5, 7), (1, 5, 7), I16, I16)


_MANY = ((1 << 30, -2), (1431655765, -7), (0, -5), (_LIMIT, -9), (1 << 30, -20), (1 << 30, -31), (1800000001, -6))

DEVICE_CASES: dict[str, Callable[[], Case]] = {
    name: (lambda f=f, name=name: f(name))  # type: ignore[misc]
    for name, f in {
        "dev_row_4x1": lambda n: fc(n, 1, 4, 1, izp=-7),
        "dev_row_8x4_double": lambda n: fc(n, 1, 8, 4, izp=-128, rounding=D),
        "dev_row_12x5_double": lambda n: fc(n, 1, 12, 5, izp=127, rounding=D, per_channel=True),
        "dev_row_20x7": lambda n: fc(n, 1, 20, 7, izp=3, per_channel=True),
        "dev_row_68x19_double": lambda n: fc(n, 1, 68, 19, izp=11, rounding=D, per_channel=True),
        "dev_row_raw": lambda n: fc(n, 1, 16, 6, izp=11, epilogue=False),
        "dev_conv_1ch": lambda n: conv(n, (1, 7, 5, 1), 1, (3, 3), padding=(1, 1, 1, 1), izp=-128),
        "dev_conv_2ch_double": lambda n: conv(n, (1, 5, 7, 2), 3, (2, 2), rounding=D, izp=127, zp=-128),
        "dev_conv_3ch_s2_relu": lambda n: conv(
            n, (2, 11, 9, 3), 7, (3, 3), stride=(2, 2), padding=(0, 1, 0, 1), rounding=D, izp=-128, zp=-128
        ),
        "dev_conv_5ch_s3": lambda n: conv(n, (1, 13, 10, 5), 5, (3, 3), stride=(3, 3), padding=(2, 1, 0, 2), izp=5),
        "dev_conv_7ch_dilated": lambda n: conv(
            n, (1, 9, 11, 7), 9, (3, 3), dilation=(2, 3), padding=(2, 2, 3, 3), rounding=D, zp=-128, izp=-77
        ),
        "dev_conv_8ch_dilated": lambda n: conv(
            n, (1, 8, 9, 8), 6, (2, 3), dilation=(1, 2), padding=(0, 1, 2, 2), izp=9
        ),
        "dev_conv_17ch": lambda n: conv(n, (1, 6, 5, 17), 21, (3, 3), padding=(1, 1, 1, 1), izp=-1, rounding=D),
        "dev_conv_wide_weights": lambda n: conv(
            n, (1, 5, 6, 36), 40, (3, 3), padding=(1, 1, 1, 1), rounding=D, zp=-128
        ),
        "dev_conv_many_weights": lambda n: conv(n, (1, 3, 7, 60), 50, (1, 1), rounding=D, zp=3, izp=77),
        "dev_conv_many_weights_int32": lambda n: conv(n, (1, 3, 3, 61), 50, (1, 1), epilogue=False, izp=-77),
        "dev_conv_many_weights_int16": lambda n: conv(n, (1, 2, 3, 62), 49, (1, 1), otype=I16, izp=-77, zp=9),
        "dev_conv_1x1_k4": lambda n: conv(n, (1, 5, 5, 4), 6, (1, 1), rounding=D, zp=-128, izp=-128),
        "dev_conv_1x1_k8": lambda n: conv(n, (1, 3, 3, 8), 50, (1, 1), izp=-6),
        "dev_conv_1x1_k8_odd": lambda n: conv(n, (2, 3, 3, 8), 7, (1, 1), izp=-6, rounding=D, zp=9),
        "dev_conv_1x1_k8_one": lambda n: conv(n, (1, 1, 2, 8), 1, (1, 1), izp=-6, rounding=D, zp=-128),
        "dev_conv_1x1_k8_double": lambda n: conv(n, (1, 1, 5, 8), 12, (1, 1), izp=90, rounding=D, zp=5),
        "dev_conv_1x1_k12": lambda n: conv(n, (1, 2, 5, 12), 100, (1, 1), rounding=D, izp=-6, zp=-20),
        "dev_conv_1x1_k60": lambda n: conv(n, (2, 1, 7, 60), 30, (1, 1), izp=60, rounding=D),
        "dev_conv_1x7": lambda n: conv(n, (1, 4, 13, 6), 5, (1, 7), padding=(0, 0, 3, 3), izp=2),
        "dev_conv_7x1": lambda n: conv(n, (1, 13, 4, 6), 5, (7, 1), padding=(5, 1, 0, 0), stride=(1, 2), izp=2),
        "dev_conv_5x5": lambda n: conv(n, (1, 6, 6, 4), 3, (5, 5), padding=(2, 2, 2, 2), izp=-128, rounding=D, zp=-128),
        "dev_conv_7x7_s2": lambda n: conv(n, (1, 14, 15, 3), 4, (7, 7), stride=(2, 2), padding=(2, 3, 3, 2), izp=11),
        "dev_conv_one_input_pixel": lambda n: conv(n, (1, 1, 1, 6), 5, (3, 3), padding=(1, 1, 1, 1), izp=100),
        "dev_conv_per_tensor": lambda n: conv(n, (1, 5, 5, 6), 5, (3, 3), per_channel=False, rounding=D, zp=-128),
        "dev_conv_clamped": lambda n: conv(n, (1, 5, 5, 6), 19, (3, 3), clamp=(-100, 20), rounding=D),
        "dev_conv_int32": lambda n: conv(n, (1, 4, 3, 10), 21, (2, 2), epilogue=False, izp=-128),
        "dev_conv_int16": lambda n: conv(n, (1, 5, 7, 9), 7, (3, 3), otype=I16, izp=-128, zp=-300),
        "dev_conv_int16_large": lambda n: conv(n, (1, 5, 5, 40), 37, (1, 1), otype=I16, izp=5, zp=0),
        "dev_conv_int16_double": lambda n: conv(n, (1, 5, 5, 4), 3, (1, 1), otype=I16, izp=5, zp=0, rounding=D),
        "dev_conv_weight_zero_point": lambda n: conv(
            n, (1, 6, 7, 5), 6, (3, 3), padding=(1, 1, 1, 1), wzp=-128, izp=127, per_channel=False, rounding=D
        ),
        "dev_extreme": lambda n: extreme(n, -128, D),
        "dev_extreme_single": lambda n: extreme(n, 127, S),
        "dev_shifts_floor": lambda n: shifts(n, S, 11, _MANY),
        "dev_shifts_relu": lambda n: shifts(n, D, -128, _MANY),
        "dev_shifts_double": lambda n: shifts(n, D, -7, _MANY),
        "dev_shifts_one": lambda n: shifts(n, D, -128, ((1 << 30, -1), (_LIMIT, -1), (1234567891, -1))),
        "dev_shifts_nothing": lambda n: shifts(n, D, 5, ((0, 0), (0, -31), (1 << 30, 0))),
        "dev_shifts_left": lambda n: shifts(n, D, 0, ((1 << 30, 1), (_LIMIT, -4), (1234567891, 0))),
        "dev_shifts_left_single": lambda n: shifts(n, S, 0, ((1 << 30, 1), (_LIMIT, -1), (1234567891, 0))),
        "dev_dw_3ch": lambda n: depthwise(n, (1, 5, 6, 3), (3, 3), padding=(1, 1, 1, 1), izp=-128),
        "dev_dw_4ch_double": lambda n: depthwise(n, (1, 5, 6, 4), (3, 3), padding=(1, 1, 1, 1), izp=-128, rounding=D),
        "dev_dw_7ch_s2": lambda n: depthwise(n, (2, 7, 9, 7), (3, 3), stride=(2, 2), padding=(1, 0, 0, 1), izp=127),
        "dev_dw_17ch": lambda n: depthwise(n, (1, 6, 5, 17), (3, 3), padding=(1, 1, 1, 1), izp=3, rounding=D),
        "dev_dw_s3": lambda n: depthwise(n, (1, 10, 11, 8), (3, 3), stride=(3, 3), padding=(2, 2, 2, 2), izp=-20),
        "dev_dw_dilated": lambda n: depthwise(n, (1, 9, 12, 8), (3, 3), dilation=(2, 3), padding=(1, 2, 4, 3), izp=9),
        "dev_dw_2x2": lambda n: depthwise(n, (1, 5, 5, 12), (2, 2), padding=(1, 0, 0, 1), izp=-5),
        "dev_dw_1x1_4ch": lambda n: depthwise(n, (1, 3, 5, 4), (1, 1), izp=-5, rounding=D),
        "dev_dw_1x7": lambda n: depthwise(n, (1, 3, 9, 5), (1, 7), padding=(0, 0, 3, 3), izp=-5),
        "dev_dw_7x7_small": lambda n: depthwise(n, (1, 3, 3, 9), (7, 7), padding=(3, 3, 3, 3), izp=-128, rounding=D),
        "dev_dw_9x9": lambda n: depthwise(n, (1, 10, 9, 4), (9, 9), padding=(4, 4, 4, 4), izp=1),
        "dev_dw_11x11": lambda n: depthwise(n, (1, 12, 12, 4), (11, 11), padding=(5, 5, 5, 5), izp=1),
        "dev_dw_int32": lambda n: depthwise(n, (1, 5, 5, 22), (3, 3), epilogue=False, padding=(1, 1, 1, 1), izp=8),
        "dev_dw_one_channel": lambda n: depthwise(n, (1, 6, 5, 1), (3, 3), 4, padding=(1, 1, 1, 1), izp=-9),
        "dev_dw_weight_zero_point": lambda n: depthwise(
            n, (1, 6, 5, 6), (3, 3), wzp=127, izp=-128, padding=(1, 1, 1, 1), per_channel=False, rounding=D
        ),
        "dev_fc_k1": lambda n: fc(n, 1, 1, 3, izp=-3),
        "dev_fc_k3": lambda n: fc(n, 4, 3, 5, izp=-3, rounding=D),
        "dev_fc_k640": lambda n: fc(n, 1, 640, 7, izp=89),
        "dev_fc_two_rows": lambda n: fc(n, 2, 50, 4, izp=89, rounding=D),
        "dev_fc_many_rows": lambda n: fc(n, 11, 18, 5, per_channel=True, rounding=D),
        "dev_add_ties": lambda n: _sum(n, D, (1, 3, 3, 5), (1, 3, 3, 5)),
        "dev_add_ties_single": lambda n: _sum(n, S, (1, 1, 1, 1), (1, 1, 1, 1)),
        "dev_sub_ties": lambda n: _sum(n, D, (2, 3), (2, 3), sub=True),
        "dev_add_repeats": lambda n: _sum(n, D, (2, 3, 1, 7), (1, 1, 1, 7)),
        "dev_sub_repeats": lambda n: _sum(n, D, (1, 1, 5), (4, 3, 5), sub=True),
        "dev_add_clamped": lambda n: binary(n, Add(requant=_half(-4, 9, S, 2)), (1, 4, 5), (1, 4, 5)),
        "dev_add_int16": lambda n: _sum16(n, -4, 0),
        "dev_add_int16_far": lambda n: _sum16(n, -13, -700),
        "dev_add_int16_near": lambda n: _sum16(n, 1, 31000),
        "dev_sub_int16": lambda n: _sum16(n, -4, 5, sub=True),
        "dev_matmul_one_row": lambda n: matmul(n, 3, 1, 5, 6, azp=-128, bzp=127),
        "dev_matmul_tails": lambda n: matmul(n, 2, 7, 19, 18, azp=127, bzp=-128),
        "dev_matmul_three_rows": lambda n: matmul(n, 1, 3, 4, 1, azp=5, bzp=-9),
        "dev_matmul_int32": lambda n: matmul(n, 2, 6, 22, 17, epilogue=False, azp=3, bzp=1),
        "dev_mul_relu": lambda n: binary(n, Mul(-128, -128, requant(rng(n), 1, 0.004, D, -128)), (3, 7), (3, 7)),
        "dev_mul_repeats": lambda n: binary(n, Mul(3, -9, requant(rng(n), 1, 0.004, D, 5)), (1, 9, 6), (1, 1, 6)),
        "dev_rescale": lambda n: unary(n, Rescale((1 << 30,), (0,), -7, 9, D), (3, 13)),
        "dev_avg_pool_global": lambda n: unary(n, AvgPool2D((17, 19), (1, 1)), (1, 17, 19, 6)),
        "dev_avg_pool_up": lambda n: unary(
            n, AvgPool2D((3, 3), (2, 1), (1, 1, 1, 1), rounding=DivRounding.HALF_UP, qmin=-9, qmax=4), (2, 5, 6, 7)
        ),
        "dev_max_pool": lambda n: unary(n, MaxPool2D((3, 3), (2, 2), (1, 1, 0, 1)), (2, 7, 5, 9)),
        "dev_max_pool_clamped": lambda n: unary(n, MaxPool2D((2, 2), (1, 1), qmin=-5, qmax=100), (1, 4, 4, 4)),
        "dev_pad_columns": lambda n: unary(n, Pad(((0, 0), (1, 2), (2, 1), (0, 0)), -7), (1, 4, 5, 3)),
        "dev_pad_int16": lambda n: unary(n, Pad(((0, 0), (0, 0), (2, 1), (0, 0)), -300), (1, 4, 5, 3), I16),
        "dev_mean_relu": lambda n: unary(n, ReduceSum((1, 2), -128, requant(rng(n), 1, 1 / 9, D, -128)), (2, 3, 3, 7)),
        "dev_mean_long": lambda n: unary(n, ReduceSum((1,), 127, requant(rng(n), 1, 1 / 700, S, 5)), (1, 700, 5)),
        "dev_mean_apart": lambda n: unary(n, ReduceSum((0, 2), 1, requant(rng(n), 1, 1 / 6, D, 5)), (2, 4, 3)),
        "dev_mean_rows": lambda n: unary(n, ReduceSum((2,), 6, requant(rng(n), 1, 1 / 3, D, 6)), (1, 40, 3)),
    }.items()
}
