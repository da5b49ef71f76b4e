"""Packages on computers through the plainest transfer: every figure, every step, other processors in emulation."""

import platform
import shutil
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from small_nets import conv_net, small_net

import bitship
from bitship import targets
from bitship.converters.firmware import FirmwareConverter
from bitship.device.base import Bursts, Looks, Profiles
from bitship.device.desk import Unit, connect
from bitship.device.qemu_user import QemuUserDevice
from bitship.device.transfer import LocalTransfer
from bitship.errors import DeviceError
from bitship.graph import Graph, spec
from bitship.package import Package, golden_inputs, write
from bitship.targets import ConverterName

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
OTHERS = ["linux-aarch64", "linux-armv7", "linux-riscv64"]


def on(*names: str) -> pytest.MarkDecorator:
    found = []
    for name in names:
        target = targets.load(name)
        assert target.toolchain is not None
        assert target.emulator is not None
        absent = [p for p in (f"{target.toolchain.prefix}gcc", target.emulator.program) if shutil.which(p) is None]
        skip = pytest.mark.skipif(bool(absent), reason=f"{' and '.join(absent)} not installed")
        found.append(pytest.param(name, marks=[pytest.mark.target, skip]))
    return pytest.mark.parametrize("name", found)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return bitship.export(small_net(), "host", tmp_path_factory.mktemp("p") / "pkg", converter=ConverterName.FIRMWARE)


@on(*OTHERS)
def test_a_static_runner_gives_the_bits_on_another_processor(name: str, tmp_path: Path) -> None:
    made = bitship.export(small_net(), name, tmp_path / "pkg", converter=ConverterName.FIRMWARE)
    assert [a.role for a in made.manifest.artifacts] == ["runner"]
    header = (made.path / "runner").read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert b"/ld-linux" not in (made.path / "runner").read_bytes()  # no loader: nothing over there is needed
    report = bitship.bench(made, QemuUserDevice(targets.load(name)), runs=3)
    assert report.bits.exact
    assert [s.name for s in report.samples] == ["arena"]
    emulator = targets.load(name).emulator
    assert emulator is not None
    unit = Unit(name="emulated", target=name, transfer=LocalTransfer(emulator=(emulator.program, *emulator.options)))
    assert bitship.bench(made, connect(unit), runs=3).bits.exact


@needs_cc
@pytest.mark.parametrize("streamed", [False, True])
def test_every_step_can_be_looked_at_and_timed(streamed: bool, tmp_path: Path) -> None:
    graph = conv_net() if streamed else small_net()
    converter = FirmwareConverter(streamed=streamed)
    made = package_of(graph, converter, tmp_path / "pkg")
    assert (b"model_run_rows" in (made.path / "model.h").read_bytes()) == streamed
    inputs, _ = made.vectors()
    row = inputs[2]
    assert bitship.bench(made, connect(Unit(name="here", target="host")), runs=2, role="runner").bits.exact
    with connect(Unit(name="here", target="host")).open(made, "runner") as session:
        assert isinstance(session, Looks)
        assert isinstance(session, Profiles)
        wanted = dict(spec.trace(graph, *row))
        steps = session.steps()
        seen = [tensor for _, tensor in steps if tensor in wanted]
        assert len(seen) > 2
        for i, (_, tensor) in enumerate(steps):
            if tensor in wanted:
                np.testing.assert_array_equal(session.look(row, i), wanted[tensor], err_msg=tensor)
        profile = session.profile(row, 4)
        assert all(len(p.samples.values) == 4 for p in profile)
        assert sum(max(p.samples.values) for p in profile) > 0
        assert {t for _, t in steps} <= {p.tensor for p in profile}


def package_of(graph: Graph, converter: FirmwareConverter, out: Path) -> Package:
    host = targets.load("host")
    out.mkdir()
    made = converter.convert(graph, host, out)
    rows = golden_inputs(graph, 3)
    write(out, graph, host, ConverterName.FIRMWARE, out, made, (rows, [spec.run(graph, *row) for row in rows]))
    return Package.open(out)


@needs_cc
def test_a_runner_killed_or_altered_is_one_clear_error(package: Package, tmp_path: Path) -> None:
    inputs, _ = package.vectors()
    killer = LocalTransfer(launcher=("timeout", "-s", "KILL", "0.1"))
    with (
        connect(Unit(name="here", target="host", transfer=killer)).open(package, "runner") as session,
        pytest.raises(DeviceError, match="runner: ended with code"),
    ):
        cast(Bursts, session).burst(inputs[0], 10_000_000)


@needs_cc
def test_a_package_for_another_machine_is_not_started_on_this_one(tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-gcc") is None or platform.machine() == "aarch64":
        pytest.skip("needs a compiler for aarch64 on another machine")
    made = bitship.export(small_net(), "raspberry-pi-5", tmp_path / "pkg", converter=ConverterName.FIRMWARE)
    with pytest.raises(DeviceError, match="'raspberry-pi-5' has no emulator; name a device"):
        bitship.bench(made)


@needs_cc
def test_without_a_role_the_report_names_the_runner(package: Package) -> None:
    report = bitship.bench(package, connect(Unit(name="here", target="host")), runs=2)
    assert (report.artifact, report.bits.exact) == ("runner", True)


def test_a_board_without_a_transfer_is_said() -> None:
    with pytest.raises(DeviceError, match="no transfer reaches it"):
        connect(Unit(name="pi", target="linux-aarch64"))


@pytest.mark.parametrize(
    ("converter", "module"),
    [
        pytest.param(ConverterName.EXECUTORCH, "executorch", marks=pytest.mark.slow),
        (ConverterName.TFLITE, "ai_edge_litert"),
        (ConverterName.ONNX, "onnxruntime"),
    ],
)
def test_a_package_runs_with_the_runtime_of_the_python_over_there(
    converter: ConverterName, module: str, tmp_path: Path
) -> None:
    pytest.importorskip(module, reason=f"{module} is not installed")
    made = bitship.export(small_net(), "host", tmp_path / "pkg", converter=converter)
    unit = Unit(name="here", target="host", transfer=LocalTransfer(), runner=sys.executable)
    report = bitship.bench(made, connect(unit), runs=3, warmup=1)
    assert report.bits.exact
    assert {s.name for s in report.samples} == {"latency", "load", "first inference", "peak memory"}
    bare = tmp_path / "python3"
    bare.write_text("#!/bin/sh\necho 'ModuleNotFoundError: none here' >&2; exit 1\n")
    bare.chmod(0o755)
    lacking = Unit(name="here", target="host", transfer=LocalTransfer(), runner=str(bare))
    with (
        pytest.raises(DeviceError, match=f"does not import {module}.*none here.*name another Python"),
        connect(lacking).open(made, None),
    ):
        pass
