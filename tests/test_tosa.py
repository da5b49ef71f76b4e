"""The TOSA converter: every op's bits against the specification, through TOSA's own reference model."""

import importlib
import itertools
import subprocess
from pathlib import Path
from typing import Any

import graph_fuzz
import numpy as np
import pytest
from merged_cases import ALL_CASES, COMMON_CASES, join
from op_cases import CASES
from random_nets import mobilenet_v2

from bitship import export
from bitship.converters.base import Numerics
from bitship.converters.tosa import MODEL, TosaConverter, open_session, pool
from bitship.converters.tosa import session as sessions
from bitship.converters.tosa.program import EMITTERS, emit
from bitship.errors import FormatError, GraphError, MissingDependencyError, UnsupportedError
from bitship.graph import DType, Graph, GraphBuilder, ops, spec
from bitship.graph.base import Array
from bitship.graph.ops import OPS, Cast, Clamp, DivRounding, Rescale
from bitship.targets import ConverterName, Target, TargetKind

pytest.importorskip("tosa_serializer")
pytest.importorskip("tosa_reference_model")

TARGET = Target("any", "any", TargetKind.NPU, "any", (ConverterName.TOSA,))
GROUP = 12  # cases that share one program
COMMON = list(COMMON_CASES)
OTHERS = [name for name in ALL_CASES if name not in COMMON_CASES]  # shapes that reach paths of kernels


def check(graph: Graph, feeds: list[tuple[Array, ...]], out: Path) -> None:
    conversion = TosaConverter().convert(graph, TARGET, out)
    assert conversion.artifacts[0].path == MODEL
    assert conversion.artifacts[0].numerics is Numerics.EXACT
    session = open_session(out / MODEL, graph)
    try:
        for inputs in feeds:
            results = zip(graph.outputs, session.run(*inputs), spec.run(graph, *inputs), strict=True)
            for port, found, wanted in results:
                assert found.dtype == wanted.dtype
                np.testing.assert_array_equal(found, wanted, err_msg=port.name)
    finally:
        session.close()


def test_every_op_has_an_emitter() -> None:
    assert set(EMITTERS) == set(OPS)


@pytest.mark.parametrize("first", range(0, len(COMMON), GROUP))
def test_every_case_gives_the_bits_of_the_specification(first: int, tmp_path: Path) -> None:
    check(*join({name: ALL_CASES[name]() for name in COMMON[first : first + GROUP]}), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, len(OTHERS), GROUP))
def test_the_other_cases_give_the_bits_of_the_specification(first: int, tmp_path: Path) -> None:
    check(*join({name: ALL_CASES[name]() for name in OTHERS[first : first + GROUP]}), tmp_path)


def test_random_graphs_are_exact(tmp_path: Path) -> None:
    fuzz(range(24), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_more_random_graphs_are_exact(block: int, tmp_path: Path) -> None:
    fuzz(range(100 + 40 * block, 140 + 40 * block), tmp_path)


def fuzz(seeds: range, out: Path) -> None:
    """Check the graphs that TOSA holds; a rescale that saturates beyond int32 is what it refuses of the others."""
    made: dict[str, tuple[Graph, list[tuple[Array, ...]]]] = {}
    for seed in seeds:
        graph = graph_fuzz.graph(seed)
        try:
            emit(graph)
        except UnsupportedError as e:
            assert "saturates beyond int32" in str(e)  # noqa: PT017 - most graphs raise nothing
            continue
        made[f"s{seed}"] = graph, graph_fuzz.feeds(graph, seed)
    assert len(made) >= len(seeds) // 3
    check(*join(made), out)


def test_a_network_gives_the_bits_of_the_specification_and_the_same_bytes_twice(tmp_path: Path) -> None:
    graph = mobilenet_v2(32, 0.25, 10, blocks=4)
    r = np.random.default_rng(1)
    shape = graph.inputs[0].type.shape
    check(graph, [(r.integers(-128, 128, shape).astype(np.int8),) for _ in range(3)], tmp_path / "a")
    TosaConverter().convert(graph, TARGET, tmp_path / "b")
    assert (tmp_path / "a" / MODEL).read_bytes() == (tmp_path / "b" / MODEL).read_bytes()


def test_inputs_and_constants_as_outputs_and_one_output_twice(tmp_path: Path) -> None:
    b = GraphBuilder("ends")
    x = b.input("x", (2, 3), DType.INT8)
    u = b.input("u", (4,), DType.UINT8)
    k = b.constant("k", np.arange(5, dtype=np.int32))
    y = b.node("y", Clamp(-5, 5), x)
    graph = b.finish([(x, None), (u, None), (y, None), (k, None), (y, None)])
    row = (np.arange(-3, 3, dtype=np.int8).reshape(2, 3) * 4, np.array([0, 1, 128, 255], np.uint8))
    check(graph, [row], tmp_path)


def test_every_permutation_of_axes_is_exact_however_few_axes_are_left_of_it(tmp_path: Path) -> None:
    b, outputs = GraphBuilder("permuted"), []
    for shape in ((2, 1, 3, 4, 1), (2, 3, 4, 5), (1, 1)):
        x = b.input("x", shape, DType.INT8)
        outputs += [b.node("y", ops.Transpose(p), x) for p in itertools.permutations(range(len(shape)))]
    graph = b.finish([(y, None) for y in outputs])
    r = np.random.default_rng(0)
    check(graph, [tuple(r.integers(-128, 128, p.type.shape).astype(np.int8) for p in graph.inputs)], tmp_path)


@pytest.mark.parametrize("shift", [30, 29, 12, 0])
@pytest.mark.parametrize("multiplier", [(1 << 31) - 1, 1 << 30, 5])
def test_a_rescale_that_saturates_far_outside_int32_is_exact(shift: int, multiplier: int, tmp_path: Path) -> None:
    b = GraphBuilder("saturating")
    x = b.input("x", (4096,), DType.INT32)
    low, high = DType.INT32.qmin, DType.INT32.qmax
    wide = Rescale((multiplier,), (shift,), dtype=DType.INT32, qmin=low, qmax=high)
    narrow = Rescale((multiplier,), (shift,), 0, -7, dtype=DType.INT16, qmin=-30000, qmax=32767)
    graph = b.finish([(b.node("wide", wide, x), None), (b.node("narrow", narrow, x), None)])
    r = np.random.default_rng(0)
    small = r.integers(-20, 21, 2048)
    values = np.concatenate([small, r.integers(low, high, 2044), [low, high, 1 << 30, -(1 << 30)]])
    check(graph, [(values.astype(np.int32),)], tmp_path)


def test_int64_results_of_a_proven_range_are_given_as_int64(tmp_path: Path) -> None:
    b = GraphBuilder("long")
    x = b.input("x", (5,), DType.INT32)
    graph = b.finish([(b.node("y", Cast(DType.INT64), x), None)])
    check(graph, [(np.array([-(1 << 31), -1, 0, 1, (1 << 31) - 1], np.int32),)], tmp_path)


def test_what_tosa_cannot_hold_is_named(tmp_path: Path) -> None:
    b = GraphBuilder("long")
    x = b.input("x", (5,), DType.INT64)
    graph = b.finish([(b.node("y", Cast(DType.INT32), x), None)])
    with pytest.raises(UnsupportedError, match=r"input 'x' is int64, which TOSA 1.0 has not"):
        TosaConverter().convert(graph, TARGET, tmp_path)
    b = GraphBuilder("wide")
    x = b.input("x", (1, 1, 20000), DType.INT8)
    m, k = (b.constant(n, np.ones(1, np.int32)) for n in ("m", "k"))
    graph = b.finish([(b.node("norm", ops.LayerNorm(20), x, m, k), None)])
    with pytest.raises(UnsupportedError, match=r"node 'norm': layer_norm over 20000 elements; 16384 are allowed"):
        TosaConverter().convert(graph, TARGET, tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 49, 64, 100, 255])
def test_the_reciprocal_of_a_count_divides_every_sum(count: int) -> None:
    multiplier, shift = pool.reciprocal(count, 255 * count)
    sums = np.arange(-255 * count, 255 * count + 1, dtype=np.int64)
    found = (sums * multiplier + (1 << (shift - 1))) >> shift
    np.testing.assert_array_equal(found, pool.mean(sums, count, DivRounding.HALF_AWAY))


def test_a_session_checks_its_inputs_and_ends_its_process(tmp_path: Path) -> None:
    graph, feeds = CASES["clamp"]()
    TosaConverter().convert(graph, TARGET, tmp_path)
    session = open_session(tmp_path / MODEL, graph)
    with pytest.raises(GraphError, match="is needed"):
        session.run(np.zeros((4, 33), np.int32))
    session.close()
    assert session._process.returncode == 0
    with pytest.raises(ValueError, match="closed"):
        session.run(*feeds[0])


@pytest.mark.parametrize("kept", [12, 500, 1000])
def test_a_damaged_program_is_a_format_error(kept: int, tmp_path: Path) -> None:
    graph, feeds = CASES["conv_3x3"]()
    TosaConverter().convert(graph, TARGET, tmp_path)
    body = (tmp_path / MODEL).read_bytes()
    (tmp_path / MODEL).write_bytes(body[:kept] + bytes(len(body) - kept))
    session = open_session(tmp_path / MODEL, graph)
    try:
        with pytest.raises(FormatError, match=r"model\.tosa: TOSA's reference model"):
            session.run(*feeds[0])
    finally:
        session.close()


def test_another_file_and_no_file_are_format_errors(tmp_path: Path) -> None:
    graph, _ = CASES["clamp"]()
    (tmp_path / MODEL).write_bytes(b"no program" * 20)
    with pytest.raises(FormatError, match="no TOSA flatbuffer"):
        open_session(tmp_path / MODEL, graph)
    with pytest.raises(FormatError, match="No such file"):
        open_session(tmp_path / "absent.tosa", graph)


def test_a_model_that_hangs_is_ended_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, feeds = CASES["clamp"]()
    TosaConverter().convert(graph, TARGET, tmp_path)
    monkeypatch.setattr(sessions, "_DEADLINE_S", 0.2)
    monkeypatch.setattr(subprocess, "Popen", slept(subprocess.Popen))
    session = open_session(tmp_path / MODEL, graph)
    with pytest.raises(FormatError, match=r"gave nothing for 0\.2 s"):
        session.run(*feeds[0])
    session.close()
    assert session._process.returncode != 0


def slept(popen: Any) -> Any:
    return lambda command, **kw: popen([command[0], "-c", "import time; time.sleep(60)"], **kw)


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, package: str | None = None) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    graph, _ = CASES["clamp"]()
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"bitship\[tosa\]"):
        TosaConverter().convert(graph, TARGET, tmp_path)


def test_a_package_of_the_host_runs_in_the_reference_model(tmp_path: Path) -> None:
    graph, feeds = CASES["conv_3x3"]()
    package = export(graph, "host", tmp_path / "pkg", ConverterName.TOSA, feeds[:2])
    assert package.manifest.artifacts[0].role == "program"
    session = open_session(package.path / MODEL, package.graph())
    inputs, outputs = package.vectors()
    np.testing.assert_array_equal(session.run(*inputs[1])[0], outputs[1][0])
    session.close()
