"""The TVM converter: every op's bits on every instruction set of this machine, and on aarch64 under emulation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from attention_paths import attentions, block
from fast_paths import extremes, products, rescales
from int4_cases import wide_layer
from merged_cases import COMMON_CASES, merge
from needs import skip_without_compiler
from op_builders import ints, requant
from random_nets import mobilenet_v2
from runner_files import differing, run_files

import bitship
from bitship.converters.tvm import TvmConverter, TvmSession, dispatch, open_session
from bitship.converters.tvm.isa import LEVELS, host_levels
from bitship.converters.tvm.lower import lower
from bitship.converters.tvm.narrow import interleaved
from bitship.errors import (
    DeviceError,
    FormatError,
    GraphError,
    MissingDependencyError,
    PackageError,
    TargetError,
    UnsupportedError,
)
from bitship.graph import DType, Graph, GraphBuilder, spec
from bitship.graph.base import Array
from bitship.graph.ops import Clamp, FullyConnected, Rounding
from bitship.targets import ConverterName, Target, TargetKind, load

skip_without_compiler()

pytest.importorskip("tvm")

HERE = [isa.name for isa in host_levels()]
# avx512vnni is avx512vbmi with other tables: every op's cases, random attentions and blocks are enough for it.
DISTINCT = [name for name in HERE if name != "avx512vnni" or "avx512vbmi" not in HERE]
THREADS = (1, 2, 3, 5)


def target_of(level: str) -> Target:
    return Target(level, level, TargetKind.LINUX, level, (ConverterName.TVM,), (level,))


def check(graph: Graph, feeds: list[tuple[Array, ...]], level: str, out: Path) -> None:
    TvmConverter().convert(graph, target_of(level), out)
    check_threads(open_session(out, graph), graph, feeds)


def check_threads(session: TvmSession, graph: Graph, feeds: list[tuple[Array, ...]]) -> None:
    wanted = [spec.run(graph, *f) for f in feeds]
    for threads in THREADS:
        session.set_threads(threads)
        assert (threads, differing(graph, [session.run(*f) for f in feeds], wanted)) == (threads, {})
    session.set_threads(1)


@pytest.fixture(scope="module", params=HERE)
def all_cases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TvmSession:
    graph, _ = merge(list(COMMON_CASES))
    out = tmp_path_factory.mktemp(request.param)
    TvmConverter().convert(graph, target_of(request.param), out)
    return open_session(out, graph)


def test_every_case_gives_the_bits_of_the_specification(all_cases: TvmSession) -> None:
    graph, feeds = merge(list(COMMON_CASES))
    check_threads(all_cases, graph, feeds)


@pytest.mark.parametrize("level", HERE)
def test_attention_of_random_sizes_and_zero_points_is_exact(level: str, tmp_path: Path) -> None:
    graph = attentions(np.random.default_rng(9), 12)
    check(graph, extremes(graph), level, tmp_path)


@pytest.mark.parametrize("level", HERE)
@pytest.mark.parametrize(("tokens", "heads", "head", "fused"), [(197, 3, 64, True), (17, 2, 21, False)])
def test_an_encoder_block_is_exact(level: str, tokens: int, heads: int, head: int, fused: bool, tmp_path: Path) -> None:
    graph = block(np.random.default_rng(tokens), tokens, heads, head, fused=fused)
    check(graph, extremes(graph)[:3], level, tmp_path)


@pytest.mark.parametrize("level", DISTINCT)
def test_channel_and_depth_tails_strides_groups_and_batches_are_exact(level: str, tmp_path: Path) -> None:
    graph = products(np.random.default_rng(5))
    check(graph, extremes(graph), level, tmp_path)


@pytest.mark.parametrize("level", DISTINCT)
def test_random_rescales_of_every_form_are_exact(level: str, tmp_path: Path) -> None:
    graph = rescales(np.random.default_rng(6), 60)
    check(graph, extremes(graph), level, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("level", DISTINCT)
def test_more_random_products_and_rescales_are_exact(level: str, seed: int, tmp_path: Path) -> None:
    graph = products(np.random.default_rng(100 + seed))
    check(graph, extremes(graph), level, tmp_path / "products")
    graph = rescales(np.random.default_rng(200 + seed), 100)
    check(graph, extremes(graph), level, tmp_path / "rescales")


@pytest.mark.parametrize("level", DISTINCT)
def test_a_network_is_exact_and_needs_no_tvm_where_it_runs(level: str, tmp_path: Path) -> None:
    graph = mobilenet_v2(64, 0.35, 10)
    check(graph, extremes(graph), level, tmp_path)
    (library,) = tmp_path.glob("lib*.so")
    assert b"libtvm" not in library.read_bytes()
    assert b"TVM" not in library.read_bytes()


@pytest.mark.parametrize("level", HERE[:1])
def test_the_same_graph_gives_the_same_bytes(level: str, tmp_path: Path) -> None:
    graph, _ = merge(list(COMMON_CASES)[::6])
    conversions = [TvmConverter().convert(graph, target_of(level), tmp_path / n) for n in ("a", "b")]
    assert conversions[0] == conversions[1]
    assert {"libcases.so", "runner"} == set(conversions[0].files)
    for name in conversions[0].files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def small() -> Graph:
    b = GraphBuilder("small")
    return b.finish([(b.node("y", Clamp(-3, 3), b.input("x", (2, 3), DType.INT8)), None)])


def test_the_runner_refuses_wrong_files_in_one_line(tmp_path: Path) -> None:
    TvmConverter().convert(small(), target_of(HERE[0]), tmp_path)
    (tmp_path / "in0").write_bytes(bytes(7))
    for arguments in ([], ["in0"], ["in0", "out0"], ["missing", "out0"]):
        done = subprocess.run(["./runner", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("runner: ")
        assert done.stderr.count("\n") == 1


def test_outputs_may_name_inputs_and_constants(tmp_path: Path) -> None:
    b = GraphBuilder("ends")
    x = b.input("x", (3,), DType.INT8)
    c = b.constant("c", np.arange(5, dtype=np.int16))
    graph = b.finish([(x, None), (c, None), (b.node("y", Clamp(0, 1), x), None)])
    check(graph, [(np.array([-5, 0, 5], np.int8),)], HERE[0], tmp_path)


def test_a_missing_tvm_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tvm", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'bitship\[tvm\]'"):
        TvmConverter().convert(small(), target_of(HERE[0]), tmp_path)


def test_a_node_without_a_lowering_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dispatch, "LOWERINGS", {})
    with pytest.raises(UnsupportedError, match="node 'y': no lowering for clamp"):
        TvmConverter().convert(small(), target_of(HERE[0]), tmp_path)


def test_a_target_without_a_level_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"features are mmx; tvm needs one of: avx512vbmi, avx512vnni, .*neon"):
        TvmConverter().convert(small(), target_of("mmx"), tmp_path)


def test_opening_refuses_what_is_no_library_of_this_graph(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="0 libraries"):
        open_session(tmp_path, small())
    (tmp_path / "libx.so").write_bytes(b"no library")
    with pytest.raises(FormatError, match="not a bitship library"):
        open_session(tmp_path, small())
    TvmConverter().convert(small(), target_of(HERE[0]), tmp_path / "a")
    with pytest.raises(PackageError, match="the graph's have"):
        open_session(tmp_path / "a", mobilenet_v2(32, 0.25, 10, blocks=2))
    with pytest.raises(GraphError, match="1 needed"):
        open_session(tmp_path / "a", small()).run()


def test_a_library_replaced_under_the_same_path_is_loaded_afresh(tmp_path: Path) -> None:
    x = np.array([[-9, 0, 9]] * 2, np.int8)
    for limit in (3, 5):
        b = GraphBuilder("small")
        graph = b.finish([(b.node("y", Clamp(-limit, limit), b.input("x", (2, 3), DType.INT8)), None)])
        TvmConverter().convert(graph, target_of(HERE[0]), tmp_path)
        session = open_session(tmp_path, graph)
        assert session.run(x)[0].max() == limit
    session.close()
    session.close()
    with pytest.raises(PackageError, match="closed"):
        session.run(x)


def test_the_host_target_takes_the_best_level_of_this_machine(tmp_path: Path) -> None:
    conversion = TvmConverter().convert(small(), load("host"), tmp_path)
    assert conversion.tools["isa"] == HERE[0]
    assert conversion.footprint.arena_bytes > 0


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("lanes", [8, 16])
def test_dealing_channels_to_vectors_is_what_packing_undoes(parts: int, lanes: int) -> None:
    order = interleaved(parts, lanes)
    assert sorted(order) == list(range(parts * lanes))
    vectors = np.array(order).reshape(parts, lanes // 4, 4)
    assert vectors.transpose(1, 0, 2).reshape(-1).tolist() == list(range(parts * lanes))


def test_every_level_names_what_the_kernels_need() -> None:
    for name, isa in LEVELS.items():
        assert isa.name == name
        assert isa.lanes in (4, 8, 16, 32)
        assert isa.k_step in (0, 2, 4, 8)


def test_more_threads_than_processors_end_and_agree(tmp_path: Path) -> None:
    graph = block(np.random.default_rng(3), 40, 2, 16)
    feeds = extremes(graph)
    TvmConverter().convert(graph, target_of(HERE[0]), tmp_path)
    wanted = [spec.run(graph, *f) for f in feeds]
    pinned = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    for threads in ("2", "7", "64"):
        found = run_files([*pinned, "./runner", "-t", threads], graph, feeds, tmp_path)
        assert differing(graph, found, wanted) == {}


def test_a_forked_process_runs_with_threads_of_its_own(tmp_path: Path) -> None:
    graph = block(np.random.default_rng(4), 40, 2, 16)
    feed = extremes(graph)[0]
    TvmConverter().convert(graph, target_of(HERE[0]), tmp_path)
    session = open_session(tmp_path, graph, threads=3)
    wanted = session.run(*feed)
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(a, b) for a, b in zip(session.run(*feed), wanted, strict=True))
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert differing(graph, [session.run(*feed)], [wanted]) == {}
    session.close()


def test_threads_that_can_not_be_are_refused(tmp_path: Path) -> None:
    graph = small()
    TvmConverter().convert(graph, target_of(HERE[0]), tmp_path)
    for threads, message in ((0, "at least 1"), (65, "there are 64")):
        with pytest.raises(PackageError, match=message):
            open_session(tmp_path, graph, threads=threads)
    (tmp_path / "in0").write_bytes(bytes(6))
    for words in (["-t", "0"], ["-t", "many"], ["-x", "1"]):
        done = subprocess.run(["./runner", *words, "in0", "out0"], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 2


def test_layout_changes_and_tables_between_products_are_no_kernels() -> None:
    graph = block(np.random.default_rng(5), 20, 2, 16)
    program = lower(graph, LEVELS[HERE[0]])
    kinds = {call.node.split(" (")[1].rstrip(")") for call in program.calls}
    assert kinds == {"layer_norm", "rms_norm", "fully_connected", "matmul", "softmax_matmul", "add"} & kinds
    assert not kinds & {"transpose", "slice", "table"}


def test_weights_of_four_bits_are_two_to_a_byte_in_the_library_and_exact(tmp_path: Path) -> None:
    names = [n for n in COMMON_CASES if n.startswith("int4_")]
    for level in HERE:
        check(*merge(names), level, tmp_path / level)
    graph, few = wide_layer()
    sizes = {}
    for name, g in (("int8", graph), ("int4", few)):
        made = TvmConverter().convert(g, target_of(HERE[0]), tmp_path / name)
        sizes[name] = made.footprint.weights_bytes, (tmp_path / name / "libwide.so").stat().st_size
    for before, after in zip(sizes["int8"], sizes["int4"], strict=True):
        assert before - after == pytest.approx(graph.constants["w"].size / 2, rel=0.1)
    check(few, extremes(few), HERE[0], tmp_path / "run")


def test_layers_of_one_shape_are_one_function() -> None:
    r = np.random.default_rng(6)
    b = GraphBuilder("twins")
    x = b.input("x", (9, 32), DType.INT8)
    for zero_point in (3, -8):
        w, bias = b.constant("w", ints(r, (32, 32))), b.constant("b", ints(r, (32,), DType.INT32, -900, 900))
        op = FullyConnected(zero_point, requant=requant(r, 32, 0.002, Rounding.SINGLE, zero_point))
        x = b.node("fc", op, x, w, bias)
    program = lower(b.finish([(x, None)]), LEVELS[HERE[0]])
    assert (len(program.calls), len(program.kernels)) == (2, 1)


def test_bench_takes_a_number_of_threads_and_reports_it(tmp_path: Path) -> None:
    graph = block(np.random.default_rng(8), 12, 2, 8)
    package = bitship.export(graph, "host", tmp_path / "tvm", converter=ConverterName.TVM)
    for role in (None, "runner"):
        report = bitship.bench(package, runs=2, warmup=0, role=role, threads=2)
        assert (report.environment["threads"], report.bits.differing) == ("2", 0)
    with pytest.raises(DeviceError, match="0 threads"):
        bitship.bench(package, runs=2, threads=0)
    other = bitship.export(small(), "host", tmp_path / "firmware", converter=ConverterName.FIRMWARE)
    with pytest.raises(DeviceError, match="firmware package on 2 threads"):
        bitship.bench(other, runs=2, threads=2)
