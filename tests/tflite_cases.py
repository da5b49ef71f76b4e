"""One small .tflite model per operator and option, for comparison with LiteRT's reference kernels."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tflite_models import Net, T

from bitship.graph.base import Array

Model = tuple[Net, list[int], list[int]]

RNG = np.random.default_rng(7)


def i8(*shape: int) -> Array:
    return RNG.integers(-128, 128, shape).astype(np.int8)


def u8(*shape: int) -> Array:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def i32(*values: int) -> T:
    return T((len(values),), "int32", data=np.array(values, np.int32))


def conv_net(x: T, w: T, out: T, name: str = "CONV_2D", **fields: Any) -> Model:
    net = Net()
    channels = w.shape[3] if name.startswith("DEPTH") else w.shape[0]
    weight_scales = w.scale if isinstance(w.scale, list) else [w.scale or 0.0]
    assert isinstance(x.scale, float)
    bias = T(
        (channels,),
        "int32",
        [x.scale * s for s in weight_scales],
        0,
        0,
        RNG.integers(-3000, 3000, channels).astype(np.int32),
    )
    a, b, c, y = net.add(x), net.add(w), net.add(bias), net.add(out)
    options = {
        "CONV_2D": "Conv2DOptions",
        "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
        "FULLY_CONNECTED": "FullyConnectedOptions",
    }
    if name != "FULLY_CONNECTED":
        fields = {"strideH": 1, "strideW": 1, "padding": 0, **fields}
    net.op(name, [a, b, c], [y], options[name], **fields)
    return net, [a], [y]


def scales(n: int) -> list[float]:
    return [float(v) for v in RNG.uniform(0.002, 0.02, n)]


def simple(
    name: str,
    inputs: list[T],
    out: T,
    options: str | None = None,
    extra: list[T] | None = None,
    first: bool = False,
    **fields: Any,
) -> Model:
    net = Net()
    a = [net.add(t) for t in inputs]
    e = [net.add(t) for t in extra or []]
    y = net.add(out)
    net.op(name, e + a if first else a + e, [y], options, **fields)
    return net, [i for i, t in zip(a, inputs, strict=True) if t.data is None], [y]


def multi(name: str, x: T, outs: list[T], options: str, extra: list[T], first: bool, **fields: Any) -> Model:
    net = Net()
    a = net.add(x)
    e = [net.add(t) for t in extra]
    ys = [net.add(t) for t in outs]
    net.op(name, [*e, a] if first else [a, *e], ys, options, **fields)
    return net, [a], ys


X = (1, 9, 8, 6)
Q: dict[str, Any] = {"scale": 0.05, "zero_point": -4}
CASES: dict[str, Callable[[], Model]] = {
    "conv_same_relu6": lambda: conv_net(
        T(X, **Q),
        T((5, 3, 3, 6), "int8", scales(5), 0, 0, i8(5, 3, 3, 6)),
        T((1, 9, 8, 5), "int8", 0.9, 7),
        fusedActivationFunction=3,
    ),
    "conv_stride_relu": lambda: conv_net(
        T(X, **Q),
        T((5, 3, 2, 6), "int8", scales(5), 0, 0, i8(5, 3, 2, 6)),
        T((1, 5, 4, 5), "int8", 0.9, -100),
        fusedActivationFunction=1,
        strideH=2,
        strideW=2,
    ),
    "conv_valid_dilated": lambda: conv_net(
        T(X, **Q),
        T((5, 3, 2, 6), "int8", scales(5), 0, 0, i8(5, 3, 2, 6)),
        T((1, 5, 6, 5), "int8", 0.9, 1),
        padding=1,
        dilationHFactor=2,
        dilationWFactor=2,
    ),
    "conv_grouped": lambda: conv_net(
        T(X, **Q), T((4, 3, 3, 3), "int8", scales(4), 0, 0, i8(4, 3, 3, 3)), T((1, 9, 8, 4), "int8", 0.4, 1)
    ),
    "conv_uint8": lambda: conv_net(
        T(X, "uint8", 0.02, 120),
        T((5, 3, 3, 6), "uint8", 0.011, 131, 0, u8(5, 3, 3, 6)),
        T((1, 9, 8, 5), "uint8", 0.7, 30),
        fusedActivationFunction=1,
    ),
    "depthwise": lambda: conv_net(
        T(X, **Q),
        T((1, 3, 3, 6), "int8", scales(6), 0, 3, i8(1, 3, 3, 6)),
        T((1, 9, 8, 6), "int8", 0.3, 7),
        "DEPTHWISE_CONV_2D",
        depthMultiplier=1,
    ),
    "depthwise_multiplier": lambda: conv_net(
        T(X, **Q),
        T((1, 5, 3, 12), "int8", scales(12), 0, 3, i8(1, 5, 3, 12)),
        T((1, 5, 4, 12), "int8", 0.3, 7),
        "DEPTHWISE_CONV_2D",
        depthMultiplier=2,
        strideH=2,
        strideW=2,
    ),
    "depthwise_uint8": lambda: conv_net(
        T(X, "uint8", 0.02, 120),
        T((1, 3, 3, 6), "uint8", 0.011, 131, 0, u8(1, 3, 3, 6)),
        T((1, 9, 8, 6), "uint8", 0.2, 90),
        "DEPTHWISE_CONV_2D",
        depthMultiplier=1,
    ),
    "fully_connected": lambda: conv_net(
        T((3, 40), **Q), T((9, 40), "int8", 0.013, 0, 0, i8(9, 40)), T((3, 9), "int8", 0.6, 5), "FULLY_CONNECTED"
    ),
    "fully_connected_relu": lambda: conv_net(
        T((1, 300), **Q),
        T((64, 300), "int8", 0.013, 0, 0, i8(64, 300)),
        T((1, 64), "int8", 0.9, -128),
        "FULLY_CONNECTED",
        fusedActivationFunction=1,
    ),
    "fully_connected_per_channel": lambda: conv_net(
        T((2, 300), **Q),
        T((64, 300), "int8", scales(64), 0, 0, i8(64, 300)),
        T((2, 64), "int8", 0.5, 3),
        "FULLY_CONNECTED",
    ),
    "fully_connected_uint8": lambda: conv_net(
        T((2, 300), "uint8", 0.05, 100),
        T((64, 300), "uint8", 0.013, 120, 0, u8(64, 300)),
        T((2, 64), "uint8", 0.7, 128),
        "FULLY_CONNECTED",
    ),
    "add": lambda: simple(
        "ADD", [T(X, **Q), T(X, scale=0.081, zero_point=9)], T(X, scale=0.09, zero_point=-3), "AddOptions"
    ),
    "add_relu_constant": lambda: simple(
        "ADD",
        [T(X, **Q), T((6,), scale=0.03, zero_point=9, data=i8(6))],
        T(X, scale=0.04, zero_point=-3),
        "AddOptions",
        fusedActivationFunction=1,
    ),
    "add_uint8": lambda: simple(
        "ADD", [T(X, "uint8", 0.05, 3), T(X, "uint8", 0.051, 250)], T(X, "uint8", 0.07, 130), "AddOptions"
    ),
    "sub": lambda: simple(
        "SUB", [T(X, **Q), T((1, 9, 1, 6), scale=0.081, zero_point=9)], T(X, scale=0.09, zero_point=-3), "SubOptions"
    ),
    "mul": lambda: simple(
        "MUL", [T(X, **Q), T(X, scale=0.0081, zero_point=9)], T(X, scale=0.02, zero_point=-3), "MulOptions"
    ),
    "mul_gate": lambda: simple(
        "MUL",
        [T(X, **Q), T((1, 1, 1, 6), scale=0.00390625, zero_point=-128)],
        T(X, scale=0.03, zero_point=-3),
        "MulOptions",
        fusedActivationFunction=3,
    ),
    "quantize": lambda: simple("QUANTIZE", [T(X, **Q)], T(X, scale=0.03, zero_point=11)),
    "quantize_unsigned": lambda: simple("QUANTIZE", [T(X, "uint8", 0.03, 120)], T(X, "int8", 0.03, -8)),
    "logistic": lambda: simple(
        "LOGISTIC", [T((1, 256), scale=0.06, zero_point=-3)], T((1, 256), scale=1 / 256, zero_point=-128)
    ),
    "tanh": lambda: simple("TANH", [T((1, 256), scale=0.03, zero_point=5)], T((1, 256), scale=1 / 128, zero_point=0)),
    "hard_swish": lambda: simple(
        "HARD_SWISH", [T((1, 256), scale=0.06, zero_point=-3)], T((1, 256), scale=0.04, zero_point=-110)
    ),
    "hard_swish_wide": lambda: simple(
        "HARD_SWISH", [T((1, 256), scale=0.4, zero_point=20)], T((1, 256), scale=0.3, zero_point=-110)
    ),
    "relu": lambda: simple("RELU", [T((1, 256), scale=0.06, zero_point=-3)], T((1, 256), scale=0.04, zero_point=-120)),
    "relu6": lambda: simple(
        "RELU6", [T((1, 256), scale=0.06, zero_point=-3)], T((1, 256), scale=0.024, zero_point=-120)
    ),
    "relu_n1_to_1": lambda: simple(
        "RELU_N1_TO_1", [T((1, 256), scale=0.06, zero_point=-3)], T((1, 256), scale=0.01, zero_point=2)
    ),
    "leaky_relu": lambda: simple(
        "LEAKY_RELU",
        [T((1, 256), scale=0.06, zero_point=-3)],
        T((1, 256), scale=0.05, zero_point=-90),
        "LeakyReluOptions",
        alpha=0.2,
    ),
    "avg_pool": lambda: simple(
        "AVERAGE_POOL_2D",
        [T(X, **Q)],
        T((1, 5, 4, 6), **Q),
        "Pool2DOptions",
        filterHeight=3,
        filterWidth=2,
        strideH=2,
        strideW=2,
        padding=0,
    ),
    "avg_pool_uint8": lambda: simple(
        "AVERAGE_POOL_2D",
        [T(X, "uint8", 0.05, 7)],
        T((1, 4, 4, 6), "uint8", 0.05, 7),
        "Pool2DOptions",
        filterHeight=2,
        filterWidth=2,
        strideH=2,
        strideW=2,
        padding=1,
    ),
    "max_pool": lambda: simple(
        "MAX_POOL_2D",
        [T(X, **Q)],
        T((1, 5, 4, 6), **Q),
        "Pool2DOptions",
        filterHeight=3,
        filterWidth=3,
        strideH=2,
        strideW=2,
        padding=0,
        fusedActivationFunction=1,
    ),
    "mean": lambda: simple(
        "MEAN", [T(X, **Q)], T((1, 1, 1, 6), scale=0.03, zero_point=8), "ReducerOptions", [i32(1, 2)], keepDims=True
    ),
    "mean_one_axis": lambda: simple("MEAN", [T(X, **Q)], T((1, 9, 6), **Q), "ReducerOptions", [i32(2)], keepDims=False),
    "reduce_max": lambda: simple(
        "REDUCE_MAX", [T(X, **Q)], T((1, 9, 6), **Q), "ReducerOptions", [i32(2)], keepDims=False
    ),
    "reduce_min": lambda: simple(
        "REDUCE_MIN", [T(X, **Q)], T((1, 1, 8, 6), **Q), "ReducerOptions", [i32(1)], keepDims=True
    ),
    "arg_max": lambda: simple("ARG_MAX", [T((3, 17), **Q)], T((3,), "int32"), "ArgMaxOptions", [i32(1)], outputType=2),
    "softmax": lambda: simple(
        "SOFTMAX",
        [T((3, 17), scale=0.09, zero_point=3)],
        T((3, 17), scale=1 / 256, zero_point=-128),
        "SoftmaxOptions",
        beta=1.0,
    ),
    "softmax_steep": lambda: simple(
        "SOFTMAX",
        [T((2, 1001), scale=0.6, zero_point=3)],
        T((2, 1001), scale=1 / 256, zero_point=-128),
        "SoftmaxOptions",
        beta=0.7,
    ),
    "softmax_uint8": lambda: simple(
        "SOFTMAX", [T((3, 17), "uint8", 0.19, 3)], T((3, 17), "uint8", 1 / 256, 0), "SoftmaxOptions", beta=1.0
    ),
    "reshape": lambda: simple(
        "RESHAPE", [T(X, **Q)], T((8, 54), **Q), "ReshapeOptions", [i32(8, 54)], newShape=[8, 54]
    ),
    "transpose": lambda: simple("TRANSPOSE", [T(X, **Q)], T((1, 6, 9, 8), **Q), "TransposeOptions", [i32(0, 3, 1, 2)]),
    "pad": lambda: simple(
        "PAD",
        [T(X, **Q)],
        T((1, 12, 9, 6), **Q),
        "PadOptions",
        [T((4, 2), "int32", data=np.array([[0, 0], [1, 2], [0, 1], [0, 0]], np.int32))],
    ),
    "concat": lambda: simple(
        "CONCATENATION", [T(X, **Q), T((1, 9, 8, 3), **Q)], T((1, 9, 8, 9), **Q), "ConcatenationOptions", axis=-1
    ),
    "pack": lambda: simple(
        "PACK", [T((4, 5), **Q), T((4, 5), **Q)], T((4, 2, 5), **Q), "PackOptions", axis=1, valuesCount=2
    ),
    "unpack": lambda: multi(
        "UNPACK", T((4, 2, 5), **Q), [T((4, 5), **Q), T((4, 5), **Q)], "UnpackOptions", [], False, axis=1, num=2
    ),
    "split": lambda: multi(
        "SPLIT",
        T((4, 6, 5), **Q),
        [T((4, 3, 5), **Q), T((4, 3, 5), **Q)],
        "SplitOptions",
        [T((), "int32", data=np.array(1, np.int32))],
        True,
        numSplits=2,
    ),
    "slice": lambda: simple(
        "SLICE", [T(X, **Q)], T((1, 4, 8, 2), **Q), "SliceOptions", [i32(0, 2, 0, 1), i32(1, 4, -1, 2)]
    ),
    "strided_slice": lambda: simple(
        "STRIDED_SLICE",
        [T(X, **Q)],
        T((9, 4, 2), **Q),
        "StridedSliceOptions",
        [i32(0, 0, 1, 4), i32(1, 9, 8, 6), i32(1, 1, 2, 1)],
        beginMask=2,
        endMask=2,
        shrinkAxisMask=1,
    ),
    "gather": lambda: simple("GATHER", [T((5, 4), **Q)], T((3, 4), **Q), "GatherOptions", [i32(4, 0, 2)], axis=0),
    "resize_bilinear": lambda: simple(
        "RESIZE_BILINEAR", [T((1, 5, 4, 3), **Q)], T((1, 9, 8, 3), **Q), "ResizeBilinearOptions", [i32(9, 8)]
    ),
    "resize_bilinear_half": lambda: simple(
        "RESIZE_BILINEAR",
        [T((1, 5, 4, 3), **Q)],
        T((1, 13, 8, 3), **Q),
        "ResizeBilinearOptions",
        [i32(13, 8)],
        halfPixelCenters=True,
    ),
    "resize_bilinear_align": lambda: simple(
        "RESIZE_BILINEAR",
        [T((1, 5, 4, 3), **Q)],
        T((1, 3, 11, 3), **Q),
        "ResizeBilinearOptions",
        [i32(3, 11)],
        alignCorners=True,
    ),
    "resize_nearest": lambda: simple(
        "RESIZE_NEAREST_NEIGHBOR",
        [T((1, 5, 4, 3), **Q)],
        T((1, 9, 3, 3), **Q),
        "ResizeNearestNeighborOptions",
        [i32(9, 3)],
    ),
    "resize_nearest_half": lambda: simple(
        "RESIZE_NEAREST_NEIGHBOR",
        [T((1, 5, 4, 3), **Q)],
        T((1, 9, 3, 3), **Q),
        "ResizeNearestNeighborOptions",
        [i32(9, 3)],
        halfPixelCenters=True,
    ),
}
