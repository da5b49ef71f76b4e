"""Random graphs on every back end: whatever ``verify`` accepts gives the specification's bits everywhere.

pytest tests/test_graph_fuzz.py              some dozens of graphs
pytest tests/test_graph_fuzz.py -m slow      some hundreds
"""

import importlib.util
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import graph_fuzz
import numpy as np
import pytest
from merged_cases import join
from needs import skip_without_kernels

from bitship import targets
from bitship.converters.base import Session
from bitship.converters.executorch import EXACT, ExecutorchConverter
from bitship.converters.executorch import open_session as open_pte
from bitship.converters.executorch.ops import LOWERINGS as EXECUTORCH_OPS
from bitship.converters.firmware import FirmwareConverter
from bitship.converters.firmware import open_session as open_firmware
from bitship.converters.onnx import FILE as ONNX_FILE
from bitship.converters.onnx import OnnxConverter
from bitship.converters.onnx import open_session as open_onnx
from bitship.converters.primitives import LOWERINGS as PRIMITIVES
from bitship.converters.tflite import FILE as TFLITE_FILE
from bitship.converters.tflite import TfliteConverter
from bitship.converters.tflite import open_session as open_tflite
from bitship.converters.tvm import TvmConverter
from bitship.converters.tvm import open_session as open_tvm
from bitship.converters.tvm.dispatch import LOWERINGS as TVM_OPS
from bitship.converters.tvm.isa import host_levels
from bitship.device.qemu import QemuDevice
from bitship.device.runner import opened
from bitship.device.transfer import LocalTransfer
from bitship.graph import Graph, spec, verify
from bitship.graph.base import Array
from bitship.graph.ops import OPS, Conv2D, DepthwiseConv2D, Op
from bitship.targets import ConverterName, Target, TargetKind

skip_without_kernels()

Rows = list[tuple[Array, ...]]
BackEnd = tuple[Callable[[Graph, Path], Session], Collection[type[Op]]]


def many(seeds: Sequence[int], supported: Collection[type[Op]] = OPS) -> tuple[Graph, Rows]:
    """Return the graphs of the seeds side by side, and their feeds."""
    graphs = {f"s{seed}": graph_fuzz.graph(seed, supported=supported) for seed in seeds}
    return join({name: (g, graph_fuzz.feeds(g, seed)) for (name, g), seed in zip(graphs.items(), seeds, strict=True)})


def differing(graph: Graph, found: Rows, rows: Rows) -> set[str]:
    """Names of the outputs that differ from the specification."""
    wrong = set()
    for inputs, outputs in zip(rows, found, strict=True):
        for port, a, b in zip(graph.outputs, outputs, spec.run(graph, *inputs), strict=True):
            if (a.shape, a.dtype) != (b.shape, b.dtype) or not np.array_equal(a, b):
                wrong.add(port.name)
    return wrong


def check(back_end: BackEnd, seeds: Sequence[int], out: Path) -> None:
    open_session, supported = back_end
    graph, rows = many(seeds, supported)
    session = open_session(graph, out)
    try:
        assert differing(graph, [session.run(*row) for row in rows], rows) == set()
    finally:
        session.close()


def firmware(graph: Graph, out: Path) -> Session:
    FirmwareConverter().convert(graph, Target("host", "", TargetKind.HOST, "native", (ConverterName.FIRMWARE,)), out)
    return open_firmware(out / "libmodel.so", graph)


def executorch(graph: Graph, out: Path) -> Session:
    target = Target("any", "any", TargetKind.LINUX, "any", (ConverterName.EXECUTORCH,))
    ExecutorchConverter(delegates=()).convert(graph, target, out)
    return open_pte(out / EXACT, graph)


def tflite(graph: Graph, out: Path) -> Session:
    target = Target("any", "any", TargetKind.LINUX, "any", (ConverterName.TFLITE,))
    TfliteConverter().convert(graph, target, out)
    return open_tflite(out / TFLITE_FILE, graph)


def onnx(graph: Graph, out: Path) -> Session:
    target = Target("any", "any", TargetKind.LINUX, "any", (ConverterName.ONNX,))
    OnnxConverter(qdq=False).convert(graph, target, out)
    return open_onnx(out / ONNX_FILE, graph)


def tvm(level: str) -> Callable[[Graph, Path], Session]:
    def opened(graph: Graph, out: Path) -> Session:
        target = Target(level, level, TargetKind.LINUX, level, (ConverterName.TVM,), (level,))
        TvmConverter().convert(graph, target, out)
        return open_tvm(out, graph)

    return opened


def _installed(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


WITH_WEIGHTS: set[type[Op]] = {Conv2D, DepthwiseConv2D}  # the generator computes some weights, which is refused
LEVELS = [isa.name for isa in host_levels()][:1] + ["avx2"] * ("avx2" in [isa.name for isa in host_levels()][1:])
BACK_ENDS = [
    pytest.param(
        (firmware, OPS), 30, id="firmware", marks=pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
    ),
    pytest.param((executorch, EXECUTORCH_OPS), 3, id="executorch", marks=_installed("executorch")),
    pytest.param((tflite, set(PRIMITIVES) - WITH_WEIGHTS), 10, id="tflite", marks=_installed("ai_edge_litert")),
    pytest.param((onnx, set(PRIMITIVES) - WITH_WEIGHTS), 10, id="onnx", marks=_installed("onnxruntime")),
    *(pytest.param((tvm(level), TVM_OPS), 12, id=f"tvm-{level}", marks=_installed("tvm")) for level in LEVELS),
]


def assert_sound(seed: int) -> None:
    """Check one graph through ``graph.run``, and every tensor in between against its proven type and range."""
    graph = graph_fuzz.graph(seed)
    ranges = verify(graph)
    rows = graph_fuzz.feeds(graph, seed)
    assert differing(graph, [graph.run(*row) for row in rows], rows) == set()
    for row in rows:
        for name, value in spec.trace(graph, *row):
            assert (value.shape, value.dtype) == (graph.types[name].shape, graph.types[name].dtype.numpy), name
            assert ranges[name].lo <= int(value.min()), name
            assert int(value.max()) <= ranges[name].hi, name


def test_the_generator_reaches_every_op() -> None:
    seen = {type(node.op) for seed in range(80) for node in graph_fuzz.graph(seed).nodes}
    assert seen == set(OPS)
    assert graph_fuzz.graph(3).digest == graph_fuzz.graph(3).digest


def test_ranges_are_sound_and_graph_run_gives_the_bits_of_the_specification() -> None:
    for seed in range(80):
        assert_sound(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_many_more_graphs_are_sound_and_exact(block: int) -> None:
    for seed in range(1000 + 500 * block, 1500 + 500 * block):
        assert_sound(seed)


@pytest.mark.parametrize(("back_end", "count"), BACK_ENDS)
def test_random_graphs_are_exact(back_end: BackEnd, count: int, tmp_path: Path) -> None:
    check(back_end, range(count), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
@pytest.mark.parametrize(("back_end", "count"), BACK_ENDS)
def test_many_random_graphs_are_exact(back_end: BackEnd, count: int, block: int, tmp_path: Path) -> None:
    check(back_end, range(10_000 + 20 * block, 10_020 + 20 * block), tmp_path)


@pytest.mark.target
@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")
@pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed")
@pytest.mark.parametrize("board", ["mps2-an386", "mps3-an547"])
def test_random_graphs_are_exact_on_boards(board: str, tmp_path: Path) -> None:
    target = targets.load(board)
    graph, rows = many(range(300, 312))
    FirmwareConverter().convert(graph, target, tmp_path)
    found = QemuDevice(target, 120).run(tmp_path / "model.elf", graph, rows)
    assert differing(graph, list(found.outputs), rows) == set()


@pytest.mark.target
@pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="tvm is not installed")
@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-gcc") is None, reason="gcc-aarch64-linux-gnu is not installed")
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-user is not installed")
@pytest.mark.parametrize(
    "name", ["linux-aarch64", pytest.param("linux-aarch64-dotprod", marks=pytest.mark.slow), "linux-aarch64-sve256"]
)
def test_random_graphs_are_exact_on_aarch64(name: str, tmp_path: Path) -> None:
    graph, rows = many(range(320, 330), TVM_OPS)
    target = targets.load(name)
    assert target.emulator is not None
    TvmConverter().convert(graph, target, tmp_path)
    program = str(shutil.which(target.emulator.program))
    with (
        LocalTransfer((program, *target.emulator.options)).open() as transfer,
        opened(transfer, [tmp_path / "runner"], ["runner"], graph, 300) as session,
    ):
        assert differing(graph, session.run(rows), rows) == set()
