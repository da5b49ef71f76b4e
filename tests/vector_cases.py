"""What kernels of 16-byte vectors could get wrong: tails of channels and of pixels, runs of taps, rare roundings.

``VECTOR_CASES`` is like ``op_cases.CASES``.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from op_builders import I8, I32, Case, D, S, binary, conv, depthwise, fc, feeds, ints, rng, single, tflite_add, unary

from bitship.graph import DType
from bitship.graph.ops import (
    Add,
    AvgPool2D,
    Conv2D,
    DepthwiseConv2D,
    DivRounding,
    FullyConnected,
    MaxPool2D,
    Mul,
    Pad,
    ReduceSum,
    Rescale,
    Rounding,
    Sub,
    Table,
)

SIZES = (1, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64)


def _both(name: str, f: Callable[[str, Rounding, int], Case]) -> dict[str, Callable[[], Case]]:
    """One case per rounding, DOUBLE once with nothing and once with everything below the zero point clamped away."""
    variants = ((S, 11, ""), (D, 7, "_double"), (D, -128, "_relu"))
    return {f"vec_{name}{suffix}": partial(f, f"vec_{name}{suffix}", r, zp) for r, zp, suffix in variants}


def point(name: str, rounding: Rounding, zp: int, *, channels: int) -> Case:
    """A 1x1 kernel."""
    out = SIZES[(SIZES.index(channels) * 4 + 3) % len(SIZES)]
    return conv(name, (1, 3, 7, channels), out, (1, 1), izp=-3, rounding=rounding, zp=zp)


def square(name: str, rounding: Rounding, zp: int, *, channels: int) -> Case:
    """A 3x3 kernel, padded unevenly, its stride and size as the channels have it."""
    stride = 1 + channels % 2
    pads = (1, 0, 0, 1) if channels % 3 else (0, 2, 1, 1)
    return conv(name, (2, 5, 8, channels), 4 + channels % 5, (3, 3), stride=(stride, 1 + channels % 3), padding=pads,
                izp=-128, rounding=rounding, zp=zp)  # fmt: skip


def taps(name: str, channels: int, rounding: Rounding, *, stride: int = 1, k: tuple[int, int] = (3, 3)) -> Case:
    """A depthwise kernel, borders on every side."""
    pads = (k[0] // 2, (k[0] - 1) // 2, k[1] // 2, (k[1] - 1) // 2)
    return depthwise(name, (1, 8, 9, channels), k, stride=(stride, stride), padding=pads, izp=-128, rounding=rounding)


def heavy(name: str, k: tuple[int, int], channels: int, weight: int, zero_point: int = -128) -> Case:
    """Depthwise weights that are all alike: how many products int16 holds is at its least."""
    w = np.full((*k, channels, 1), weight, np.int8)
    r = Rescale((1 << 30,), (-8,), 0, 3, D)
    op = DepthwiseConv2D(padding=(1, 1, 1, 1), input_zero_point=zero_point, requant=r)
    x = (1, 5, 6, channels)
    return single(name, op, [(x, I8)], (w, ints(rng(name), (channels,), I32, -9000, 9000))), feeds(
        rng(name), (x, I8, None, None)
    )


def loud(name: str, rounding: Rounding, entries: tuple[tuple[int, int], ...], *, rows: int, depth: int) -> Case:
    """Small sums and factors up to far above 1: shifts that go left, a multiplier of 0."""
    n = len(entries)
    r = Rescale(tuple(m for m, _ in entries), tuple(s for _, s in entries), 0, -5, rounding, qmin=-120, qmax=101)
    op = FullyConnected(input_zero_point=-1, requant=r)
    random = rng(name)
    g = single(name, op, [((rows, depth), I8)], (ints(random, (n, depth), I8, -2, 2), ints(random, (n,), I32, -9, 9)))
    return g, feeds(random, ((rows, depth), I8, None, None))


def clamped(name: str, kind: str, lo: int, hi: int, zp: int) -> Case:
    """An output range of its own."""
    r = Rescale((1640531527,), (-9,), 0, zp, D, qmin=lo, qmax=hi)
    random = rng(name)
    x = (1, 6, 7, 20)
    bias = ints(random, (20,), I32, -9000, 9000)
    if kind == "conv":
        g = single(name, Conv2D(requant=r, input_zero_point=127), [(x, I8)], (ints(random, (20, 1, 1, 20)), bias))
    else:
        op = DepthwiseConv2D(requant=r, input_zero_point=127, padding=(1, 1, 1, 1))
        g = single(name, op, [(x, I8)], (ints(random, (3, 3, 20, 1)), bias))
    return g, feeds(random, (x, I8, None, None))


_A, _B, _C = tflite_add()
_SA, _SB, _SC = tflite_add(S)
_UP = ((1 << 30, 3), (1900000001, 0), (0, 2), (1518500250, -4), (1 << 30, 1), ((1 << 31) - 1, 0), (1234567891, -1))
_LEFT = Rescale((1 << 30,), (2,), 0, -3, D)

VECTOR_CASES: dict[str, Callable[[], Case]] = {}
for _c in SIZES:
    VECTOR_CASES |= _both(f"point_{_c}", partial(point, channels=_c))
    VECTOR_CASES |= _both(f"square_{_c}", partial(square, channels=_c))
    for _s in (1, 2, 3):
        for _r in (S, D):
            _name = f"vec_taps_{_c}_s{_s}_{_r.value}"
            VECTOR_CASES[_name] = partial(taps, _name, _c, _r, stride=_s)
for _n, _i, _o in ((1, 1, 1), (1, 16, 4), (2, 17, 5), (3, 100, 7), (4, 15, 6), (5, 48, 3), (9, 33, 17), (1, 640, 2)):
    for _r in (S, D):
        _name = f"vec_fc_{_n}x{_i}x{_o}_{_r.value}"
        VECTOR_CASES[_name] = partial(fc, _name, _n, _i, _o, izp=-128, rounding=_r, per_channel=_o % 2 == 1)
VECTOR_CASES |= {
    name: (lambda f=f, name=name: f(name))  # type: ignore[misc]
    for name, f in {
        "vec_conv_1x5": lambda n: conv(n, (1, 4, 11, 3), 5, (1, 5), padding=(0, 0, 2, 2), izp=9, rounding=D),
        "vec_conv_5x1": lambda n: conv(n, (1, 9, 4, 6), 8, (5, 1), padding=(2, 2, 0, 0), izp=-128),
        "vec_conv_7x7": lambda n: conv(n, (1, 9, 9, 2), 4, (7, 7), padding=(3, 3, 3, 3), izp=127, rounding=D),
        "vec_conv_kernel_over_input": lambda n: conv(n, (1, 2, 3, 8), 4, (5, 5), padding=(2, 2, 2, 2), izp=1),
        "vec_conv_1x1_padded": lambda n: conv(n, (1, 3, 4, 8), 4, (1, 1), padding=(1, 0, 0, 2), izp=77),
        "vec_conv_1x1_padded_after": lambda n: conv(n, (1, 3, 4, 20), 4, (1, 1), padding=(0, 1, 0, 1), izp=77),
        "vec_conv_1x1_s2_one_pixel": lambda n: conv(n, (1, 1, 1, 24), 9, (1, 1), stride=(2, 2), rounding=D),
        "vec_conv_1x1_s3": lambda n: conv(n, (1, 8, 10, 48), 6, (1, 1), stride=(3, 3), rounding=D),
        "vec_conv_batch_point": lambda n: conv(n, (3, 3, 3, 12), 8, (1, 1), rounding=D, izp=-128),
        "vec_conv_dilated_16": lambda n: conv(
            n, (1, 9, 9, 16), 8, (3, 3), dilation=(2, 2), padding=(2, 2, 2, 2), izp=-1
        ),
        "vec_conv_dilated_down": lambda n: conv(n, (1, 9, 6, 16), 8, (3, 2), dilation=(3, 1), izp=-1, rounding=D),
        "vec_conv_lowest_weights": lambda n: conv(
            n, (1, 5, 5, 17), 5, (3, 3), padding=(1, 1, 1, 1), izp=-128, wrange=(-128, -128), rounding=D
        ),
        "vec_conv_highest_weights": lambda n: conv(n, (1, 5, 5, 9), 5, (2, 2), izp=127, wrange=(127, 127)),
        "vec_conv_per_tensor": lambda n: conv(n, (1, 5, 5, 33), 12, (1, 1), per_channel=False, rounding=D, zp=-128),
        "vec_taps_5x5": lambda n: taps(n, 20, D, k=(5, 5)),
        "vec_taps_7x7_s2": lambda n: taps(n, 33, S, k=(7, 7), stride=2),
        "vec_taps_1x9": lambda n: taps(n, 12, D, k=(1, 9)),
        "vec_taps_9x1_s2": lambda n: taps(n, 5, S, k=(9, 1), stride=2),
        "vec_taps_2x2": lambda n: taps(n, 16, D, k=(2, 2)),
        "vec_taps_4x3": lambda n: taps(n, 7, S, k=(4, 3)),
        "vec_taps_dilated": lambda n: depthwise(
            n, (1, 9, 11, 24), (3, 3), dilation=(2, 3), padding=(2, 2, 3, 3), izp=5, rounding=D
        ),
        "vec_taps_wide": lambda n: depthwise(n, (1, 3, 40, 8), (3, 3), padding=(1, 1, 1, 1), izp=-7, rounding=D),
        "vec_taps_wide_12": lambda n: depthwise(n, (1, 3, 37, 12), (3, 3), padding=(1, 1, 0, 0), izp=-7),
        "vec_taps_batch": lambda n: depthwise(n, (3, 4, 5, 24), (3, 3), padding=(1, 1, 1, 1), rounding=D),
        "vec_taps_lowest": lambda n: heavy(n, (3, 3), 17, -128),
        "vec_taps_low": lambda n: heavy(n, (3, 3), 17, -127, 127),
        "vec_taps_highest": lambda n: heavy(n, (5, 5), 16, 127),
        "vec_taps_light": lambda n: heavy(n, (7, 7), 19, 1),
        "vec_taps_lowest_5x5": lambda n: heavy(n, (5, 5), 3, -128, 0),
        "vec_conv_clamped": lambda n: clamped(n, "conv", -50, 60, 0),
        "vec_conv_relu6": lambda n: clamped(n, "conv", -100, 44, -100),
        "vec_taps_clamped": lambda n: clamped(n, "taps", -50, 60, 0),
        "vec_taps_relu6": lambda n: clamped(n, "taps", -100, 44, -100),
        "vec_far_zero_point": lambda n: clamped(n, "conv", -128, 127, 200),
        "vec_farther_zero_point": lambda n: clamped(n, "conv", -128, 127, -5000),
        "vec_loud_row": lambda n: loud(n, S, _UP, rows=1, depth=9),
        "vec_loud_row_double": lambda n: loud(n, D, _UP, rows=2, depth=9),
        "vec_loud_rows": lambda n: loud(n, S, _UP, rows=5, depth=13),
        "vec_loud_rows_double": lambda n: loud(n, D, _UP, rows=6, depth=13),
        "vec_loud_deep": lambda n: loud(n, S, _UP, rows=5, depth=40),
        "vec_loud_deep_double": lambda n: loud(n, D, _UP, rows=7, depth=40),
        "vec_add_tail": lambda n: binary(n, Add(_A, _B, _C), (1, 1, 1, 17), (1, 1, 1, 17)),
        "vec_add_one": lambda n: binary(n, Add(_B, _A, _C), (1, 1, 1, 1), (1, 1, 1, 1)),
        "vec_add_two_tables": lambda n: binary(n, Add(_B, _B, _C), (1, 3, 5, 7), (1, 3, 5, 7)),
        "vec_add_two_tables_single": lambda n: binary(n, Add(_SB, _SB, _SC), (1, 3, 5, 7), (1, 3, 5, 7)),
        "vec_add_loud": lambda n: binary(n, Add(requant=_LEFT), (3, 7), (3, 7)),
        "vec_sub_tail": lambda n: binary(n, Sub(_A, _B, _C), (1, 2, 3, 11), (1, 2, 3, 11)),
        "vec_sub_linear_second": lambda n: binary(n, Sub(_B, _A, _C), (1, 2, 3, 11), (1, 2, 3, 11)),
        "vec_sub_two_tables": lambda n: binary(n, Sub(_SB, _SB, _SC), (1, 2, 3, 11), (1, 2, 3, 11)),
        "vec_mul_tail": lambda n: binary(n, Mul(-128, 127, Rescale((1 << 30,), (-7,), 0, 6, D)), (3, 13), (3, 13)),
        "vec_mul_relu": lambda n: binary(
            n, Mul(3, -4, Rescale((1717986918,), (-8,), 0, -128, D, qmax=90)), (67,), (67,)
        ),
        "vec_mul_single": lambda n: binary(n, Mul(127, 5, Rescale((1234567890,), (-8,))), (32,), (32,)),
        "vec_avg_pool_33": lambda n: unary(n, AvgPool2D((3, 5), (2, 1), (1, 1, 2, 2)), (2, 6, 7, 33)),
        "vec_avg_pool_up": lambda n: unary(
            n, AvgPool2D((2, 3), (2, 3), rounding=DivRounding.HALF_UP, qmin=-9, qmax=70), (1, 6, 9, 15)
        ),
        "vec_avg_pool_large": lambda n: unary(n, AvgPool2D((30, 30), (1, 1)), (1, 30, 30, 5)),
        "vec_avg_pool_long": lambda n: unary(n, AvgPool2D((2, 300), (1, 1)), (1, 2, 300, 3)),
        "vec_max_pool_17": lambda n: unary(n, MaxPool2D((3, 3), (2, 2), (1, 1, 1, 1)), (2, 7, 8, 17)),
        "vec_max_pool_clamped": lambda n: unary(n, MaxPool2D((2, 3), (1, 2), qmin=-3, qmax=5), (1, 4, 9, 64)),
        "vec_reduce_rows": lambda n: unary(n, ReduceSum((1, 2), 3, Rescale((1 << 30,), (-6,), 0, 5, D)), (2, 5, 3, 7)),
        "vec_reduce_last": lambda n: unary(
            n, ReduceSum((3,), -128, Rescale((1 << 30,), (-5,), 0, -128)), (1, 4, 3, 37)
        ),
        "vec_reduce_apart": lambda n: unary(n, ReduceSum((0, 2), 1, Rescale((1 << 30,), (-5,))), (3, 4, 3)),
        "vec_reduce_loud": lambda n: unary(n, ReduceSum((1,), 1, Rescale((1 << 30,), (1,), 0, 9, D)), (3, 2, 5)),
        "vec_table_tail": lambda n: unary(n, Table(), (1, 3, 11), I8, (ints(rng(n), (256,)),)),
        "vec_pad_rows": lambda n: unary(n, Pad(((0, 0), (2, 1), (0, 0), (0, 0)), -128), (2, 3, 5, 7)),
        "vec_pad_image": lambda n: unary(n, Pad(((0, 0), (0, 1), (1, 0), (0, 0)), 5), (2, 3, 9, 33)),
        "vec_pad_last": lambda n: unary(n, Pad(((0, 0), (1, 2)), -1), (4, 21)),
        "vec_pad_zero": lambda n: unary(n, Pad(((1, 2), (3, 1)), 0), (4, 3), I32),
        "vec_pad_uint8": lambda n: unary(n, Pad(((1, 0), (3, 1)), 200), (4, 3), DType.UINT8),
        "vec_pad_apart": lambda n: unary(n, Pad(((1, 0), (0, 0), (3, 1)), 2), (2, 4, 3)),
        "vec_pad_one_axis": lambda n: unary(n, Pad(((3, 9),), 2), (21,)),
    }.items()
}
