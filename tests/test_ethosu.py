"""Ethos-U: Vela's placement of every node, the plan through TOSA's reference model, and what is refused."""

import importlib
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from op_cases import CASES
from random_nets import mobilenet_v2
from transformer_cases import TRANSFORMER_CASES

from bitship import export, models, targets
from bitship.converters import placement
from bitship.converters.base import Numerics
from bitship.converters.ethosu import EthosUConverter, open_session, plan
from bitship.converters.ethosu import vela as velas
from bitship.converters.ethosu.partition import ACCUMULATOR, CODES, ONLY_MOVES, Kind
from bitship.converters.placement import Place
from bitship.errors import FormatError, MissingDependencyError, PackageError, TargetError
from bitship.figures import FigureKind
from bitship.graph import DType, Graph, GraphBuilder, ops, spec
from bitship.graph.base import Array
from bitship.targets import ConverterName, TargetKind

pytest.importorskip("ethosu.vela")
pytest.importorskip("tosa_reference_model")

U55, U85 = "ethos-u55-128", "ethos-u85-256"
NPUS = [n for n in targets.names() if n.startswith("ethos-u")]


def random_rows(graph: Graph, count: int = 2) -> list[tuple[Array, ...]]:
    r = np.random.default_rng(5)
    return [
        tuple(
            r.integers(p.type.dtype.qmin, p.type.dtype.qmax + 1, p.type.shape).astype(p.type.dtype.numpy)
            for p in graph.inputs
        )
        for _ in range(count)
    ]


def converted(graph: Graph, target: str, out: Path) -> tuple[plan.Plan, placement.Placement]:
    """Convert, check that the plan computes the graph, and return plan and placement."""
    conversion = EthosUConverter().convert(graph, targets.load(target), out)
    assert conversion.artifacts[0].numerics is Numerics.UNVERIFIED
    assert {p.name for p in out.iterdir()} == {*conversion.files}
    session = open_session(out / plan.FILE, graph)
    try:
        for row in random_rows(graph):
            for found, wanted in zip(session.run(*row), spec.run(graph, *row), strict=True):
                np.testing.assert_array_equal(found, wanted)
    finally:
        session.close()
    return plan.read(out / plan.FILE), placement.read(out / conversion.artifacts[0].placement)


@pytest.mark.parametrize("name", NPUS)
def test_every_accelerator_is_one_vela_knows(name: str, tmp_path: Path) -> None:
    target = targets.load(name)
    assert target.kind is TargetKind.NPU
    assert target.npu is not None
    assert target.npu.accelerator == name
    graph, _ = CASES["conv_3x3"]()
    made, placed = converted(graph, name, tmp_path)
    assert [r.kind for r in made.runs] == [Kind.NPU]
    assert placed.share == 1
    assert placed.parts == 1


def test_a_network_is_one_command_stream_with_estimates_and_the_same_bytes_twice(tmp_path: Path) -> None:
    graph = mobilenet_v2(32, 0.25, 10, blocks=3)
    made, placed = converted(graph, U55, tmp_path / "a")
    assert len(made.runs) == 1
    assert made.runs[0].nodes == tuple(n.output for n in graph.nodes)
    assert not placed.fallbacks
    figures = {f.name: f for f in placed.figures}
    assert {f.kind for f in placed.figures} == {FigureKind.ESTIMATED}
    assert figures["cycles"].value > 1000
    assert figures["inference_time"].value == pytest.approx(figures["cycles"].value / 500e6, rel=0.01)
    assert figures["sram"].value > 1024
    EthosUConverter().convert(graph, targets.load(U55), tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_the_stream_begins_as_the_driver_wants_it_and_the_header_names_its_tensors(tmp_path: Path) -> None:
    graph, _ = CASES["fc_batch_per_channel"]()
    made, _ = converted(graph, U55, tmp_path)
    run = made.runs[0]
    assert (tmp_path / run.commands).read_bytes()[:4] == b"COP1"
    assert run.outputs[0].nbytes == graph.types[graph.outputs[0].name].nbytes
    defined = dict(re.findall(r"#define (\w+) (\d+)", (tmp_path / plan.HEADER).read_text()))
    assert int(defined["NPU_STREAMS"]) == 1
    assert int(defined["NPU0_INPUT0_OFFSET"]) == run.inputs[0].offset
    assert int(defined["NPU0_OUTPUT0_BYTES"]) == run.outputs[0].nbytes
    assert int(defined["NPU0_SCRATCH_BYTES"]) == run.scratch_bytes


def test_a_product_stays_on_the_npu_when_its_softmax_cannot(tmp_path: Path) -> None:
    graph, _ = TRANSFORMER_CASES["softmax_matmul"]()
    node = graph.nodes[0].output
    made, placed = converted(graph, U55, tmp_path / "u55")
    assert [r.kind for r in made.runs] == [Kind.PRODUCT]
    assert [t.name for t in made.runs[0].inputs] == [node + CODES, graph.nodes[0].inputs[1]]
    assert [t.name for t in made.runs[0].outputs] == [node + ACCUMULATOR]
    assert placed.nodes[0].place is Place.DELEGATE
    assert "the product runs on the NPU" in placed.nodes[0].reason
    assert "could not run on NPU" in placed.nodes[0].reason
    assert placed.share == 1
    made, placed = converted(graph, U85, tmp_path / "u85")
    assert [r.kind for r in made.runs] == [Kind.NPU]
    assert placed.nodes[0].reason == ""


def test_a_fallback_is_named_with_velas_reason_and_lone_moves_are_not_handed_over(tmp_path: Path) -> None:
    b = GraphBuilder("between")
    x = b.input("x", (1, 6, 8), DType.INT8)
    m, k = (b.constant(n, np.full(4, v, np.int32)) for n, v in (("m", 1 << 20), ("k", 77)))
    low = b.node("low", ops.LayerNorm(35), x, m, k)
    flat = b.node("flat", ops.Reshape((1, 48)), low)
    back = b.node("back", ops.Reshape((1, 12, 4)), flat)
    graph = b.finish([(b.node("again", ops.LayerNorm(35), back, m, k), None)])
    made, placed = converted(graph, U55, tmp_path)
    assert {r.kind for r in made.runs} == {Kind.CPU}
    reasons = {n.node: n.reason for n in placed.fallbacks}
    assert reasons["flat"] == reasons["back"] == ONLY_MOVES
    assert "could not run on NPU" in reasons["low"]
    assert not (tmp_path / plan.HEADER).exists()


@pytest.mark.slow
@pytest.mark.parametrize("target", [U55, U85])
@pytest.mark.parametrize("name", ["vit_micro", "mobilenet_micro"])
def test_the_shipped_models_have_all_their_multiplications_on_the_npu(name: str, target: str, tmp_path: Path) -> None:
    _, placed = converted(models.load_graph(name), target, tmp_path)
    assert placed.share == 1
    if target == U85:
        assert not placed.fallbacks


def test_a_package_holds_what_the_converter_wrote(tmp_path: Path) -> None:
    graph, feeds = CASES["conv_1x1"]()
    package = export(graph, U85, tmp_path / "pkg", None, feeds[:1])
    assert package.manifest.converter is ConverterName.ETHOS_U
    assert package.artifact("npu").placement in package.manifest.files
    assert package.manifest.footprint.weights_bytes > 0


def test_a_plan_of_another_graph_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    graph, _ = CASES["conv_1x1"]()
    EthosUConverter().convert(graph, targets.load(U55), tmp_path)
    with pytest.raises(FormatError, match="another graph's plan"):
        open_session(tmp_path / plan.FILE, TRANSFORMER_CASES["softmax_matmul"]()[0])
    (tmp_path / plan.FILE).write_text('{"accelerator": 3}')
    with pytest.raises(PackageError, match="damaged"):
        open_session(tmp_path / plan.FILE, graph)


def test_a_compiler_that_ends_is_a_reason_and_the_next_question_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    npu = targets.load(U55).npu
    assert npu is not None
    popen = subprocess.Popen
    with velas.Vela(npu) as vela:
        monkeypatch.setattr(subprocess, "Popen", lambda c, **kw: popen([c[0], "-c", "raise SystemExit(7)"], **kw))
        assert re.match(r"Vela ended with status", str(vela.compile(b"")))
        monkeypatch.setattr(subprocess, "Popen", popen)
        assert isinstance(vela.compile(b"no program"), str)


def test_a_target_without_an_npu_and_a_missing_compiler_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, _ = CASES["clamp"]()
    with pytest.raises(TargetError, match="'host': no NPU"):
        EthosUConverter().convert(graph, targets.load("host"), tmp_path)

    def absent(name: str, package: str | None = None) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"bitship\[ethos-u\]"):
        EthosUConverter().convert(graph, targets.load(U55), tmp_path)
