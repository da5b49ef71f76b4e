"""MobileNetV2 with random weights as a torch module and as ONNX; as an integer graph: ``bitship.models.untrained``."""

from typing import Any

import numpy as np

from bitship.graph.base import Array
from bitship.models.untrained import CLASSES, SIZE, layers


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
