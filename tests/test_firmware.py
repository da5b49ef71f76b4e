"""Generated C, built for this machine: the specification's bits, the same bytes twice, and clear refusals."""

import json
import re
import shutil
import struct
from pathlib import Path

import msgspec
import numpy as np
import pytest
from benchmarks import split_parts
from merged_cases import ALL_CASES, merge
from op_builders import I8, Case, D, ints, requant, rng, tflite_add
from op_cases import CASES

from bitship import targets
from bitship.converters.firmware import FirmwareConverter, build, emit, open_session
from bitship.converters.firmware.cores import core_of
from bitship.errors import DoesNotFitError, MissingDependencyError, PackageError, TargetError
from bitship.graph import Graph, GraphBuilder, spec
from bitship.graph.base import Array
from bitship.graph.calls import SMALL_TILE, lower
from bitship.graph.ops import OPS, Add, AvgPool2D, Concat, Conv2D, DepthwiseConv2D, FullyConnected, Reshape
from bitship.split.device import options_of
from bitship.targets import Application, ConverterName, Target, TargetKind
from bitship.targets.base import Toolchain

HOST = Target("host", "this machine", TargetKind.HOST, "native", (ConverterName.FIRMWARE,))
LIBRARY = "libmodel.so"
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
needs_arm = pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")


def assert_exact(folder: Path, graph: Graph, rows: list[tuple[Array, ...]]) -> None:
    session = open_session(folder / LIBRARY, graph)
    try:
        for inputs in rows:
            for port, a, b in zip(graph.outputs, session.run(*inputs), spec.run(graph, *inputs), strict=True):
                np.testing.assert_array_equal(a, b, err_msg=port.name)
    finally:
        session.close()


def network() -> Case:
    """Conv, depthwise, residual add, concat, pool, reshape, fully connected, and a second output."""
    r = rng("network")
    b = GraphBuilder("network")
    x = b.input('image */ " \\', (1, 12, 12, 3), I8)

    def conv(h: str, o: int, k: int) -> str:
        c, p = b.types[h].shape[3], k // 2
        w, bias = b.constant("w", ints(r, (o, k, k, c))), b.constant("b", r.integers(-999, 999, (o,)).astype(np.int32))
        factor = 1 / (60 * np.sqrt(k * k * c))
        op = Conv2D(padding=(p, p, p, p), input_zero_point=-3, requant=requant(r, o, factor, D, -3))
        return b.node(f"conv{o}", op, h, w, bias)

    h = conv(x, 16, 3)
    w, bias = b.constant("dw", ints(r, (3, 3, 16, 1))), b.constant("db", np.zeros(16, np.int32))
    epilogue = requant(r, 16, 1 / 180, D, -3)
    d = b.node("dw", DepthwiseConv2D(padding=(1, 1, 1, 1), input_zero_point=-3, requant=epilogue), h, w, bias)
    first, second, both = tflite_add()
    y = b.node("residual", Add(first, second, both), conv(d, 16, 1), h)
    z = b.node("joined", Concat(3), y, d)
    pooled = b.node("pooled", AvgPool2D((12, 12), (1, 1)), z)
    flat = b.node("flat", Reshape((1, 32)), pooled)
    fw, fb = b.constant("fw", ints(r, (10, 32))), b.constant("fb", np.zeros(10, np.int32))
    logits = b.node("logits", FullyConnected(requant=requant(r, 1, 1 / 99, D)), flat, fw, fb)
    graph = b.finish([(logits, None), (y, None), (x, None), (fb, None)])
    return graph, [(ints(r, (1, 12, 12, 3)),) for _ in range(3)]


@needs_cc
def test_every_case_gives_the_bits_of_the_specification(tmp_path: Path) -> None:
    graph, rows = merge(list(ALL_CASES))
    FirmwareConverter().convert(graph, HOST, tmp_path)
    assert_exact(tmp_path, graph, rows)


@needs_cc
def test_a_network_gives_the_bits_of_the_specification_and_of_graph_run(tmp_path: Path) -> None:
    graph, rows = network()
    FirmwareConverter().convert(graph, HOST, tmp_path)
    assert_exact(tmp_path, graph, rows)
    for row in rows:
        for a, b in zip(graph.run(*row), spec.run(graph, *row), strict=True):
            np.testing.assert_array_equal(a, b)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", [pytest.param("host", marks=needs_cc), pytest.param("mps2-an386", marks=needs_arm)])
def test_the_same_graph_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    target = HOST if name == "host" else targets.load(name)
    for part in ("a", "somewhere/else"):
        (tmp_path / part).mkdir(parents=True)
        conversion = FirmwareConverter().convert(network()[0], target, tmp_path / part)
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "somewhere/else")
    assert sorted(first) == list(conversion.files)
    for hint in (tmp_path, build.FIRMWARE):  # no path of this machine gets in
        assert not any(str(hint).encode() in v for v in first.values())


@needs_arm
@pytest.mark.parametrize("application", Application)
def test_generated_c_is_free_of_warnings(application: Application, tmp_path: Path) -> None:
    graph, options = network()[0], None
    if application is Application.SPLIT:
        head = split_parts.make(tmp_path / "split")
        graph, options = head.head, options_of(head)
    target = targets.load("mps2-an386")
    FirmwareConverter(application=application, options=options).convert(graph, target, tmp_path)
    made = build.recipe(target, emit.lower_graph(graph, core_of(target)).functions, True, application)
    strict = ("-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Werror")
    build.run(build.Recipe(made.compiler, made.flags + strict, made.sources, "strict.elf").command(tmp_path), tmp_path)


@needs_arm
def test_the_footprint_adds_up(tmp_path: Path) -> None:
    graph, _ = network()
    conversion = FirmwareConverter().convert(graph, targets.load("mps2-an386"), tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    made = conversion.footprint
    assert made.code_bytes is not None
    assert plan["flash_bytes"] == made.code_bytes + plan["sections"][".weights"]
    assert plan["sections"][".weights"] == made.weights_bytes == len((tmp_path / "weights.bin").read_bytes())
    assert plan["sections"][".arena"] == made.arena_bytes >= plan["live_bytes"]
    assert plan["ram_bytes"] >= made.arena_bytes + plan["sections"][".stack"]


def loaded(elf: bytes) -> list[tuple[int, int, bool]]:
    """Return (bytes in the file, bytes in memory, writable) of every segment of a 32-bit little-endian ELF."""
    (start,), (size, count) = struct.unpack_from("<I", elf, 28), struct.unpack_from("<HH", elf, 42)
    headers = (struct.unpack_from("<8I", elf, start + i * size) for i in range(count))
    return [(filesz, memsz, bool(flags & 2)) for kind, _, _, _, filesz, memsz, flags, _ in headers if kind == 1]


@needs_arm
@pytest.mark.parametrize("board", ["mps2-an386", "mps3-an547"])
def test_the_footprint_is_what_the_image_loads(board: str, tmp_path: Path) -> None:
    graph, _ = network()
    FirmwareConverter().convert(graph, targets.load(board), tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    segments = loaded((tmp_path / "model.elf").read_bytes())
    assert plan["flash_bytes"] == sum(in_file for in_file, _, _ in segments)
    assert plan["ram_bytes"] == sum(in_memory for _, in_memory, writable in segments if writable)


@needs_arm
@pytest.mark.parametrize("memory", ["flash", "ram"])
def test_an_image_too_large_is_refused_with_the_bytes_missing(memory: str, tmp_path: Path) -> None:
    graph, _ = network()
    target = targets.load("mps2-an386")
    FirmwareConverter().convert(graph, target, tmp_path)
    needed = json.loads((tmp_path / "plan.json").read_text())[f"{memory}_bytes"]
    region = getattr(target, memory)

    def limited(nbytes: int) -> Target:
        return msgspec.structs.replace(target, **{memory: msgspec.structs.replace(region, nbytes=nbytes)})

    for part, nbytes in (("before", 100), ("after", needed - 64)):  # found from the plan; found by the linker
        (tmp_path / part).mkdir()
        with pytest.raises(DoesNotFitError, match=r"mps2-an386: .*need.* (\d+) B .*too many") as error:
            FirmwareConverter().convert(graph, limited(nbytes), tmp_path / part)
        missing = re.search(r"(\d+) B (of \w+ )?too many", str(error.value))
        assert missing is not None
        assert 0 < int(missing[1]) <= needed
    (tmp_path / "exact").mkdir()
    FirmwareConverter().convert(graph, limited(needed), tmp_path / "exact")


def test_a_missing_compiler_names_its_package(tmp_path: Path) -> None:
    absent = msgspec.structs.replace(targets.load("mps2-an386"), toolchain=Toolchain("arm-none-eabi-no-such-"))
    with pytest.raises(MissingDependencyError, match="apt-get install gcc-arm-none-eabi"):
        FirmwareConverter().convert(CASES["clamp"]()[0], absent, tmp_path)


def test_a_target_without_memories_is_refused(tmp_path: Path) -> None:
    bare = Target("bare", "bare", TargetKind.MCU, "none", (ConverterName.FIRMWARE,))
    with pytest.raises(TargetError, match="no toolchain"):
        FirmwareConverter().convert(CASES["clamp"]()[0], bare, tmp_path)


def test_another_computer_without_a_toolchain_is_refused(tmp_path: Path) -> None:
    other = Target("other", "other", TargetKind.LINUX, "none", (ConverterName.FIRMWARE,), triple="aarch64-linux-gnu")
    with pytest.raises(TargetError, match="names no toolchain"):
        FirmwareConverter().convert(CASES["clamp"]()[0], other, tmp_path)


@needs_cc
def test_a_library_of_another_graph_or_of_nothing_is_refused(tmp_path: Path) -> None:
    FirmwareConverter().convert(CASES["clamp"]()[0], HOST, tmp_path)
    with pytest.raises(PackageError, match="is expected"):
        open_session(tmp_path / LIBRARY, CASES["table_int8"]()[0])
    (tmp_path / LIBRARY).write_bytes(b"not a library")
    with pytest.raises(PackageError, match="not a firmware library"):
        open_session(tmp_path / LIBRARY, CASES["clamp"]()[0])


@needs_cc
def test_two_sessions_of_one_package_do_not_share_memory(tmp_path: Path) -> None:
    graph, rows = CASES["clamp"]()
    FirmwareConverter().convert(graph, HOST, tmp_path)
    a, b = (open_session(tmp_path / LIBRARY, graph) for _ in range(2))
    first = a.run(*rows[0])
    b.run(*rows[1])
    np.testing.assert_array_equal(first[0], spec.run(graph, *rows[0])[0])
    np.testing.assert_array_equal(a.run(*rows[0])[0], first[0])
    a.close()
    b.close()
    a.close()


def test_every_kernel_a_node_calls_has_its_source_file() -> None:
    seen = set()
    for make in ALL_CASES.values():
        graph, _ = make()
        for node in graph.nodes:
            functions = [c.function for c in lower(graph, node, SMALL_TILE)]
            files = build.kernel_files(functions)
            text = "".join((build.FIRMWARE / "src" / f).read_text() for f in files)
            assert all(f"int {f}(" in text for f in functions)
            seen.add(type(node.op))
    assert seen == set(OPS)
