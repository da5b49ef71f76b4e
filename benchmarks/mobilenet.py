"""MobileNetV2 with random weights, from one table: as a torch module, as ONNX, and as an integer graph."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitship.graph import DType, Graph, GraphBuilder
from bitship.graph.base import Array
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


def weights() -> list[tuple[Array, Array]]:
    """Return (weights [O, I / groups, K, K], bias [O]) float32 of every convolution, then of the classifier."""
    rng = np.random.default_rng(0)
    result: list[tuple[Array, Array]] = []
    for layer in layers():
        if layer.kind != "add":
            depth = 1 if layer.kind == "depthwise" else layer.inputs
            shape = (layer.outputs, depth, layer.kernel, layer.kernel)
            scale = np.sqrt(2.0 / (depth * layer.kernel**2))
            w = rng.standard_normal(shape) * scale
            result.append((w.astype(np.float32), (rng.standard_normal(layer.outputs) * 0.1).astype(np.float32)))
    w = rng.standard_normal((CLASSES, 1280)) * 0.03
    return [*result, (w.astype(np.float32), np.zeros(CLASSES, np.float32))]


def torch_module() -> Any:
    """Return the network as an eval-mode torch module; NCHW float32 in, logits out."""
    import torch

    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = list(layers())
            self.convs = torch.nn.ModuleList()
            values = weights()
            for layer, (w, b) in zip((x for x in self.table if x.kind != "add"), values, strict=False):
                groups = layer.inputs if layer.kind == "depthwise" else 1
                conv = torch.nn.Conv2d(
                    layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.kernel // 2, groups=groups
                )
                conv.weight.data, conv.bias.data = torch.from_numpy(w), torch.from_numpy(b)
                self.convs.append(conv)
            self.classifier = torch.nn.Linear(1280, CLASSES)
            self.classifier.weight.data = torch.from_numpy(values[-1][0])

        def forward(self, x: Any) -> Any:
            history, convs = [x], iter(self.convs)
            for layer in self.table:
                if layer.kind == "add":
                    history.append(history[-1] + history[-1 - layer.back])
                    continue
                y = next(convs)(history[-1])
                history.append(torch.nn.functional.relu6(y) if layer.relu6 else y)
            return self.classifier(history[-1].mean((2, 3)))

    return Net().eval()


def onnx_model() -> Any:
    """Return the same network as an ONNX float32 model with input ``x`` and output ``y``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], [numpy_helper.from_array(np.array(v, np.float32), n) for v, n in ((0, "lo"), (6, "hi"))]
    history, values = ["x"], iter(weights())

    def constant(name: str, value: Array) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    for i, layer in enumerate(layers()):
        out = f"t{i}"
        if layer.kind == "add":
            nodes.append(helper.make_node("Add", [history[-1], history[-1 - layer.back]], [out]))
        else:
            w, b = next(values)
            raw = f"c{i}" if layer.relu6 else out
            pads = [layer.kernel // 2] * 4
            group = layer.inputs if layer.kind == "depthwise" else 1
            operands = [history[-1], constant(f"w{i}", w), constant(f"b{i}", b)]
            strides = [layer.stride] * 2
            nodes.append(helper.make_node("Conv", operands, [raw], pads=pads, strides=strides, group=group))
            if layer.relu6:
                nodes.append(helper.make_node("Clip", [raw, "lo", "hi"], [out]))
        history.append(out)
    w, b = next(values)
    nodes.append(helper.make_node("GlobalAveragePool", [history[-1]], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", constant("fw", w), constant("fb", b)], ["y"], transB=1))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CLASSES])
    graph = helper.make_graph(nodes, "mobilenet_v2", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def integer_graph(size: int = SIZE, width: float = 1.0, last: int = 1280) -> Graph:
    """Return the same table as an int8 graph with random int8 weights and factors that keep activations spread.

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
