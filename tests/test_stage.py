"""Patch-based inference: the bits of the whole graph, for any stage and tiling, in the unrolled graph and in C."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from stage_fuzz import image, stage_case

from bitship import kernels
from bitship.converters.firmware import emit, open_session
from bitship.converters.firmware.cores import Core
from bitship.errors import UnsupportedError
from bitship.graph import DType, Graph, GraphBuilder, spec
from bitship.graph.ops import Add, Clamp, MaxPool2D, Reshape
from bitship.passes.spans import Edge
from bitship.passes.stage import Halo, Stage, geometry, splits
from bitship.passes.unroll import unroll

FIRMWARE = Path(__file__).resolve().parents[1] / "firmware"
FUZZ, CHUNK = 600, 50
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")


def build(program: emit.Program, folder: Path) -> Path:
    """Compile the generated C against this machine's kernels library, canaries on."""
    folder.mkdir()
    (folder / "model.h").write_text(emit.header(program))
    (folder / "model.c").write_text(emit.source(program))
    sources = ["model.c"]
    if program.weights:
        (folder / "weights.S").write_text(emit.weights_source(program))
        (folder / "weights.bin").write_bytes(program.weights)
        sources.append("weights.S")
    library = kernels.find()
    flags = ["-std=c99", "-O1", "-fPIC", "-shared", "-DMODEL_CANARIES", "-Wall", "-Wextra", "-Werror"]
    flags += [f"-I{FIRMWARE / 'include'}", f"-I{FIRMWARE / 'src'}", "-I.", "-o", "libmodel.so"]
    linked = [str(library), f"-Wl,-rpath,{library.parent}"]
    subprocess.run(["cc", *flags, *sources, *linked], cwd=folder, check=True, timeout=60)
    return folder / "libmodel.so"


def run(program: emit.Program, folder: Path, graph: Graph, seed: int) -> None:
    session = open_session(build(program, folder), graph)
    try:
        for extra in range(2):
            x = image(graph, seed + extra)
            for found, wanted in zip(session.run(x), graph.run(x), strict=True):
                np.testing.assert_array_equal(found, wanted, err_msg=str(seed))
    finally:
        session.close()


@needs_cc
@pytest.mark.parametrize(
    "first", [pytest.param(n, marks=[pytest.mark.slow] if n >= FUZZ // 2 else []) for n in range(0, FUZZ, CHUNK)]
)
def test_generated_loops_give_the_bits_of_the_whole_graph(first: int, tmp_path: Path) -> None:
    cores = [
        Core.SCALAR,
        *(core for core in (Core.DSP, Core.MVE) if hasattr(kernels.load().lib, f"bitship_{core.value}_conv2d")),
    ]
    for seed in range(first, first + CHUNK):
        graph, g = stage_case(seed)
        program = emit.lower_graph(graph, cores[seed % len(cores)], g.stage)
        run(program, tmp_path / str(seed), graph, seed)


@pytest.mark.parametrize("first", range(0, FUZZ, CHUNK))
def test_the_unrolled_graph_gives_the_bits_of_the_whole_graph(first: int) -> None:
    for seed in range(first, first + CHUNK):
        graph, g = stage_case(seed)
        unrolled = unroll(graph, g.stage)
        x = image(graph, seed)
        for found, wanted in zip(unrolled.run(x), graph.run(x), strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=str(seed))
        saved = graph.macs - unrolled.macs  # rows that a stride skips are no part of the unrolled graph
        known = sum(graph.node_macs(n) for n in g.nodes) - g.macs
        assert saved >= known if g.stage.halo is Halo.CACHED else saved == known, seed


def test_the_fuzz_reaches_both_schedules_and_all_their_corners() -> None:
    stages = [stage_case(seed)[1] for seed in range(FUZZ)]
    assert sum(g.stage.halo is Halo.CACHED for g in stages) > FUZZ // 3
    assert sum(g.stage.halo is Halo.RECOMPUTED for g in stages) > FUZZ // 5
    assert sum(g.stage.streamed for g in stages) > FUZZ // 10
    assert sum(len(g.nodes) > 4 for g in stages) > FUZZ // 10
    ragged = [g for g in stages if g.extent(g.output)[0] % g.stage.rows]
    assert len(ragged) > FUZZ // 10


def test_a_cached_halo_computes_nothing_twice_and_holds_little() -> None:
    for seed in range(100):
        graph, g = stage_case(seed)
        if g.stage.halo is Halo.RECOMPUTED:
            assert g.macs >= 0
            continue
        done = dict.fromkeys(g.tensors, 0)
        for now in g.strips:
            for name, (base, start, to) in now.items():
                assert base <= start == done[name] <= to
                done[name] = to
        assert done[g.output] == graph.types[g.output].shape[1]
        assert g.macs <= sum(graph.node_macs(n) for n in g.nodes)


def test_an_edge_is_a_floored_line_within_its_cap() -> None:
    edge = Edge(4, -3, 5, 2)
    assert [edge.at(t) for t in range(5)] == [0, 0, 2, 4, 5]


def chain(rows: int = 8) -> Graph:
    b = GraphBuilder("chain")
    x = b.input("x", (1, rows, 6, 3), DType.INT8)
    y = b.node("y", MaxPool2D((3, 3), (1, 1), (1, 1, 1, 1)), x)
    z = b.node("z", Add(), y, x)
    flat = b.node("flat", Reshape((1, rows * 18)), z)
    return b.finish([(flat, None)])


def test_a_stage_may_end_where_one_tensor_alone_is_needed() -> None:
    assert splits(chain()) == [2]  # after the pool the image is still needed; a reshape is no part of a stage


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage(1, 1, 6), "reads more than its last output"),
        (Stage(9, 1, 6), "the graph has 3"),
        (Stage(3, 1, 6), "end it elsewhere"),
        (Stage(2, 0, 6), "tiles of 0 x 6"),
        (Stage(2, 9, 6), "tiles of 9 x 6"),
        (Stage(2, 2, 3), "whole rows of 6 columns"),
        (Stage(2, 2, 2, Halo.RECOMPUTED, streamed=True), "needs a cached halo"),
    ],
)
def test_a_stage_that_cannot_be_says_why(stage: Stage, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        geometry(chain(), stage)


def test_a_graph_without_an_image_has_no_stage() -> None:
    b = GraphBuilder("vector")
    x = b.input("x", (4,), DType.INT8)
    graph = b.finish([(b.node("y", Clamp(-1, 1), x), None)])
    assert splits(graph) == []
    with pytest.raises(UnsupportedError, match="one image"):
        geometry(graph, Stage(1, 1, 1))


def test_the_specification_agrees_on_an_unrolled_graph() -> None:
    graph, g = stage_case(3)
    unrolled, x = unroll(graph, g.stage), image(graph, 3)
    for found, wanted in zip(spec.run(unrolled, x), spec.run(graph, x), strict=True):
        np.testing.assert_array_equal(found, wanted)
