"""ONNX models for tests: single quantized ops, and networks quantized by onnxruntime."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bitship.graph.base import Array

OPSET = 17


def helper() -> Any:
    import onnx

    return onnx.helper


def session(data: bytes) -> Any:
    """An onnxruntime session without graph optimisation: float semantics for QDQ, reference kernels for QLinear."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def model(
    nodes: list[Any],
    inputs: dict[str, tuple[str, tuple[int | str, ...]]],
    outputs: dict[str, str],
    constants: dict[str, Array],
    opset: int = OPSET,
) -> bytes:
    """Serialize a model; types are NumPy names."""
    import onnx

    h = onnx.helper

    def info(name: str, dtype: str, shape: Any) -> Any:
        return h.make_tensor_value_info(name, h.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    graph = h.make_graph(
        nodes,
        "g",
        [info(n, *spec) for n, spec in inputs.items()],
        [info(n, dtype, None) for n, dtype in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    imports = [h.make_opsetid("", opset), h.make_opsetid("com.microsoft", 1)]
    made = h.make_model(graph, opset_imports=imports, ir_version=8)
    return bytes(made.SerializeToString())


class Qdq:
    """A QDQ model under construction: int8 or uint8 codes in and out, float ops between."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.inputs: dict[str, tuple[str, tuple[int | str, ...]]] = {}
        self.constants: dict[str, Array] = {}

    def zero(self, zero_point: int) -> Array:
        return np.array(zero_point + (128 if self.dtype == "uint8" else 0), self.dtype)

    def params(self, name: str, scale: float, zero_point: int) -> list[str]:
        self.constants[f"{name}_s"], self.constants[f"{name}_z"] = np.array(scale, np.float32), self.zero(zero_point)
        return [f"{name}_s", f"{name}_z"]

    def input(self, name: str, shape: tuple[int, ...], scale: float, zero_point: int) -> str:
        self.inputs[name] = (self.dtype, shape)
        operands = [name, *self.params(name, scale, zero_point)]
        self.nodes.append(helper().make_node("DequantizeLinear", operands, [f"{name}_f"]))
        return f"{name}_f"

    def weights(self, name: str, values: Array, scales: Array, axis: int = 0, bias: bool = False) -> str:
        self.constants.update({name: values, f"{name}_s": scales.astype(np.float32)})
        self.constants[f"{name}_z"] = np.zeros(scales.shape, np.int32 if bias else np.int8)
        operands = [name, f"{name}_s", f"{name}_z"]
        self.nodes.append(helper().make_node("DequantizeLinear", operands, [f"{name}_f"], axis=axis))
        return f"{name}_f"

    def op(self, kind: str, *operands: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper().make_node(kind, list(operands), [name], name=f"n_{kind}", **attributes))
        return name

    def ints(self, name: str, values: Any) -> str:
        self.constants[name] = np.array(values, np.int64)
        return name

    def floats(self, name: str, values: Any) -> str:
        self.constants[name] = np.array(values, np.float32)
        return name

    def finish(self, value: str, scale: float, zero_point: int) -> bytes:
        operands = [value, *self.params("y", scale, zero_point)]
        nodes = [*self.nodes, helper().make_node("QuantizeLinear", operands, ["y"])]
        return model(nodes, self.inputs, {"y": self.dtype}, self.constants)

    def range(self, value: str, feeds: list[dict[str, Array]]) -> tuple[float, int]:
        """Scale and int8 zero point that hold what a value reaches on the feeds."""
        runner = session(model(self.nodes, self.inputs, {value: "float32"}, self.constants))
        seen = np.concatenate([runner.run([value], f)[0].ravel() for f in feeds])
        low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 0.0)
        scale = float(np.float32((high - low) / 255 or 1.0))
        return scale, int(np.clip(round(-128 - low / scale), -128, 127))


def network(seed: int = 0) -> bytes:
    """A float network: convolutions, depthwise, residual add, concat, pools, softmax."""
    r, h = np.random.default_rng(seed), helper()
    constants: dict[str, Array] = {}

    def conv(x: str, y: str, shape: tuple[int, ...], **attributes: Any) -> Any:
        fan_in = int(np.prod(shape[1:]))
        constants[f"{y}_w"] = (r.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)
        constants[f"{y}_b"] = r.normal(size=shape[0]).astype(np.float32) * np.float32(0.1)
        return h.make_node("Conv", [x, f"{y}_w", f"{y}_b"], [y], **attributes)

    constants["fc_w"] = r.normal(size=(32, 10)).astype(np.float32)
    constants["fc_b"] = r.normal(size=10).astype(np.float32)
    constants["six"], constants["zero"] = np.array(6, np.float32), np.array(0, np.float32)
    nodes = [
        conv("x", "a", (16, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        h.make_node("Relu", ["a"], ["ar"]),
        conv("ar", "d", (16, 1, 3, 3), group=16, pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        h.make_node("Clip", ["d", "zero", "six"], ["dr"]),
        conv("dr", "p", (16, 16, 1, 1), kernel_shape=[1, 1]),
        h.make_node("Add", ["ar", "p"], ["s"]),
        h.make_node("MaxPool", ["s"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("m", "q", (16, 16, 1, 1), kernel_shape=[1, 1]),
        h.make_node("Concat", ["m", "q"], ["c"], axis=1),
        h.make_node("GlobalAveragePool", ["c"], ["g"]),
        h.make_node("Flatten", ["g"], ["f"]),
        h.make_node("Gemm", ["f", "fc_w", "fc_b"], ["l"]),
    ]
    return model(nodes, {"x": ("float32", (1, 3, 16, 16))}, {"l": "float32"}, constants)


def quantized_network(folder: Path, qdq: bool, unsigned: bool, per_channel: bool) -> tuple[bytes, list[Array]]:
    """The network quantized by onnxruntime, and the float images it was calibrated with."""
    from onnxruntime import quantization as q

    images = [np.random.default_rng(i).normal(size=(1, 3, 16, 16)).astype(np.float32) for i in range(6)]

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> Any:
            image = next(self.left, None)
            return None if image is None else {"x": image}

    source, target = folder / "float.onnx", folder / "int.onnx"
    source.write_bytes(network())
    q.quantize_static(
        source,
        target,
        Reader(),
        quant_format=q.QuantFormat.QDQ if qdq else q.QuantFormat.QOperator,
        activation_type=q.QuantType.QUInt8 if unsigned else q.QuantType.QInt8,
        weight_type=q.QuantType.QInt8,
        per_channel=per_channel,
    )
    return target.read_bytes(), images


def seeds() -> list[bytes]:
    """Models for fuzzing: the network in both formats."""
    with tempfile.TemporaryDirectory() as folder:
        return [quantized_network(Path(folder), qdq, True, qdq)[0] for qdq in (True, False)]


_EXTREMES = [0, 1, -1, 2, 127, -128, 255, 1 << 16, 1 << 20, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63)]


def pervert(data: bytes, seed: list[int]) -> bytes:
    """A well-formed model with a few attributes, operands, shapes, dtypes, bytes or op types changed."""
    import onnx

    r = np.random.default_rng(seed)
    proto = onnx.load_model_from_string(data)
    for _ in range(int(r.integers(1, 5))):
        change = (_change_node, _change_tensor)[int(r.integers(2))]
        change(proto.graph, r)
    if r.integers(8) == 0:
        dims = proto.graph.input[0].type.tensor_type.shape.dim
        _pick(r, dims).dim_value = _pick(r, _EXTREMES)
    return bytes(proto.SerializeToString())


def _pick(r: np.random.Generator, items: Any) -> Any:
    return items[int(r.integers(len(items)))]


def _change_node(g: Any, r: np.random.Generator) -> None:
    node, kind = _pick(r, g.node), int(r.integers(5))
    at = int(r.integers(len(node.input)))
    if kind == 0 and node.attribute:
        attribute = _pick(r, node.attribute)
        if attribute.ints:
            attribute.ints[int(r.integers(len(attribute.ints)))] = _pick(r, _EXTREMES)
        else:
            attribute.i = _pick(r, _EXTREMES)
    elif kind == 1:
        node.input[at] = _pick(r, g.initializer).name
    elif kind == 2:
        node.input[at] = _pick(r, g.node).output[0]
    elif kind == 3:
        node.op_type = _pick(r, g.node).op_type
    elif len(node.input) > 1:
        del node.input[at]


def _change_tensor(g: Any, r: np.random.Generator) -> None:
    tensor, kind = _pick(r, g.initializer), int(r.integers(3))
    if kind == 0 and tensor.dims:
        tensor.dims[int(r.integers(len(tensor.dims)))] = _pick(r, _EXTREMES)
    elif kind == 1:
        tensor.data_type = int(r.integers(23))
    elif tensor.raw_data:
        raw = bytearray(tensor.raw_data)
        raw[int(r.integers(len(raw)))] = int(r.integers(256))
        tensor.raw_data = bytes(raw)
