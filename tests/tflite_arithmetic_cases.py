"""Small .tflite models of transposed convolutions, two-operand arithmetic and reductions."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tflite_cases import RNG, Model, Q, X, conv_net, i8, i32, scales, simple, u8
from tflite_models import Net, T


def transpose_conv(
    x: tuple[int, ...],
    out: tuple[int, ...],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    same: bool = True,
    dtype: str = "int8",
    bias: bool = True,
    per_tensor: bool = False,
    activation: int = 0,
) -> Model:
    net, signed = Net(), dtype == "int8"
    shape = (out[3], *kernel, x[3])
    scale: Any = scales(out[3]) if signed and not per_tensor else 0.011
    at = net.add(i32(*out))
    w = net.add(T(shape, dtype, scale, 0 if signed else 119, 0, (i8 if signed else u8)(*shape)))
    a = net.add(T(x, dtype, 0.05, -4 if signed else 124))
    operands = [at, w, a]
    if bias:
        values = RNG.integers(-3000, 3000, out[3]).astype(np.int32)
        factors = [0.05 * s for s in scale] if isinstance(scale, list) else 0.05 * scale
        operands.append(net.add(T((out[3],), "int32", factors, 0, 0, values)))
    y = net.add(T(out, dtype, 0.31, 7 if signed else 121))
    fields = {"strideH": stride[0], "strideW": stride[1], "padding": int(not same)}
    if activation:
        fields["fusedActivationFunction"] = activation
    net.op("TRANSPOSE_CONV", operands, [y], "TransposeConvOptions", **fields)
    return net, [a], [y]


def two(name: str, b: T, out: T, options: str | None = None, a: T | None = None, **fields: Any) -> Model:
    return simple(name, [a or T(X, **Q), b], out, options, **fields)


def extreme(name: str, dtype: str, **b: Any) -> Model:
    at: dict[str, Any] = {"scale": 0.05, "zero_point": 3}
    shape = b.pop("shape", X)
    return two(name, T(shape, dtype, **at, **b), T(X, dtype, **at), "MaximumMinimumOptions", T(X, dtype, **at))


def batch_matmul(a: tuple[int, ...], b: tuple[int, ...], out: tuple[int, ...], **fields: Any) -> Model:
    y = T(out, scale=0.9, zero_point=-5)
    return two("BATCH_MATMUL", T(b, scale=0.03, zero_point=11), y, "BatchMatMulOptions", T(a, **Q), **fields)


def sum_(dtype: str, sx: float, zx: int, sy: float, zy: int) -> Model:
    y = T((1, 8, 6), dtype, sy, zy)
    return simple("SUM", [T(X, dtype, sx, zx)], y, "ReducerOptions", [i32(1)], keepDims=False)


def mean(shape: tuple[int, ...], out: tuple[int, ...], axes: T, keep: bool, dtype: str = "int8") -> Model:
    z = 0 if dtype == "int8" else 128
    y = T(out, dtype, 0.031, z + 8)
    return simple("MEAN", [T(shape, dtype, 0.05, z - 3)], y, "ReducerOptions", [axes], keepDims=keep)


CASES: dict[str, Callable[[], Model]] = {
    "transpose_conv_2x2_s2": lambda: transpose_conv((1, 5, 4, 6), (1, 10, 8, 3), (2, 2), (2, 2)),
    "transpose_conv_3x3_s2": lambda: transpose_conv((1, 5, 4, 6), (1, 10, 8, 3), (3, 3), (2, 2)),
    "transpose_conv_3x3_s2_odd": lambda: transpose_conv((1, 5, 4, 6), (1, 9, 7, 3), (3, 3), (2, 2)),
    "transpose_conv_3x3_s2_valid": lambda: transpose_conv((2, 5, 4, 6), (2, 11, 9, 3), (3, 3), (2, 2), same=False),
    "transpose_conv_valid_wider": lambda: transpose_conv((1, 5, 4, 6), (1, 12, 10, 3), (3, 3), (2, 2), same=False),
    "transpose_conv_4x4_s2": lambda: transpose_conv((1, 5, 4, 6), (1, 10, 8, 3), (4, 4), (2, 2), bias=False),
    "transpose_conv_5x3_s3x1": lambda: transpose_conv((1, 5, 4, 6), (1, 15, 4, 3), (5, 3), (3, 1)),
    "transpose_conv_1x1_s2": lambda: transpose_conv((1, 5, 4, 6), (1, 10, 8, 3), (1, 1), (2, 2)),
    "transpose_conv_2x3_s4": lambda: transpose_conv((1, 3, 4, 2), (1, 12, 16, 3), (2, 3), (4, 4)),
    "transpose_conv_7x7_s4": lambda: transpose_conv((1, 3, 4, 2), (1, 12, 16, 3), (7, 7), (4, 4), per_tensor=True),
    "transpose_conv_s1": lambda: transpose_conv((1, 5, 4, 6), (1, 5, 4, 3), (3, 4), (1, 1)),
    "transpose_conv_9x9_s3": lambda: transpose_conv((1, 5, 4, 2), (1, 15, 12, 1), (9, 9), (3, 3)),
    "transpose_conv_relu": lambda: transpose_conv((1, 5, 4, 6), (1, 10, 8, 3), (3, 3), (2, 2), activation=1),
    "transpose_conv_uint8": lambda: transpose_conv((1, 5, 4, 6), (1, 10, 8, 3), (3, 3), (2, 2), dtype="uint8"),
    "transpose_conv_uint8_valid": lambda: transpose_conv(
        (1, 5, 4, 6), (1, 11, 9, 3), (3, 3), (2, 2), same=False, dtype="uint8", bias=False
    ),
    "maximum": lambda: extreme("MAXIMUM", "int8"),
    "minimum": lambda: extreme("MINIMUM", "int8"),
    "maximum_uint8": lambda: extreme("MAXIMUM", "uint8"),
    "minimum_uint8": lambda: extreme("MINIMUM", "uint8"),
    "maximum_broadcast": lambda: extreme("MAXIMUM", "int8", shape=(1, 1, 1, 6)),
    "minimum_constant": lambda: extreme("MINIMUM", "int8", shape=(6,), data=i8(6)),
    "maximum_scalar": lambda: extreme("MAXIMUM", "int8", shape=(1,), data=np.array([17], np.int8)),
    "minimum_scalar": lambda: extreme("MINIMUM", "uint8", shape=(), data=np.array(150, np.uint8)),
    "maximum_scales": lambda: two("MAXIMUM", T(X, scale=0.09, zero_point=1), T(X, **Q), "MaximumMinimumOptions"),
    "prelu": lambda: two(
        "PRELU", T((1, 1, 6), scale=0.004, zero_point=-7, data=i8(1, 1, 6)), T(X, scale=0.04, zero_point=-20)
    ),
    "prelu_uint8": lambda: two(
        "PRELU",
        T((1, 1, 6), "uint8", 0.004, 101, data=u8(1, 1, 6)),
        T(X, "uint8", 0.06, 90),
        a=T(X, "uint8", 0.05, 118),
    ),
    "prelu_full_alpha": lambda: two(
        "PRELU", T((9, 8, 6), scale=0.008, zero_point=5, data=i8(9, 8, 6)), T(X, scale=0.04, zero_point=-20)
    ),
    "prelu_one_alpha": lambda: two(
        "PRELU", T((1, 1, 6), scale=0.002, zero_point=-128, data=np.full((1, 1, 6), -3, np.int8)), T(X, **Q)
    ),
    "squared_difference": lambda: two(
        "SQUARED_DIFFERENCE",
        T(X, scale=0.031, zero_point=9),
        T(X, scale=0.2, zero_point=-120),
        "SquaredDifferenceOptions",
    ),
    "squared_difference_broadcast": lambda: two(
        "SQUARED_DIFFERENCE", T((1, 1, 1, 6), **Q), T(X, scale=0.02, zero_point=-128), "SquaredDifferenceOptions"
    ),
    "batch_matmul": lambda: batch_matmul((4, 7), (7, 5), (4, 5)),
    "batch_matmul_batch": lambda: batch_matmul((2, 3, 4, 7), (2, 3, 7, 5), (2, 3, 4, 5)),
    "batch_matmul_adj_y": lambda: batch_matmul((2, 4, 7), (2, 5, 7), (2, 4, 5), adjY=True),
    "batch_matmul_adj_x": lambda: batch_matmul((2, 7, 4), (2, 7, 5), (2, 4, 5), adjX=True),
    "batch_matmul_broadcast": lambda: batch_matmul((3, 4, 7), (1, 7, 5), (3, 4, 5)),
    "mean_all": lambda: mean((2, 3, 4, 5), (1, 1, 1, 1), i32(0, 1, 2, 3), True),
    "mean_channels": lambda: mean(X, (1, 9, 8), i32(-1), False),
    "mean_keep_uint8": lambda: mean(X, (1, 1, 1, 6), i32(1, 2), True, "uint8"),
    "mean_swapped": lambda: mean(X, (1, 6), i32(2, 1), False),
    "mean_rows": lambda: mean((4, 300), (300,), i32(0), False),
    "mean_rank_5": lambda: mean((2, 3, 2, 4, 5), (2, 2, 5), i32(1, 3), False),
    "mean_large": lambda: mean((1, 56, 56, 3), (1, 3), i32(1, 2), False),
    "sum_uint8": lambda: sum_("uint8", 0.05, 100, 0.4, 77),
    "sum_uint8_one_scale": lambda: sum_("uint8", 0.05, 128, 0.05, 128),
    "sum_int8": lambda: sum_("int8", 0.05, -28, 0.31, 5),
    "sum_int8_one_scale": lambda: sum_("int8", 0.05, 0, 0.05, 0),
    "arg_min": lambda: simple("ARG_MIN", [T((3, 17), **Q)], T((3,), "int32"), "ArgMinOptions", [i32(-1)], outputType=2),
    "arg_max_int64": lambda: simple(
        "ARG_MAX", [T((3, 17), "uint8", 0.1, 3)], T((3,), "int64"), "ArgMaxOptions", [i32(1)], outputType=4
    ),
    "fully_connected_keep_dims": lambda: conv_net(
        T((2, 3, 40), **Q),
        T((9, 40), "int8", 0.013, 0, 0, i8(9, 40)),
        T((2, 3, 9), "int8", 0.6, 5),
        "FULLY_CONNECTED",
        keepNumDims=True,
    ),
    "fully_connected_rank_4": lambda: conv_net(
        T((2, 2, 2, 10), **Q), T((9, 40), "int8", 0.013, 0, 0, i8(9, 40)), T((2, 9), "int8", 0.6, 5), "FULLY_CONNECTED"
    ),
    "depthwise_dilated": lambda: conv_net(
        T(X, **Q),
        T((1, 3, 3, 12), "int8", scales(12), 0, 3, i8(1, 3, 3, 12)),
        T((1, 9, 8, 12), "int8", 0.3, 7),
        "DEPTHWISE_CONV_2D",
        depthMultiplier=2,
        dilationHFactor=2,
        dilationWFactor=3,
    ),
    "conv_per_tensor": lambda: conv_net(
        T(X, **Q), T((5, 3, 3, 6), "int8", 0.008, 0, 0, i8(5, 3, 3, 6)), T((1, 9, 8, 5), "int8", 0.9, 7)
    ),
}
