"""Single-op graphs with inputs that reach the corners: the same vectors for the spec, C, every converter, every device.

``CASES`` maps a case's name to a function of no arguments that gives (graph, list of input tuples).
"""

from collections.abc import Callable

import int4_cases
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
    gather,
    ints,
    matmul,
    requant,
    resize,
    rng,
    softmax,
    tflite_add,
    unary,
)

from bitship.graph import DType
from bitship.graph.base import Array
from bitship.graph.ops import (
    Add,
    ArgMax,
    ArithmeticRightShift,
    AvgPool2D,
    AxisMap,
    Cast,
    Clamp,
    Concat,
    DivRounding,
    LogicalLeftShift,
    MaxPool2D,
    Mul,
    Pad,
    ReduceAny,
    ReduceMax,
    ReduceMin,
    ReduceSum,
    Rescale,
    Reshape,
    Resize,
    ShiftRounding,
    Slice,
    Sub,
    Table,
    Transpose,
)


def _table(dtype: DType) -> Array:
    return ints(rng("table"), (256,), dtype)


_RS = requant(rng("rs"), 1, 0.013, S, 4)
_R32 = Rescale((1518500250,), (-6,), -5, 2, D, dtype=I16, qmin=-20000, qmax=32767)
_A, _B, _C = tflite_add()
_SA, _SB, _SC = tflite_add(S)

CASES: dict[str, Callable[[], Case]] = {
    name: (lambda f=f, name=name: f(name))
    for name, f in {
        "conv_3x3": lambda n: conv(n, (1, 9, 7, 5), 6, (3, 3), padding=(1, 1, 1, 1), izp=-128),
        "conv_3x3_double": lambda n: conv(n, (1, 8, 8, 16), 16, (3, 3), padding=(1, 1, 1, 1), izp=3, rounding=D),
        "conv_3x3_s2_rgb": lambda n: conv(
            n, (2, 15, 13, 3), 8, (3, 3), stride=(2, 2), padding=(0, 1, 0, 1), izp=-1, clamp=(-128, 60)
        ),
        "conv_1x1": lambda n: conv(n, (1, 5, 5, 24), 20, (1, 1), izp=-128, zp=-128),
        "conv_1x1_double": lambda n: conv(n, (1, 6, 7, 17), 33, (1, 1), izp=127, rounding=D, zp=-3),
        "conv_1x1_wide": lambda n: conv(n, (1, 4, 4, 64), 96, (1, 1), izp=-5, rounding=D),
        "conv_1x1_s2": lambda n: conv(n, (1, 7, 7, 8), 12, (1, 1), stride=(2, 2), per_channel=False),
        "conv_5x3_dilated": lambda n: conv(n, (1, 14, 12, 4), 5, (5, 3), dilation=(2, 3), padding=(2, 1, 0, 3), izp=9),
        "conv_grouped": lambda n: conv(n, (1, 6, 6, 12), 8, (3, 3), groups=4, padding=(1, 1, 1, 1), izp=-20),
        "conv_weight_zero_point": lambda n: conv(
            n, (1, 6, 5, 6), 7, (3, 3), padding=(0, 1, 1, 0), izp=-11, wzp=23, per_channel=False, rounding=D
        ),
        "conv_10x4_one_channel": lambda n: conv(
            n, (1, 25, 10, 1), 8, (10, 4), stride=(2, 2), padding=(4, 5, 1, 1), izp=83
        ),
        "conv_int32_out": lambda n: conv(n, (1, 5, 4, 8), 6, (3, 3), epilogue=False, izp=-128),
        "conv_int16_in": lambda n: conv(
            n, (1, 5, 4, 6), 5, (3, 3), xtype=I16, otype=I16, wrange=(-9, 9), padding=(1, 1, 1, 1), zp=0
        ),
        "conv_int16_to_int8": lambda n: conv(n, (1, 5, 4, 6), 5, (1, 1), xtype=I16, wrange=(-9, 9)),
        "conv_int8_to_int16": lambda n: conv(n, (1, 5, 4, 6), 5, (3, 3), otype=I16),
        "conv_batch": lambda n: conv(n, (3, 4, 4, 4), 4, (2, 2), stride=(2, 1)),
        "conv_one_pixel": lambda n: conv(n, (1, 1, 1, 40), 30, (1, 1), rounding=D),
        "dw_3x3": lambda n: depthwise(n, (1, 9, 8, 5), (3, 3), padding=(1, 1, 1, 1), izp=-128),
        "dw_3x3_double": lambda n: depthwise(n, (1, 11, 10, 32), (3, 3), padding=(1, 1, 1, 1), izp=-128, rounding=D),
        "dw_3x3_s2": lambda n: depthwise(
            n, (2, 10, 9, 16), (3, 3), stride=(2, 2), padding=(0, 1, 0, 1), izp=4, rounding=D
        ),
        "dw_1x1": lambda n: depthwise(n, (2, 3, 5, 19), (1, 1), izp=5),
        "dw_5x5": lambda n: depthwise(n, (1, 9, 9, 24), (5, 5), padding=(2, 2, 2, 2), izp=-3),
        "dw_7x7_s2": lambda n: depthwise(n, (1, 13, 13, 6), (7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
        "dw_multiplier": lambda n: depthwise(n, (1, 6, 6, 3), (3, 3), 4, padding=(1, 1, 1, 1), izp=7),
        "dw_dilated": lambda n: depthwise(n, (1, 12, 9, 7), (3, 3), dilation=(2, 2), padding=(2, 2, 2, 2), izp=100),
        "dw_weight_zero_point": lambda n: depthwise(
            n, (1, 6, 5, 8), (3, 3), wzp=-30, izp=1, padding=(1, 1, 1, 1), per_channel=False, rounding=D
        ),
        "dw_int32_out": lambda n: depthwise(n, (1, 5, 5, 4), (3, 1), epilogue=False),
        "dw_int16_in": lambda n: depthwise(n, (1, 6, 5, 3), (3, 3), xtype=I16, padding=(1, 1, 1, 1)),
        "dw_1d": lambda n: depthwise(n, (1, 30, 1, 40), (5, 1), padding=(2, 2, 0, 0), izp=-128),
        "fc": lambda n: fc(n, 1, 64, 10, izp=-128),
        "fc_double": lambda n: fc(n, 1, 33, 17, izp=12, rounding=D),
        "fc_batch_per_channel": lambda n: fc(n, 5, 20, 9, per_channel=True),
        "fc_weight_zero_point": lambda n: fc(n, 2, 21, 6, izp=-2, wzp=5),
        "fc_int32_out": lambda n: fc(n, 1, 40, 7, epilogue=False),
        "matmul": lambda n: matmul(n, 2, 7, 9, 5, azp=3, bzp=-4),
        "matmul_int32_out": lambda n: matmul(n, 1, 4, 16, 6, epilogue=False),
        "matmul_int16": lambda n: matmul(n, 1, 4, 16, 6, atype=I16, azp=0),
        "matmul_constant": lambda n: matmul(n, 1, 6, 32, 16, constant_b=True),
        "rescale_int8": lambda n: unary(n, Rescale((1417339207,), (0,), -7, 9, S), (2, 5, 3)),
        "rescale_up": lambda n: unary(
            n, Rescale((1288490189,), (3,), 4, 0, D, dtype=I16, qmin=-32768, qmax=32767), (40,)
        ),
        "rescale_uint8": lambda n: unary(n, Rescale((1 << 30,), (1,), 128, 0), (3, 4), DType.UINT8),
        "rescale_to_uint8": lambda n: unary(
            n, Rescale((1 << 30,), (1,), 0, 128, D, dtype=DType.UINT8, qmin=0, qmax=255), (3, 4)
        ),
        "rescale_int32": lambda n: unary(n, _R32, (6, 11), I32, (), -(1 << 30), 1 << 30),
        "rescale_channels": lambda n: unary(
            n, requant(rng(n), 7, 1e-6, D, 2), (1, 3, 2, 7), I32, (), -(1 << 30), 1 << 30
        ),
        "rescale_channels_single": lambda n: unary(
            n, requant(rng(n), 19, 1e-6, S, 2), (1, 3, 2, 19), I32, (), -(1 << 30), 1 << 30
        ),
        "rescale_far_down": lambda n: unary(n, Rescale((1 << 30, (1 << 31) - 1), (-31, -30), 0, 0, S), (5, 2), I32),
        "add_tflite": lambda n: binary(n, Add(_A, _B, _C), (1, 5, 4, 7), (1, 5, 4, 7)),
        "add_single": lambda n: binary(n, Add(_SA, _SB, _SC), (1, 5, 4, 33), (1, 5, 4, 33)),
        "add_broadcast": lambda n: binary(n, Add(_A, _B, _C), (1, 5, 4, 7), (1, 1, 1, 7)),
        "add_broadcast_both": lambda n: binary(n, Add(_A, _B, _C), (2, 1, 4, 1), (1, 5, 1, 7)),
        "add_raw": lambda n: binary(n, Add(), (3, 5), (3, 5), I32, I32, 1 << 29),
        "add_int8_raw": lambda n: binary(n, Add(requant=_RS), (3, 5), (3, 5)),
        "sub_tflite": lambda n: binary(n, Sub(_A, _B, _C), (1, 5, 4, 7), (1, 5, 4, 7)),
        "sub_scalar": lambda n: binary(n, Sub(_A, _B, _C), (1, 5, 4, 7), (1, 1, 1, 1)),
        "mul": lambda n: binary(n, Mul(-128, 5, requant(rng(n), 1, 0.004, D, 6)), (1, 4, 4, 18), (1, 4, 4, 18)),
        "mul_broadcast": lambda n: binary(
            n, Mul(3, -128, requant(rng(n), 1, 0.004, S, -6)), (1, 4, 4, 18), (1, 1, 1, 18)
        ),
        "mul_int32": lambda n: binary(n, Mul(), (7,), (7,), I16, I16),
        "table_int8": lambda n: unary(n, Table(), (2, 3, 50), I8, (_table(I8),)),
        "table_int16": lambda n: unary(n, Table(), (300,), I8, (_table(I16),)),
        "clamp": lambda n: unary(n, Clamp(-3, 77), (4, 33)),
        "clamp_int32": lambda n: unary(n, Clamp(-100, 70000), (4, 5), I32),
        "cast_widen": lambda n: unary(n, Cast(I32), (4, 5)),
        "cast_narrow": lambda n: unary(n, Cast(I8), (4, 5), I32),
        "shift_left": lambda n: unary(n, LogicalLeftShift(5), (9,), I32, (), -(1 << 25), 1 << 25),
        "shift_right": lambda n: unary(n, ArithmeticRightShift(7), (90,), I32),
        "shift_right_half_up": lambda n: unary(n, ArithmeticRightShift(3, ShiftRounding.HALF_UP), (90,)),
        "avg_pool": lambda n: unary(n, AvgPool2D((3, 3), (2, 2), (1, 1, 1, 1)), (2, 7, 8, 5)),
        "avg_pool_even": lambda n: unary(n, AvgPool2D((2, 2), (2, 2)), (1, 6, 8, 17)),
        "avg_pool_even_up": lambda n: unary(
            n, AvgPool2D((2, 2), (1, 2), rounding=DivRounding.HALF_UP, qmin=-100, qmax=90), (1, 6, 8, 5)
        ),
        "avg_pool_global": lambda n: unary(n, AvgPool2D((4, 6), (1, 1)), (1, 4, 6, 20)),
        "max_pool": lambda n: unary(n, MaxPool2D((3, 2), (2, 1), (1, 0, 0, 1)), (2, 7, 8, 5)),
        "max_pool_clamped": lambda n: unary(n, MaxPool2D((2, 2), (2, 2), qmin=-20, qmax=30), (1, 6, 6, 33)),
        "reduce_sum_mean": lambda n: unary(
            n, ReduceSum((1, 2), -128, requant(rng(n), 1, 1 / 30, D, -1)), (1, 5, 6, 19)
        ),
        "reduce_sum_last": lambda n: unary(n, ReduceSum((2,), 7, requant(rng(n), 1, 1 / 9, S, -1)), (2, 5, 9)),
        "reduce_sum_last_large": lambda n: unary(n, ReduceSum((1,)), (2, 600), I32, (), -(1 << 21), 1 << 21),
        "reduce_sum_raw": lambda n: unary(n, ReduceSum((0, 2)), (3, 5, 9), I16),
        "reduce_max": lambda n: unary(n, ReduceMax((1,)), (2, 6, 7)),
        "reduce_min": lambda n: unary(n, ReduceMin((0, 2)), (2, 6, 7), I32),
        "reduce_any": lambda n: unary(n, ReduceAny((1,)), (5, 6), DType.BOOL),
        "argmax_last": lambda n: unary(n, ArgMax(1), (4, 13)),
        "argmax_middle": lambda n: unary(n, ArgMax(1), (2, 9, 5)),
        "pad": lambda n: unary(n, Pad(((0, 0), (1, 2), (3, 0), (0, 0)), -77), (1, 4, 3, 5)),
        "pad_channels": lambda n: unary(n, Pad(((1, 0), (0, 2)), 9), (4, 3), I32),
        "concat_last": lambda n: binary(n, Concat(3), (1, 4, 3, 5), (1, 4, 3, 2)),
        "concat_first": lambda n: binary(n, Concat(1), (2, 4, 3), (2, 1, 3), I16, I16),
        "slice": lambda n: unary(n, Slice((0, 1, 2), (2, 3, 4)), (2, 5, 7)),
        "slice_strided": lambda n: unary(n, Slice((0, 1, 0), (2, 2, 3), (1, 2, 3)), (2, 5, 7)),
        "reshape": lambda n: unary(n, Reshape((3, 4, 2)), (2, 12)),
        "transpose_nhwc_nchw": lambda n: unary(n, Transpose((0, 3, 1, 2)), (2, 4, 3, 5)),
        "transpose_2d": lambda n: unary(n, Transpose((1, 0)), (6, 11), I32),
        "gather": gather,
        "resize_nearest": lambda n: resize(n, (1, 3, 5, 4), (6, 10), 0),
        "resize_bilinear": lambda n: resize(n, (2, 3, 5, 4), (7, 9), 10),
        "resize_down": lambda n: resize(n, (1, 9, 8, 17), (4, 5), 10),
        "avg_pool_int16": lambda n: unary(n, AvgPool2D((2, 3), (1, 1), (1, 0, 0, 1), -30000, 30000), (1, 5, 4, 3), I16),
        "resize_takes_the_second": lambda n: unary(
            n, Resize(AxisMap((0, 1), (2, 0), (1, 0)), AxisMap((1, 1, 0), (0, 2, 1), (0, 1, 1))), (1, 3, 3, 5)
        ),
        "add_channels": lambda n: binary(
            n, Add(None, None, requant(rng(n), 21, 0.4, D, 6)), (1, 3, 4, 21), (1, 1, 4, 21)
        ),
        "sub_channels": lambda n: binary(n, Sub(_A, _B, requant(rng(n), 5, 1e-6, S, 6)), (2, 3, 5), (2, 3, 5)),
        "mul_channels": lambda n: binary(n, Mul(3, -9, requant(rng(n), 19, 0.004, S, 6)), (1, 4, 19), (1, 4, 1)),
        "reduce_sum_channels": lambda n: unary(n, ReduceSum((1, 2), 7, requant(rng(n), 18, 0.02, D, 1)), (2, 5, 6, 18)),
        "scalar_mul": lambda n: binary(n, Mul(-7, 9), (), (), I16, I8),
        "scalar_add": lambda n: binary(n, Add(_A, _B, _C), (), ()),
        "scalar_rescale": lambda n: unary(n, Rescale((1417339207,), (0,), -7, 9, D), ()),
        "scalar_slice": lambda n: unary(n, Slice((), ()), ()),
        "scalar_transpose": lambda n: unary(n, Transpose(()), (), I32),
        "scalar_pad": lambda n: unary(n, Pad((), 3), ()),
        "scalar_reshape": lambda n: unary(n, Reshape(()), (1, 1)),
        "scalar_argmax": lambda n: unary(n, ArgMax(0), (19,)),
        "softmax_flat": lambda n: softmax(n, (1, 4095), 0.0),
        "softmax_nearly_flat": lambda n: softmax(n, (1, 4000), 0.003),
        "softmax": lambda n: softmax(n, (3, 12), 0.06),
        "softmax_wide": lambda n: softmax(n, (1, 1001), 0.11),
        "softmax_one": lambda n: softmax(n, (4, 1), 0.2),
        "softmax_steep": lambda n: softmax(n, (2, 2, 9), 1.5),
    }.items()
} | int4_cases.CASES
