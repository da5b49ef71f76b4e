"""The onnx converter: every op's bits against the specification, through onnxruntime's CPU provider."""

from pathlib import Path

import numpy as np
import pytest
from merged_cases import ALL_CASES
from op_cases import CASES
from random_nets import mobilenet_v2

from bitship.converters.base import Numerics
from bitship.converters.onnx import FILE, OnnxConverter, open_session
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
