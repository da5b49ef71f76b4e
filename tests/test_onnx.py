"""The ONNX importer: every op against onnxruntime's float semantics, networks, refusals, and damaged files."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitship.errors import FormatError, MissingDependencyError, UnsupportedError
from bitship.graph import DType, Graph, spec
from bitship.graph.base import Array
from bitship.importers.onnx import load, loads

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_models import Qdq, helper, model, quantized_network, session

R = np.random.default_rng(5)
IMAGE = (1, 6, 9, 8)


def weights(*shape: int) -> Array:
    return R.integers(-127, 128, shape).astype(np.int8)


def to_graph(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def from_graph(y: Array) -> Array:
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


def conv(m: Qdq, x: str, o: int, c: int, k: tuple[int, int] = (3, 3), **attributes: Any) -> str:
    scales = R.uniform(0.002, 0.01, o)
    w = m.weights("w", weights(o, c, *k), scales)
    b = m.weights("b", R.integers(-4000, 4000, o).astype(np.int32), scales * float(m.constants["x0_s"]), bias=True)
    return m.op("Conv", x, w, b, kernel_shape=list(k), **attributes)


def gemm(m: Qdq, x: str, trans: int) -> str:
    w = m.weights("w", weights(5, 12) if trans else weights(12, 5), R.uniform(0.002, 0.01, 5), axis=1 - trans)
    return m.op("Gemm", x, w, m.floats("b", R.normal(size=5)), transB=trans)


SINGLE: dict[str, tuple[tuple[tuple[int, ...], ...], Callable[..., str]]] = {
    "conv": ((IMAGE,), lambda m, x: conv(m, x, 5, 6)),
    "conv_strided": ((IMAGE,), lambda m, x: conv(m, x, 5, 6, strides=[2, 1], pads=[1, 0, 2, 1])),
    "conv_dilated": ((IMAGE,), lambda m, x: conv(m, x, 4, 6, (2, 3), dilations=[2, 2])),
    "conv_grouped": ((IMAGE,), lambda m, x: conv(m, x, 4, 3, group=2)),
    "conv_depthwise": ((IMAGE,), lambda m, x: conv(m, x, 6, 1, group=6, auto_pad="SAME_UPPER", strides=[2, 2])),
    "conv_same_lower": ((IMAGE,), lambda m, x: conv(m, x, 4, 6, (2, 2), auto_pad="SAME_LOWER")),
    "conv_relu": ((IMAGE,), lambda m, x: m.op("Relu", conv(m, x, 5, 6))),
    "conv_clip": ((IMAGE,), lambda m, x: m.op("Clip", conv(m, x, 5, 6), m.floats("lo", -0.5), m.floats("hi", 1.5))),
    "gemm": (((3, 12),), lambda m, x: gemm(m, x, 0)),
    "gemm_transposed": (((3, 12),), lambda m, x: gemm(m, x, 1)),
    "matmul": (((2, 3, 12),), lambda m, x: m.op("MatMul", x, m.weights("w", weights(12, 5), np.array(0.01)))),
    "matmul_computed": (((2, 3, 12), (2, 12, 4)), lambda m, a, b: m.op("MatMul", a, b)),
    "add": ((IMAGE, IMAGE), lambda m, a, b: m.op("Add", a, b)),
    "add_broadcast": ((IMAGE, (1, 6, 1, 1)), lambda m, a, b: m.op("Add", a, b)),
    "sub": ((IMAGE, IMAGE), lambda m, a, b: m.op("Sub", a, b)),
    "mul": ((IMAGE, IMAGE), lambda m, a, b: m.op("Mul", a, b)),
    "mul_excite": ((IMAGE, (1, 6, 1, 1)), lambda m, a, b: m.op("Mul", a, b)),
    "mul_number": ((IMAGE,), lambda m, x: m.op("Mul", x, m.floats("k", 0.37))),
    "add_constant": ((IMAGE,), lambda m, x: m.op("Add", x, m.weights("k", weights(6, 1, 1), np.array(0.02)))),
    "div_number": ((IMAGE,), lambda m, x: m.op("Div", x, m.floats("k", 3.0))),
    "relu": ((IMAGE,), lambda m, x: m.op("Relu", x)),
    "hardswish": ((IMAGE,), lambda m, x: m.op("HardSwish", x)),
    "hardsigmoid": ((IMAGE,), lambda m, x: m.op("HardSigmoid", x, alpha=1 / 6)),
    "sigmoid": ((IMAGE,), lambda m, x: m.op("Sigmoid", x)),
    "tanh": ((IMAGE,), lambda m, x: m.op("Tanh", x)),
    "leaky_relu": ((IMAGE,), lambda m, x: m.op("LeakyRelu", x, alpha=0.2)),
    "elu": ((IMAGE,), lambda m, x: m.op("Elu", x)),
    "max_pool": ((IMAGE,), lambda m, x: m.op("MaxPool", x, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])),
    "average_pool": ((IMAGE,), lambda m, x: m.op("AveragePool", x, kernel_shape=[3, 2], strides=[2, 2])),
    "average_pool_padded": (
        (IMAGE,),
        lambda m, x: m.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    ),
    "global_average_pool": ((IMAGE,), lambda m, x: m.op("GlobalAveragePool", x)),
    "reduce_mean": ((IMAGE,), lambda m, x: m.op("ReduceMean", x, axes=[2, 3], keepdims=0)),
    "concat": ((IMAGE, IMAGE), lambda m, a, b: m.op("Concat", a, b, axis=1)),
    "pad": ((IMAGE,), lambda m, x: m.op("Pad", x, m.ints("p", [0, 0, 1, 2, 0, 0, 0, 3]), m.floats("v", 0.25))),
    "resize_nearest": (
        (IMAGE,),
        lambda m, x: m.op(
            "Resize",
            x,
            "",
            m.floats("s", [1, 1, 2, 2]),
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ),
    "resize_linear": (
        (IMAGE,),
        lambda m, x: m.op("Resize", x, "", "", m.ints("s", [1, 6, 13, 16]), mode="linear"),
    ),
    "resize_aligned": (
        (IMAGE,),
        lambda m, x: m.op(
            "Resize",
            x,
            "",
            "",
            m.ints("s", [1, 6, 17, 4]),
            mode="linear",
            coordinate_transformation_mode="align_corners",
        ),
    ),
    "reshape": ((IMAGE,), lambda m, x: m.op("Reshape", x, m.ints("s", [0, 9, -1]))),
    "flatten": ((IMAGE,), lambda m, x: m.op("Flatten", x)),
    "transpose": ((IMAGE,), lambda m, x: m.op("Transpose", m.op("Flatten", x, axis=2), perm=[1, 0])),
    "squeeze": (((1, 6, 9, 1),), lambda m, x: m.op("Squeeze", x, m.ints("a", [3]))),
    "unsqueeze": (((3, 12),), lambda m, x: m.op("Unsqueeze", x, m.ints("a", [1]))),
    "slice": (
        (IMAGE,),
        lambda m, x: m.op(
            "Slice", x, m.ints("b", [1, -7]), m.ints("e", [6, 9]), m.ints("a", [1, 2]), m.ints("t", [1, 2])
        ),
    ),
    "softmax": (((3, 12),), lambda m, x: m.op("Softmax", x)),
    "shape_arithmetic": (
        (IMAGE,),
        lambda m, x: m.op(
            "Reshape",
            x,
            m.op("Concat", m.op("Gather", m.op("Shape", x), m.ints("i", [0])), m.ints("r", [-1]), axis=0),
        ),
    ),
}


def feeds(graph_inputs: dict[str, tuple[str, tuple[Any, ...]]], count: int = 4) -> list[dict[str, Array]]:
    r, made = np.random.default_rng(9), []
    for _ in range(count):
        made.append(
            {
                name: r.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)
                for name, (dtype, shape) in graph_inputs.items()
            }
        )
    return made


def compare(data: bytes, graph: Graph, given: list[dict[str, Array]], lsb: int = 1) -> None:
    runner = session(data)
    for feed in given:
        found = spec.run(graph, *(to_graph(x) for x in feed.values()))
        for y, wanted in zip(found, runner.run(None, feed), strict=True):
            assert from_graph(y).shape == wanted.shape
            assert y.dtype == wanted.dtype
            assert np.abs(from_graph(y).astype(int) - wanted).max() <= lsb


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("name", SINGLE)
def test_qdq_ops_are_within_one_step_of_onnxruntime(name: str, dtype: str) -> None:
    shapes, build = SINGLE[name]
    m = Qdq(dtype)
    values = [m.input(f"x{i}", s, 0.031 + 0.01 * i, -7 + 5 * i) for i, s in enumerate(shapes)]
    value = build(m, *values)
    given = feeds(m.inputs)
    data = m.finish(value, *m.range(value, given))
    compare(data, loads(data, name), given)


MS = {"domain": "com.microsoft"}
QX, QB, QY = ["x", "xs", "xz"], ["b", "bs", "bz"], ["ys", "yz"]
QW, QK = ["w", "ws", "wz"], ["k", "ks", "kz"]
QLINEAR: dict[str, tuple[tuple[int, ...], list[str], dict[str, Any]]] = {
    "QLinearConv": (IMAGE, [*QX, *QK, *QY, "kb"], {"pads": [1, 1, 1, 1]}),
    "QLinearMatMul": ((3, 6), [*QX, *QW, *QY], {}),
    "QGemm": ((3, 6), [*QX, *QW, "wb", *QY], MS),
    "QLinearAdd": (IMAGE, [*QX, *QB, *QY], MS),
    "QLinearMul": (IMAGE, [*QX, *QB, *QY], MS),
    "QLinearConcat": (IMAGE, [*QY, *QX, *QB], {"axis": 1, **MS}),
    "QLinearSigmoid": (IMAGE, [*QX, "gs", "yz"], MS),
    "QLinearLeakyRelu": (IMAGE, [*QX, *QY], {"alpha": 0.3, **MS}),
    "QLinearGlobalAveragePool": (IMAGE, [*QX, *QY], MS),
    "QLinearAveragePool": (IMAGE, [*QX, *QY], {"kernel_shape": [2, 3], "strides": [2, 1], **MS}),
    "QLinearSoftmax": ((3, 6), [*QX, "gs", "yz"], {"axis": -1, "opset": 13, **MS}),
}


def small(*shape: int) -> Array:
    """Weights of 7 bits: u8 x s8 products of onnxruntime saturate on CPUs without VNNI."""
    return R.integers(-63, 64, shape).astype(np.int8)


@pytest.mark.parametrize("op", QLINEAR)
def test_qlinear_ops_are_within_one_step_of_onnxruntime(op: str) -> None:
    shape, operands, attributes = QLINEAR[op]
    scales = {"xs": 0.03, "bs": 0.021, "ys": 0.05, "gs": 1 / 256, "ws": 0.01}
    constants: dict[str, Array] = {name: np.array(v, np.float32) for name, v in scales.items()}
    constants.update({"ks": np.array([0.002, 0.004, 0.003, 0.005], np.float32), "kz": np.zeros(4, np.int8)})
    constants.update({"k": small(4, 6, 3, 3), "kb": R.integers(-3000, 3000, 4).astype(np.int32), "w": small(6, 5)})
    constants.update({"wz": np.array(0, np.int8), "wb": R.integers(-3000, 3000, 5).astype(np.int32)})
    constants.update({n: np.array(v, np.uint8) for n, v in (("xz", 120), ("bz", 140), ("yz", 31))})
    used = {n: c for n, c in constants.items() if n in operands}
    inputs: dict[str, tuple[str, tuple[int | str, ...]]] = {n: ("uint8", shape) for n in ("x", "b") if n in operands}
    node = helper().make_node(op, operands, ["y"], **attributes)
    data = model([node], inputs, {"y": "uint8"}, used)
    graph = loads(data, op)
    assert {p.type.dtype for p in (*graph.inputs, *graph.outputs)} == {DType.UINT8}
    compare(data, graph, feeds(inputs))


@pytest.mark.parametrize("qdq", [True, False])
@pytest.mark.parametrize("unsigned", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_networks_quantized_by_onnxruntime(qdq: bool, unsigned: bool, per_channel: bool, tmp_path: Path) -> None:
    data, images = quantized_network(tmp_path, qdq, unsigned, per_channel)
    graph = loads(data, "net")
    port, out = graph.inputs[0], graph.outputs[0]
    assert port.type.dtype is (DType.UINT8 if unsigned else DType.INT8)
    assert port.quant is not None
    assert out.quant is not None
    assert not any(n.op.name == "transpose" for n in graph.nodes)
    runner = session(data)
    for x in images:
        codes = np.rint(x / np.float32(port.quant.scale)) + port.quant.zero_point
        codes = np.clip(codes, port.type.dtype.qmin, port.type.dtype.qmax).astype(port.type.dtype.numpy)
        y = (spec.run(graph, to_graph(codes))[0].astype(float) - out.quant.zero_point) * out.quant.scale
        assert np.abs(y - runner.run(None, {"x": x})[0]).max() <= 2.01 * out.quant.scale


def test_a_model_can_be_cut_at_any_quantized_value(tmp_path: Path) -> None:
    data, _ = quantized_network(tmp_path, False, True, True)
    graph = load(tmp_path / "int.onnx", ["s_quantized"])
    assert graph.outputs[0].type.shape == (1, 8, 8, 16)
    with pytest.raises(UnsupportedError, match="no value is named 'nothing'"):
        loads(data, "m", ["nothing"])


def one(op: str, **options: Any) -> bytes:
    constants = options.pop("constants", {})
    inputs = options.pop("inputs", {"x": ("float32", (1, 4))})
    operands = ["x", *constants]
    return model([helper().make_node(op, operands, ["y"], name="it", **options)], inputs, {"y": "float32"}, constants)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: one("Relu"), r"node 0 \(Relu 'it'\): operand 0|input 'x' \(float32\) is not quantized"),
        (lambda: one("LSTM"), r"node 0 \(LSTM 'it'\): this op is not supported"),
        (lambda: one("Relu", inputs={"x": ("float32", ("batch", 4))}), "dynamic or empty axis 'batch'"),
        (lambda: one("Relu", inputs={"x": ("int64", (1, 4))}), "input 'x' is int64"),
        (lambda: one("Relu", domain="my.ops"), "domain 'my.ops'"),
        (
            lambda: model([helper().make_node("Relu", ["x"], ["y"])], {"x": ("int8", (1,))}, {"y": "int8"}, {}, 7),
            "opset",
        ),
    ],
)
def test_what_is_not_taken_is_named(data: Callable[[], bytes], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        loads(data(), "model.onnx")


def test_external_data_is_refused() -> None:
    import onnx

    proto = onnx.load_model_from_string(one("Add", constants={"k": np.ones(4, np.float32)}))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(UnsupportedError, match="in another file"):
        loads(proto.SerializeToString(), "m")


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"not a model at all", b"\x08\x08"])
def test_what_is_no_model_is_a_format_error(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="damaged or not an ONNX model"):
        loads(data, "m")
    with pytest.raises(FormatError, match="No such file"):
        load(tmp_path / "absent.onnx")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, package: str | None = None) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"bitship\[onnx\]"):
        loads(b"", "m")
