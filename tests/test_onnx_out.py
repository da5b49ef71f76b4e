"""The onnx converter: every op's bits against the specification, through onnxruntime's CPU provider."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from merged_cases import ALL_CASES
from op_cases import CASES
from random_nets import mobilenet_v2

from bitship.converters import placement
from bitship.converters.base import Numerics
from bitship.converters.onnx import FILE, NOTE, QDQ, Note, OnnxConverter, open_session, write_qdq
from bitship.errors import FormatError, GraphError
from bitship.graph import DType, Graph, GraphBuilder, spec
from bitship.graph.base import Array
from bitship.graph.ops import Clamp
from bitship.targets import ConverterName, Target, TargetKind

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TARGET = Target("any", "any", TargetKind.LINUX, "any", (ConverterName.ONNX,))
_FLOATS = {1, 10, 11, 16}


def check(graph: Graph, feeds: list[tuple[Array, ...]], out: Path) -> None:
    conversion = OnnxConverter(qdq=False).convert(graph, TARGET, out)
    assert conversion.artifacts[0].numerics is Numerics.EXACT
    session = open_session(out / FILE, graph)
    for inputs in feeds:
        for found, wanted in zip(session.run(*inputs), spec.run(graph, *inputs), strict=True):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
    session.close()


@pytest.mark.parametrize("name", ALL_CASES)
def test_every_case_gives_the_bits_of_the_specification(name: str, tmp_path: Path) -> None:
    graph, feeds = ALL_CASES[name]()
    check(graph, feeds, tmp_path)


def test_a_network_gives_the_bits_of_the_specification_and_the_same_bytes_twice(tmp_path: Path) -> None:
    import onnx

    graph = mobilenet_v2(32, 0.25, 10, blocks=4)
    r = np.random.default_rng(1)
    shape = graph.inputs[0].type.shape
    check(graph, [(r.integers(-128, 128, shape).astype(np.int8),) for _ in range(3)], tmp_path / "a")
    OnnxConverter(qdq=False).convert(graph, TARGET, tmp_path / "b")
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()
    model = onnx.load(tmp_path / "a" / FILE)
    onnx.checker.check_model(model, full_check=True)
    assert not _FLOATS & {t.data_type for t in model.graph.initializer}


def test_inputs_and_constants_as_outputs_and_one_output_twice(tmp_path: Path) -> None:
    b = GraphBuilder("ends")
    x = b.input("x", (2, 3), DType.INT8)
    k = b.constant("k", np.arange(5, dtype=np.int32))
    y = b.node("y", Clamp(-5, 5), x)
    graph = b.finish([(x, None), (y, None), (k, None), (y, None)])
    check(graph, [(np.arange(-3, 3, dtype=np.int8).reshape(2, 3) * 4,)], tmp_path)


def test_a_session_checks_its_inputs(tmp_path: Path) -> None:
    graph, _ = CASES["clamp"]()
    OnnxConverter(qdq=False).convert(graph, TARGET, tmp_path)
    session = open_session(tmp_path / FILE, graph)
    with pytest.raises(GraphError, match="is needed"):
        session.run(np.zeros((4, 33), np.int32))


def test_a_damaged_model_is_a_format_error(tmp_path: Path) -> None:
    graph, _ = CASES["clamp"]()
    (tmp_path / FILE).write_bytes(b"no program" * 20)
    with pytest.raises(FormatError, match="does not load"):
        open_session(tmp_path / FILE, graph)
    with pytest.raises(FormatError, match="No such file"):
        open_session(tmp_path / "absent.onnx", graph)


FLOAT_FORMS = [
    "conv_3x3_s2_rgb",
    "conv_grouped",
    "conv_5x3_dilated",
    "conv_weight_zero_point",
    "dw_multiplier",
    "dw_3x3_s2",
    "fc",
    "matmul",
    "add_single",
    "sub_tflite",
    "add_broadcast",
    "mul",
    "max_pool_clamped",
    "avg_pool",
    "reduce_sum_mean",
    "reduce_max",
    "pad",
    "slice_strided",
    "rescale_int8",
    "softmax",
    "table_int8",
    "concat_last",
    "resize_nearest",
    "transpose_nhwc_nchw",
    "reshape",
    "clamp",
]


@pytest.mark.parametrize("name", FLOAT_FORMS)
def test_the_qdq_form_of_an_op_is_within_one_step(name: str, tmp_path: Path) -> None:
    graph, feeds = CASES[name]()
    artifact = write_qdq(graph, tmp_path)
    assert artifact.numerics is Numerics.TOLERANT
    session = open_session(tmp_path / QDQ, graph)
    for inputs in feeds:
        found = session.run(*inputs)[0]
        assert np.abs(found.astype(int) - spec.run(graph, *inputs)[0]).max() <= 1


def test_the_qdq_model_is_int8_marked_tolerant_and_measured(tmp_path: Path) -> None:
    import onnx

    graph = mobilenet_v2(32, 0.25, 10, blocks=3)
    conversion = OnnxConverter().convert(graph, TARGET, tmp_path)
    assert [a.numerics for a in conversion.artifacts] == [Numerics.EXACT, Numerics.TOLERANT]
    found = placement.read(tmp_path / conversion.artifacts[1].placement)
    assert found.delegate == "onnxruntime-qdq"
    assert found.share == 1.0
    assert found.difference is not None
    assert found.difference.max_lsb <= 4
    model = onnx.load(tmp_path / QDQ)
    onnx.checker.check_model(model, full_check=True)
    made_by = {o: n for n in model.graph.node for o in n.output}
    constants = {t.name: t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            read = [made_by[i] for i in node.input]
            assert {n.op_type for n in read} == {"DequantizeLinear"}
            assert [constants.get(n.input[0]) for n in read[1:]] == [onnx.TensorProto.INT8, onnx.TensorProto.INT32]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("conv_int16_in", "int8"),
        ("argmax_last", "argmax has no float form"),
        ("mul_channels", "rescaled per channel"),
    ],
)
def test_without_a_qdq_model_the_conversion_says_why(name: str, reason: str, tmp_path: Path) -> None:
    graph, _ = CASES[name]()
    conversion = OnnxConverter().convert(graph, TARGET, tmp_path)
    assert conversion.files == (FILE, NOTE)
    assert reason in msgspec.json.decode((tmp_path / NOTE).read_bytes(), type=Note).skipped
