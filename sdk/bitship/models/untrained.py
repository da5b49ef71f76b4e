"""Graphs with random weights, for what does not depend on them: sizes, placement, instructions. They know nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from bitship.graph import DType, Graph, GraphBuilder
from bitship.graph.ops import Add, Conv2D, DepthwiseConv2D, FullyConnected, ReduceSum, Rescale, Reshape

SIZE = 224
CLASSES = 1000
# arXiv 1801.04381, table 2: expansion, channels, repeats, first stride
_ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass(frozen=True)
class Layer:
    """One convolution with bias, or the sum of a block's input and output (``kind`` add; ``back`` layers apart)."""

    kind: str
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    relu6: bool = False
    back: int = 0


def scaled(channels: int, width: float) -> int:
    """Return the channels at a width: a multiple of 8, not more than a tenth below."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def layers(width: float = 1.0, last: int = 1280) -> Iterator[Layer]:
    """Yield the convolutional part in execution order; ``last`` is the last convolution's channels."""
    c = scaled(32, width)
    yield Layer("conv", 3, c, 3, 2, True)
    for expansion, full, repeats, first in _ROWS:
        o = scaled(full, width)
        for i in range(repeats):
            stride, wide = first if i == 0 else 1, c * expansion
            if expansion > 1:
                yield Layer("conv", c, wide, relu6=True)
            yield Layer("depthwise", wide, wide, 3, stride, True)
            yield Layer("conv", wide, o)
            if stride == 1 and c == o:
                yield Layer("add", o, o, back=3)
            c = o
    yield Layer("conv", c, last, relu6=True)


def mobilenet_v2(size: int = SIZE, width: float = 1.0, last: int = 1280) -> Graph:
    """Return MobileNetV2 as an int8 graph with random int8 weights and factors that keep activations spread.

    MobileNetV2 0.35 for a microcontroller is (144, 0.35, 448).
    """
    g, rng = GraphBuilder("mobilenet_v2"), np.random.default_rng(0)
    history = [g.input("x", (1, size, size, 3), DType.INT8)]

    def requant(n: int, depth: int, relu: bool) -> Rescale:
        mantissa, shift = np.frexp(rng.uniform(0.7, 1.3, n) / (90.0 * np.sqrt(depth)))
        q31 = tuple(int(m * (1 << 31)) for m in mantissa)
        return Rescale(q31, tuple(map(int, shift)), output_zero_point=-128 if relu else 0)

    def operands(shape: tuple[int, ...], n: int) -> tuple[str, str]:
        w = rng.integers(-127, 128, shape).astype(np.int8)
        return g.constant("w", w), g.constant("b", rng.integers(-500, 500, n).astype(np.int32))

    def zero_point(previous: int) -> int:
        return -128 if table[previous].relu6 else 0

    table = list(layers(width, last))
    for i, layer in enumerate(table):
        izp, p = zero_point(i - 1) if i else 0, (layer.kernel // 2,) * 4
        pair, k, o = (layer.stride, layer.stride), layer.kernel, layer.outputs
        if layer.kind == "add":
            side = Rescale((1 << 30,), (0,), pre_shift=20, dtype=DType.INT32, qmin=-(1 << 31), qmax=(1 << 31) - 1)
            op = Add(side, side, Rescale((1 << 30,), (-18,)))
            history.append(g.node("add", op, history[-1], history[-1 - layer.back]))
        elif layer.kind == "depthwise":
            dw = DepthwiseConv2D(pair, p, input_zero_point=izp, requant=requant(o, 9, True))
            history.append(g.node("dw", dw, history[-1], *operands((k, k, o, 1), o)))
        else:
            conv = Conv2D(pair, p, input_zero_point=izp, requant=requant(o, k * k * layer.inputs, layer.relu6))
            history.append(g.node("conv", conv, history[-1], *operands((o, k, k, layer.inputs), o)))
    pixels = g.types[history[-1]].shape[1] * g.types[history[-1]].shape[2]
    mantissa, shift = np.frexp(1 / pixels)
    average = Rescale((round(mantissa * (1 << 31)),), (int(shift),), output_zero_point=-128)
    flat = g.node("flat", Reshape((1, last)), g.node("mean", ReduceSum((1, 2), -128, average), history[-1]))
    classifier = FullyConnected(-128, requant=requant(CLASSES, last, False))
    return g.finish([(g.node("logits", classifier, flat, *operands((CLASSES, last), CLASSES)), None)])


# name that ``load_graph`` takes -> what makes the graph, the same one every time
UNTRAINED: dict[str, Callable[[], Graph]] = {"mobilenet_v2": mobilenet_v2}
