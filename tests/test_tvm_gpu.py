"""Kernels for graphics processors: every op's bits on an OpenCL device, and what CUDA and Metal packages hold."""

import ctypes.util
from pathlib import Path

import msgspec
import numpy as np
import pytest
from merged_cases import COMMON_CASES, merge
from random_nets import mobilenet_v2

import bitship
from bitship.converters.base import Numerics
from bitship.converters.tvm import TvmConverter, open_session
from bitship.converters.tvm.gpu import BLOCK, PLAN, LaunchPlan
from bitship.converters.tvm.opencl import OpenClSession
from bitship.errors import BitshipError, DeviceError, FormatError, MissingDependencyError, PackageError
from bitship.graph import Graph, GraphBuilder, spec
from bitship.graph.base import Array
from bitship.graph.dtypes import DType
from bitship.graph.ops import Clamp
from bitship.targets import load

pytest.importorskip("tvm")


def small(limit: int = 3) -> Graph:
    b = GraphBuilder("small")
    return b.finish([(b.node("y", Clamp(-limit, limit), b.input("x", (2, 3), DType.INT8)), None)])


def plan_of(folder: Path) -> LaunchPlan:
    return msgspec.json.decode((folder / PLAN).read_bytes(), type=LaunchPlan)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of this machine's OpenCL device; skips where there is none."""
    folder = tmp_path_factory.mktemp("device")
    TvmConverter().convert(small(), load("opencl"), folder)
    try:
        session = open_session(folder, small())
    except MissingDependencyError as e:
        pytest.skip(str(e))
    try:
        assert isinstance(session, OpenClSession)
        return session.device
    finally:
        session.close()


def check(graph: Graph, feeds: list[tuple[Array, ...]], folder: Path) -> None:
    TvmConverter().convert(graph, load("opencl"), folder)
    session = open_session(folder, graph)
    try:
        for inputs in feeds:
            for port, found, wanted in zip(graph.outputs, session.run(*inputs), spec.run(graph, *inputs), strict=True):
                np.testing.assert_array_equal(found, wanted, err_msg=port.name)
    finally:
        session.close()


NAMES = list(COMMON_CASES)
GROUP = 24


@pytest.mark.slow  # the device's own compiler takes seconds a group
@pytest.mark.parametrize("first", range(0, len(NAMES), GROUP))
def test_every_case_gives_the_bits_of_the_specification(first: int, device: str, tmp_path: Path) -> None:
    check(*merge(NAMES[first : first + GROUP]), tmp_path)


QUICK = ["conv_3x3_double", "dw_3x3_s2", "fc_batch_per_channel", "softmax", "layer_norm_odd", "concat_last"]


def test_some_cases_give_the_bits_of_the_specification(device: str, tmp_path: Path) -> None:
    check(*merge(QUICK), tmp_path)


@pytest.mark.slow
def test_a_network_gives_the_bits_of_the_specification(device: str, tmp_path: Path) -> None:
    graph = mobilenet_v2(64, 0.35, 10)
    r = np.random.default_rng(2)
    shape = graph.inputs[0].type.shape
    check(graph, [(r.integers(-128, 128, shape).astype(np.int8),) for _ in range(2)], tmp_path)


def test_a_package_runs_on_this_machines_device(device: str, tmp_path: Path) -> None:
    report = bitship.bench(bitship.export(small(), "opencl", tmp_path / "pkg"), runs=2, warmup=0)
    assert report.bits.differing == 0


@pytest.mark.parametrize(
    ("target", "file", "word"),
    [
        ("opencl-adreno", "kernels.cl", "__kernel void"),
        ("opencl-mali", "kernels.cl", "__kernel void"),
        ("cuda", "kernels.cu", "__global__ void"),
        ("metal-apple-gpu", "kernels.metal", "kernel void"),
    ],
)
def test_a_package_holds_source_and_launches_in_order(target: str, file: str, word: str, tmp_path: Path) -> None:
    graph = mobilenet_v2(32, 0.25, 10, blocks=3)
    conversion = TvmConverter().convert(graph, load(target), tmp_path)
    proven = target.startswith("opencl")
    assert conversion.artifacts[0].numerics is (Numerics.EXACT if proven else Numerics.UNVERIFIED)
    text, plan = (tmp_path / file).read_text(), plan_of(tmp_path)
    assert (plan.source, plan.graph) == (file, graph.digest)
    for launch in plan.launches:
        assert f"{word} " in text
        assert f" {launch.kernel}(" in text
        items = launch.numbers[len(launch.places) + len(launch.numbers) - 1].value
        assert (launch.groups - 1) * BLOCK < items <= launch.groups * BLOCK
        for place in launch.places.values():
            assert place.offset % 256 == 0
    assert [p.nbytes for p in plan.outputs] == [p.type.nbytes for p in graph.outputs]
    assert max(n.groups for n in plan.launches) > 8


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        TvmConverter().convert(small(), load("cuda"), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_what_does_not_run_here_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TvmConverter().convert(small(), load("metal-apple-gpu"), tmp_path / "metal")
    with pytest.raises(DeviceError, match="metal kernels; only opencl"):
        open_session(tmp_path / "metal", small())
    TvmConverter().convert(small(), load("opencl"), tmp_path / "cl")
    with pytest.raises(PackageError, match="2 threads; an OpenCL device has its own"):
        open_session(tmp_path / "cl", small(), threads=2)
    with pytest.raises(PackageError, match="made from another graph"):
        open_session(tmp_path / "cl", small(5))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(MissingDependencyError, match="apt install ocl-icd-libopencl1 pocl-opencl-icd"):
        open_session(tmp_path / "cl", small())
    (tmp_path / "cl" / PLAN).write_text("{}")
    with pytest.raises(FormatError, match="not a plan of launches"):
        open_session(tmp_path / "cl", small())


def test_a_device_that_refuses_the_source_is_named(device: str, tmp_path: Path) -> None:
    TvmConverter().convert(small(), load("opencl"), tmp_path)
    (tmp_path / "kernels.cl").write_text("__kernel void broken(")
    with pytest.raises(BitshipError, match="does not compile the kernels"):
        open_session(tmp_path, small())
