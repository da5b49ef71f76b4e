"""The OpenVINO converter: IR of the QDQ form, compiled and measured on this machine's CPU."""

from pathlib import Path

import numpy as np
import pytest
from op_cases import CASES
from random_nets import mobilenet_v2

import bitship
from bitship import targets
from bitship.converters import placement
from bitship.converters.base import Numerics
from bitship.converters.openvino import FILE, OpenvinoConverter, open_session
from bitship.converters.placement import Place
from bitship.errors import FormatError, MissingDependencyError, UnsupportedError
from bitship.graph import spec

openvino = pytest.importorskip("openvino")


def test_a_network_is_compiled_placed_and_measured(tmp_path: Path) -> None:
    graph = mobilenet_v2(32, 0.25, 10, blocks=3)
    conversion = OpenvinoConverter().convert(graph, targets.load("openvino-cpu"), tmp_path / "a")
    (artifact,) = conversion.artifacts
    assert artifact.numerics is Numerics.TOLERANT
    found = placement.read(tmp_path / "a" / artifact.placement)
    assert found.delegate == "openvino-cpu"
    assert [n.node for n in found.nodes] == [n.output for n in graph.nodes]
    assert found.share > 0.5
    assert all(n.reason for n in found.fallbacks)
    assert any(n.place is Place.DELEGATE and n.op == "depthwise_conv2d" for n in found.nodes)
    assert found.difference is not None
    assert found.difference.max_lsb <= 4
    OpenvinoConverter().convert(graph, targets.load("openvino-cpu"), tmp_path / "b")
    for name in conversion.files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", ["conv_3x3", "dw_3x3_s2", "fc", "add_single", "max_pool_clamped", "softmax", "pad"])
def test_an_op_is_within_one_step(name: str, tmp_path: Path) -> None:
    graph, feeds = CASES[name]()
    OpenvinoConverter().convert(graph, targets.load("openvino-cpu"), tmp_path)
    session = open_session(tmp_path / FILE, graph)
    for inputs in feeds:
        found, wanted = session.run(*inputs)[0], spec.run(graph, *inputs)[0]
        assert found.dtype == wanted.dtype
        assert np.abs(found.astype(int) - wanted).max() <= 1
    session.close()


@pytest.mark.skipif("NPU" in openvino.Core().available_devices, reason="this machine has an NPU")
def test_without_the_npu_the_package_is_made_and_says_why_nothing_was_measured(tmp_path: Path) -> None:
    graph, _ = CASES["conv_3x3"]()
    package = bitship.export(graph, "openvino-npu", tmp_path / "pkg")
    (artifact,) = package.manifest.artifacts
    found = placement.read(package.path / artifact.placement)
    assert found.difference is None
    assert "no NPU in this machine, there is CPU" in found.untested
    with pytest.raises(MissingDependencyError, match="no NPU in this machine"):
        bitship.bench(package)


def test_bench_runs_it_here_and_states_the_difference(tmp_path: Path) -> None:
    graph, _ = CASES["conv_3x3"]()
    package = bitship.export(graph, "openvino-cpu", tmp_path / "pkg")
    report = bitship.bench(package, runs=2, warmup=0)
    assert report.numerics is Numerics.TOLERANT
    assert report.bits.max_difference <= 1
    assert report.samples[0].name == "latency"


def test_a_graph_without_a_float_form_and_a_damaged_file_are_one_line(tmp_path: Path) -> None:
    graph, _ = CASES["argmax_last"]()
    with pytest.raises(UnsupportedError, match="argmax has no float form"):
        OpenvinoConverter().convert(graph, targets.load("openvino-cpu"), tmp_path)
    (tmp_path / FILE).write_text("no network")
    with pytest.raises(FormatError, match="does not load"):
        open_session(tmp_path / FILE, graph)
