"""Blocks of real networks as .tflite models, and what joins operators: LiteRT judges every byte."""

from typing import Any

import numpy as np
import pytest
from tflite_cases import RNG, i8, i32, scales, u8
from tflite_layout_cases import pairs, scalar
from tflite_models import Net, Reference, T, encode

from bitship.converters.tflite.lower import lower
from bitship.errors import UnsupportedError
from bitship.graph import Graph, host, spec
from bitship.graph.base import Array
from bitship.importers import tflite

pytest.importorskip("ai_edge_litert", reason="LiteRT judges these tests")


class Block(Net):
    """A model written layer by layer; every layer's result gets a scale near its own."""

    def __init__(self, dtype: str = "int8") -> None:
        super().__init__()
        self.dtype = dtype
        self.zero = 0 if dtype == "int8" else 128

    def tensor(
        self, shape: tuple[int, ...], scale: float = 0.05, zero_point: int = 3, data: Array | None = None
    ) -> int:
        return self.add(T(shape, self.dtype, scale, self.zero + zero_point, data=data))

    def layer(self, name: str, ins: list[int], y: int, options: str | None = None, **fields: Any) -> int:
        self.op(name, ins, [y], options, **fields)
        return y

    def codes(self, *shape: int) -> Array:
        return i8(*shape) if self.dtype == "int8" else u8(*shape)

    def conv(
        self, x: int, channels: int, kernel: int = 1, scale: float = 0.2, name: str = "CONV_2D", **more: Any
    ) -> int:
        n, h, w, c = self.tensors[x].shape
        stride = more.get("strideH", 1)
        depthwise = name == "DEPTHWISE_CONV_2D"
        shape = (1, kernel, kernel, channels) if depthwise else (channels, kernel, kernel, c)
        factors: Any = scales(channels) if self.dtype == "int8" else 0.011
        weights = self.codes(*shape)
        at = self.add(T(shape, self.dtype, factors, self.zero and 119, 3 if depthwise else 0, weights))
        source = self.tensors[x].scale
        assert isinstance(source, float)
        bias_scale = [source * f for f in factors] if isinstance(factors, list) else source * factors
        bias = self.add(T((channels,), "int32", bias_scale, data=RNG.integers(-999, 999, channels).astype(np.int32)))
        if more.get("padding", 0) == 1:
            reach = (kernel - 1) * more.get("dilationHFactor", 1)
            h, w = h - reach, w - reach
        y = self.tensor((n, -(-h // stride), -(-w // stride), channels), scale, -90)
        fields = {"strideH": stride, "strideW": stride, "padding": 0, "fusedActivationFunction": 1, **more}
        if depthwise:
            fields["depthMultiplier"] = channels // c
        kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        return self.layer(name, [x, at, bias], y, kind, **fields)


def agree(net: Net, inputs: list[int], outputs: list[int], rounds: int = 3) -> Graph:
    data = encode(net, inputs, outputs)
    graph, reference = tflite.loads(data, "m"), Reference(data)
    written = Reference(lower(graph).data)
    for _ in range(rounds):
        feeds = [(i8 if net.tensors[i].dtype == "int8" else u8)(*net.tensors[i].shape) for i in inputs]
        for mine, in_c, again, theirs in zip(
            spec.run(graph, *feeds), host.run(graph, *feeds), written.run(*feeds), reference.run(*feeds), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
            np.testing.assert_array_equal(in_c, theirs)
            np.testing.assert_array_equal(again.reshape(theirs.shape), theirs)
    return graph


def test_inception_block_in_uint8() -> None:
    b = Block("uint8")
    x = b.tensor((1, 8, 8, 12), 0.03, -100)
    one = b.conv(x, 4, scale=0.11)
    three = b.conv(b.conv(x, 3), 6, 3, scale=0.3)
    pool = b.tensor((1, 8, 8, 12), 0.03, -100)
    window = {"filterHeight": 3, "filterWidth": 3, "strideH": 1, "strideW": 1, "padding": 0}
    b.op("AVERAGE_POOL_2D", [x], [pool], "Pool2DOptions", **window)
    y = b.tensor((1, 8, 8, 15), 0.3, -90)
    b.op("CONCATENATION", [one, three, b.conv(pool, 5, scale=0.17)], [y], "ConcatenationOptions", axis=3)
    agree(b, [x], [y])


def test_squeeze_and_excite_with_hard_swish() -> None:
    b = Block()
    x = b.tensor((1, 7, 6, 8))
    y = b.conv(x, 8, 3, name="DEPTHWISE_CONV_2D")
    pooled = b.tensor((1, 1, 1, 8), 0.1, -80)
    b.op("MEAN", [y, b.add(i32(1, 2))], [pooled], "ReducerOptions", keepDims=True)
    gate = b.conv(b.conv(pooled, 3, scale=0.1), 8, scale=0.05, fusedActivationFunction=0)
    three = b.tensor((), 3 / 127, 0, np.array(127, np.int8))
    shifted = b.layer(
        "ADD", [gate, three], b.tensor((1, 1, 1, 8), 6 / 255, -128), "AddOptions", fusedActivationFunction=3
    )
    sixth = b.tensor((), 1 / 6 / 127, 0, np.array(127, np.int8))
    hard = b.layer("MUL", [shifted, sixth], b.tensor((1, 1, 1, 8), 1 / 256, -128), "MulOptions")
    out = b.layer("MUL", [y, hard], b.tensor((1, 7, 6, 8), 0.15, -110), "MulOptions")
    agree(b, [x], [out])


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_unet_step(dtype: str) -> None:
    b = Block(dtype)
    x = b.tensor((1, 8, 8, 3), 0.02)
    high = b.conv(x, 4, 3, scale=0.1)
    pooled = b.tensor((1, 4, 4, 4), 0.1, -90)
    b.op(
        "MAX_POOL_2D", [high], [pooled], "Pool2DOptions", filterHeight=2, filterWidth=2, strideH=2, strideW=2, padding=1
    )
    low = b.conv(pooled, 6, 3, scale=0.2)
    weights = b.codes(4, 2, 2, 6)
    w = b.add(T(weights.shape, dtype, scales(4) if dtype == "int8" else 0.01, b.zero, 0, weights))
    up = b.tensor((1, 8, 8, 4), 0.1, -90)
    b.op(
        "TRANSPOSE_CONV",
        [b.add(i32(1, 8, 8, 4)), w, low],
        [up],
        "TransposeConvOptions",
        strideH=2,
        strideW=2,
        padding=1,
    )
    joined = b.layer("CONCATENATION", [high, up], b.tensor((1, 8, 8, 8), 0.1, -90), "ConcatenationOptions", axis=-1)
    y = b.conv(joined, 2, scale=0.4, fusedActivationFunction=0)
    graph = agree(b, [x], [y, high])
    assert [n.op.name for n in graph.nodes].count("conv2d") == 4


def test_aspp_block_with_space_to_batch() -> None:
    b = Block()
    x = b.tensor((1, 9, 9, 4), 0.05, -7)
    inner = b.layer(
        "SPACE_TO_BATCH_ND", [x, b.add(i32(2, 2)), b.add(pairs((2, 3), (2, 3)))], b.tensor((4, 7, 7, 4), 0.05, -7)
    )
    dilated = b.conv(inner, 4, 3, name="DEPTHWISE_CONV_2D", padding=1)
    out = b.tensor((1, 9, 9, 4), 0.2, -90)
    b.op("BATCH_TO_SPACE_ND", [dilated, b.add(i32(2, 2)), b.add(pairs((0, 1), (0, 1)))], [out])
    direct = b.conv(x, 4, 3, name="DEPTHWISE_CONV_2D", dilationHFactor=2, dilationWFactor=2)
    image = b.tensor((1, 1, 1, 4), 0.2, -90)
    b.op("MEAN", [x, b.add(i32(1, 2))], [image], "ReducerOptions", keepDims=True)
    wide = b.tensor((1, 9, 9, 4), 0.2, -90)
    b.op("RESIZE_BILINEAR", [image, b.add(i32(9, 9))], [wide], "ResizeBilinearOptions", alignCorners=True)
    joined = b.tensor((1, 9, 9, 12), 0.2, -90)
    b.op("CONCATENATION", [out, direct, wide], [joined], "ConcatenationOptions", axis=3)
    best = b.add(T((1, 9, 9), "int64"))
    b.op("ARG_MAX", [b.conv(joined, 5, scale=0.5), b.add(scalar(3))], [best], "ArgMaxOptions", outputType=4)
    agree(b, [x], [best])


def test_attention_of_two_computed_tensors() -> None:
    b = Block()
    q, k, v = b.tensor((1, 6, 8), 0.03), b.tensor((1, 6, 8), 0.04), b.tensor((1, 6, 8), 0.05)
    scores = b.layer("BATCH_MATMUL", [q, k], b.tensor((1, 6, 6), 0.2, 4), "BatchMatMulOptions", adjY=True)
    soft = b.layer("SOFTMAX", [scores], b.tensor((1, 6, 6), 1 / 256, -128), "SoftmaxOptions", beta=1.0)
    y = b.layer("BATCH_MATMUL", [soft, v], b.tensor((1, 6, 8), 0.04, 1), "BatchMatMulOptions")
    agree(b, [q, k, v], [y])


def computed_shape() -> tuple[Net, int, int]:
    """What keras exports: SHAPE, STRIDED_SLICE, PACK, RESHAPE."""
    b = Block()
    x = b.tensor((2, 3, 4, 5))
    shape, batch, packed = b.add(T((4,), "int32")), b.add(T((), "int32")), b.add(T((2,), "int32"))
    b.op("SHAPE", [x], [shape], "ShapeOptions", outType=2)
    cut = [shape, b.add(i32(0)), b.add(i32(1)), b.add(i32(1))]
    b.op("STRIDED_SLICE", cut, [batch], "StridedSliceOptions", shrinkAxisMask=1)
    b.op("PACK", [batch, b.add(scalar(60))], [packed], "PackOptions", valuesCount=2)
    y = b.tensor((2, 60))
    b.op("RESHAPE", [x, packed], [y])
    return b, x, y


def test_a_reshape_whose_shape_is_computed() -> None:
    b, x, y = computed_shape()
    assert [n.op.name for n in agree(b, [x], [y]).nodes] == ["reshape"]


def test_integer_arithmetic_on_constants_is_folded() -> None:
    b = Block()
    x = b.tensor((2, 3, 4, 5))
    shape, product, size = b.add(T((4,), "int32")), b.add(T((4,), "int32")), b.add(T((2,), "int32"))
    b.op("SHAPE", [x], [shape], "ShapeOptions", outType=2)
    b.op("MUL", [shape, b.add(i32(1, 2, 3, 1))], [product], "MulOptions")
    b.op("SLICE", [product, b.add(i32(1)), b.add(i32(2))], [size])
    y = b.tensor((2, 6, 12, 5))
    b.op("RESIZE_NEAREST_NEIGHBOR", [x, size], [y], "ResizeNearestNeighborOptions")
    agree(b, [x], [y])


def test_shared_weights_and_results_used_twice() -> None:
    b = Block()
    x = b.tensor((1, 5, 5, 3))
    w = b.add(T((3, 3, 3, 3), "int8", scales(3), 0, 0, i8(3, 3, 3, 3)))
    bias = b.add(T((3,), "int32", scales(3), data=np.array([500, 0, -500], np.int32)))
    first, second = b.tensor((1, 5, 5, 3), 0.3), b.tensor((1, 5, 5, 3), 0.4)
    for source, result in ((x, first), (first, second)):
        b.op("CONV_2D", [source, w, bias], [result], "Conv2DOptions", strideH=1, strideW=1, padding=0)
    y = b.layer("ADD", [first, second], b.tensor((1, 5, 5, 3), 0.5), "AddOptions")
    agree(b, [x], [y, first])


def test_ports_without_operators() -> None:
    """An input that is an output, a constant that is one, and an output given twice."""
    b = Block("uint8")
    x = b.tensor((1, 4))
    c = b.tensor((1, 4), data=u8(1, 4))
    y = b.layer("ADD", [x, c], b.tensor((1, 4), 0.1), "AddOptions")
    agree(b, [x], [x, c, y])


def _float_input(second: float) -> tuple[Net, int, int]:
    net = Net()
    x = net.add(T((1, 8), "float32"))
    a, b = net.add(T((1, 8), "int8", 0.05, 3)), net.add(T((1, 8), "int8", second, 3))
    y = net.add(T((1, 8), "int8", 0.1, 1))
    net.op("QUANTIZE", [x], [a])
    net.op("QUANTIZE", [x], [b])
    net.op("ADD", [a, b], [y], "AddOptions")
    return net, x, y


def test_a_float_input_quantized_twice_alike_is_one_input() -> None:
    net, x, y = _float_input(0.05)
    data = encode(net, [x], [y])
    graph, codes = tflite.loads(data, "m"), i8(1, 8)
    assert len(graph.inputs) == 1
    real = ((codes.astype(np.float32) - 3) * np.float32(0.05)).astype(np.float32)
    np.testing.assert_array_equal(spec.run(graph, codes)[0], Reference(data).run(real)[0])


def test_a_float_input_quantized_in_two_ways_is_refused() -> None:
    net, x, y = _float_input(0.06)
    with pytest.raises(UnsupportedError, match=r"operator 1 \(QUANTIZE\).*twice"):
        tflite.loads(encode(net, [x], [y]), "m")


def test_unsigned_pixels_to_signed_and_a_float_end_behind_a_reshape() -> None:
    b = Block()
    x, q = b.add(T((1, 4, 4, 2), "uint8", 1 / 255, 0)), b.tensor((1, 4, 4, 2), 1 / 255, -128)
    b.op("QUANTIZE", [x], [q])
    y, f, r = b.conv(q, 3), b.add(T((1, 4, 4, 3), "float32")), b.add(T((16, 3), "float32"))
    b.op("DEQUANTIZE", [y], [f])
    b.op("RESHAPE", [f, b.add(i32(-1, 3))], [r])
    data = encode(b, [x], [r])
    graph, pixels = tflite.loads(data, "m"), u8(1, 4, 4, 2)
    quant = graph.outputs[0].quant
    assert quant is not None
    codes = spec.run(graph, pixels)[0].astype(np.float32)
    np.testing.assert_array_equal(
        (codes - np.float32(quant.zero_point)) * np.float32(quant.scale), Reference(data).run(pixels)[0]
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_a_quantized_float_constant_is_a_constant(dtype: str) -> None:
    b = Block(dtype)
    x, c = b.tensor((1, 4, 4, 3)), b.tensor((3,), 0.02, 5)
    value = b.add(T((3,), "float32", data=np.array([0.13, -0.5, 9.0], np.float32)))
    b.op("QUANTIZE", [value], [c])
    y = b.layer("MUL", [x, c], b.tensor((1, 4, 4, 3), 0.04), "MulOptions")
    agree(b, [x], [y])


def test_an_extent_that_is_not_known_before_the_run() -> None:
    """Results may leave extents open in the file, they are worked out; inputs may leave only the first one open."""
    b, x, y = computed_shape()
    b.tensors[x].signature, b.tensors[y].signature = (-1, 3, 4, 5), (-1, -1)
    agree(b, [x], [y])
    b.tensors[x].signature = (-1, -1, 4, 5)
    with pytest.raises(UnsupportedError, match="input tensor 0 't0' has a dynamic shape"):
        tflite.loads(encode(b, [x], [y]), "m")
