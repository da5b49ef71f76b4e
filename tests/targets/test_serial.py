"""The serial application on every emulated board: bits, identical counts, profiles, looks inside, and what is wrong."""

import atexit
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from boards import BOARDS, on_boards
from op_cases import CASES
from random_nets import mobilenet_v2

import bitship
from bitship import targets
from bitship.benchmarking import bench, default_device
from bitship.converters.firmware import FirmwareConverter, build
from bitship.device.base import Bursts, Looks, Profiles
from bitship.device.bisect import first_difference
from bitship.device.board import SerialBoard, emulated
from bitship.device.board_session import SerialSession
from bitship.device.console import Console
from bitship.device.console.qemu import QemuConsole, command
from bitship.device.console.serial import SerialConsole
from bitship.device.desk import Unit, connect
from bitship.device.qemu import QemuDevice
from bitship.errors import BitsDifferError, DeviceError, DoesNotFitError, TargetError
from bitship.exporting import export
from bitship.figures import FigureKind
from bitship.graph import Graph, spec
from bitship.graph.base import Array
from bitship.package import Package
from bitship.passes.simplify import simplify
from bitship.targets import Application, ConverterName, TinyModel

KEPT = Path(tempfile.mkdtemp(prefix="bitship-"))
atexit.register(shutil.rmtree, KEPT, ignore_errors=True)


@cache
def network() -> Graph:
    return mobilenet_v2(24, 0.35, 10, 3)


@cache
def made(board: str, streamed: bool | None) -> Path:
    """The network for a board, exported once."""
    out = KEPT / f"{board}-{streamed}"
    return export(network(), board, out, application=Application.SERIAL, streamed=streamed).path


def serial(graph: Graph, board: str, out: Path, streamed: bool | None = None) -> Package:
    if graph is network():
        return Package.open(Path(shutil.copytree(made(board, streamed), out)))
    return export(graph, board, out, application=Application.SERIAL, streamed=streamed)


@on_boards(*BOARDS)
def test_bits_and_counts_over_serial(board: str, tmp_path: Path) -> None:
    package = serial(network(), board, tmp_path / "serial")
    assert package.artifact().role == "serial"
    reports = [bench(package, runs=3, warmup=1) for _ in range(2)]
    counts = [{s.name: s.values for s in r.samples} for r in reports]
    assert counts[0] == counts[1]
    assert len(set(counts[0]["instructions"])) == 1
    assert all(s.kind is FigureKind.SIMULATED for s in reports[0].samples)
    assert reports[0].bits.exact
    assert counts[0]["stack"][0] <= (package.manifest.footprint.stack_bytes or 0)

    files = bench(export(network(), board, tmp_path / "files"), runs=1, warmup=0)
    assert files.artifact == "firmware"
    assert abs(files.samples[0].values[0] - counts[0]["instructions"][0]) <= 4  # the same, without the transport

    whole, ops = counts[0]["instructions"][0], reports[0].ops
    assert [o.step for o in ops] == list(range(len(ops)))
    assert abs(sum(o.samples.values[0] for o in ops) - whole) <= 6 * len(ops)
    assert reports[0].ops[0].samples.values == reports[1].ops[0].samples.values


@on_boards("mps2-an386", "mps3-an547-dtcm")
def test_every_tensor_can_be_looked_at(board: str, tmp_path: Path) -> None:
    graph = network()
    package = serial(graph, board, tmp_path / "p")
    row = package.vectors()[0][2]
    wanted = dict(spec.trace(simplify(graph), *row))
    with default_device(package).open(package, None) as session:
        assert isinstance(session, Looks)
        steps = session.steps()
        assert len(steps) >= 10
        for i, (_, tensor) in enumerate(steps):
            np.testing.assert_array_equal(session.look(row, i), wanted[tensor], err_msg=tensor)
        assert first_difference(session, graph, row) is None


def spec_steps(graph: Graph, row: tuple[Array, ...]) -> list[str]:
    return [name for name, _ in spec.trace(simplify(graph), *row)]


def spoil(package: Package, at: int) -> Package:
    """Return the package with 16 bytes of its weights altered and its image built of that, as if nothing were wrong."""
    weights = bytearray((package.path / "weights.bin").read_bytes())
    weights[at : at + 16] = bytes(b ^ 0x40 for b in weights[at : at + 16])
    (package.path / "weights.bin").write_bytes(weights)
    (package.path / "model.elf").unlink()
    build.run(["make"], package.path)
    manifest = json.loads((package.path / "manifest.json").read_bytes())
    for name in ("weights.bin", "model.elf"):
        manifest["files"][name] = hashlib.sha256((package.path / name).read_bytes()).hexdigest()
    (package.path / "manifest.json").write_text(json.dumps(manifest))
    return Package.open(package.path)


@on_boards("mps2-an386")
@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
def test_a_wrong_weight_is_found_by_its_op_and_index(board: str, part: float, tmp_path: Path) -> None:
    graph = network()
    package = serial(graph, board, tmp_path / "p")
    size = (package.path / "weights.bin").stat().st_size
    row = package.vectors()[0][2]
    package = spoil(package, int(size * part))
    with default_device(package).open(package, None) as session:
        assert isinstance(session, Looks)
        found = first_difference(session, graph, row)
        assert found is not None
        differing = [
            i
            for i, (_, tensor) in enumerate(session.steps())
            if not np.array_equal(session.look(row, i), dict(spec.trace(simplify(graph), *row))[tensor])
        ]
        value = session.look(row, found.step)
    assert found.step == differing[0]
    assert int(value[found.index]) == found.found != found.wanted
    assert (found.op, found.tensor) == session.steps()[found.step]


@on_boards("mps2-an386")
def test_a_bench_of_wrong_bits_names_the_op_and_measures_nothing(board: str, tmp_path: Path) -> None:
    package = serial(network(), board, tmp_path / "pkg")
    spoiled = spoil(package, (package.path / "weights.bin").stat().st_size // 2)
    with pytest.raises(BitsDifferError, match=r"nothing was measured; step \d+ \(\w+\) writes '.*': at \[") as caught:
        bitship.bench(spoiled, runs=2)
    assert caught.value.report is not None
    assert caught.value.report.samples == ()
    assert "step" in caught.value.report.difference


@on_boards("mps2-an386", "microbit")
def test_a_streamed_image_comes_over_the_line(board: str, tmp_path: Path) -> None:
    graph = network()
    package = serial(graph, board, tmp_path / "p", streamed=True)
    reports = [bench(package, runs=2, warmup=0) for _ in range(2)]
    assert reports[0].bits.exact
    counts = [n for r in reports for s in r.samples if s.name == "instructions" for n in s.values]
    assert max(counts) - min(counts) <= (4 if board == "microbit" else 0)  # rows in between count for nothing
    files = bench(export(graph, board, tmp_path / "files", streamed=True), runs=1, warmup=0)
    assert abs(files.samples[0].values[0] - counts[0]) <= 0.002 * counts[0]  # readings around every request for rows
    row = package.vectors()[0][2]
    with default_device(package).open(package, None) as session:
        assert isinstance(session, Looks)
        assert isinstance(session, Bursts)
        assert len(session.steps()) < len(spec_steps(graph, row))
        assert first_difference(session, graph, row) is None
        with pytest.raises(DeviceError, match="needs it silent"):
            session.burst(row, 2)


@on_boards("mps2-an386")
def test_several_inputs_and_wide_outputs(board: str, tmp_path: Path) -> None:
    graph, rows = CASES["add_raw"]()
    assert len(graph.inputs) > 1
    package = serial(graph, board, tmp_path / "p")
    with default_device(package).open(package, None) as session:
        for row, outputs in zip(rows, session.run(rows), strict=True):
            for value, wanted in zip(outputs, spec.run(graph, *row), strict=True):
                np.testing.assert_array_equal(value, wanted)


@on_boards("mps2-an386", "qemu-rv32imc")
@pytest.mark.parametrize("streamed", [False, True])
def test_golden_vectors_in_flash_test_the_board_without_a_host(board: str, streamed: bool, tmp_path: Path) -> None:
    options = {"application": Application.SERIAL, "streamed": streamed or None, "self_test": 3}
    package = export(network(), board, tmp_path / "p", **options)  # type: ignore[arg-type]
    with default_device(package).open(package, None) as session:
        assert isinstance(session, SerialSession)
        assert session.self_test() == (3, 3)
        row = package.vectors()[0][1]
        np.testing.assert_array_equal(session.run([row])[0][0], package.vectors()[1][1][0])
    size = (package.path / "weights.bin").stat().st_size
    package = spoil(package, size // 50)
    with default_device(package).open(package, None) as session:
        assert isinstance(session, SerialSession)
        assert session.self_test()[0] < 3
    package = serial(network(), board, tmp_path / "without")
    with default_device(package).open(package, None) as session:
        assert isinstance(session, SerialSession)
        with pytest.raises(DeviceError, match="no such command"):
            session.self_test()


@on_boards("mps2-an386", "qemu-rv32imc")
def test_a_board_behind_a_pseudo_terminal(board: str, tmp_path: Path) -> None:
    package, target = serial(network(), board, tmp_path / "p"), targets.load(board)
    assert target.emulator is not None
    words = command(target, target.emulator, package.path / package.artifact().path, "pty,id=link")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as machine:
        assert machine.stdout is not None
        try:
            found = re.search(r"/dev/pts/\d+", machine.stdout.readline())
            assert found is not None
            unit = Unit("desk", board, console=SerialConsole(found[0]))
            reports = [bench(package, connect(unit), runs=2, warmup=0) for _ in range(2)]
        finally:
            machine.kill()
    assert reports[0].bits.exact
    assert reports[0].samples == reports[1].samples == bench(package, runs=2, warmup=0).samples


@on_boards("mps2-an386")
def test_an_image_in_energy_mode_is_measured_like_any(board: str, tmp_path: Path) -> None:
    package = export(network(), board, tmp_path / "p", application=Application.ENERGY)
    assert package.artifact().role == "energy"
    report = bench(package, runs=2, warmup=0)
    assert report.bits.exact
    assert len(set(report.samples[0].values)) == 1


@on_boards("mps2-an386")
def test_a_burst_is_timed_by_the_host(board: str, tmp_path: Path) -> None:
    package = serial(network(), board, tmp_path / "p")
    row = package.vectors()[0][2]
    with default_device(package).open(package, None) as session:
        assert isinstance(session, Bursts)
        assert isinstance(session, Profiles)
        burst = session.burst(row, 20)
    assert burst.runs == 20
    assert burst.end_s > burst.start_s
    assert burst.seconds is None  # an emulator's time is not a board's


@on_boards("mps2-an386")
def test_a_unit_of_the_desk_may_be_an_emulator(board: str, tmp_path: Path) -> None:
    package = serial(network(), board, tmp_path / "p")
    device = connect(Unit("here", board, console=QemuConsole()))
    report = bench(package, device, runs=1, warmup=0)
    assert report.device == "here"
    assert report.environment["link"] == "serial"


@on_boards("mps2-an386")
def test_packages_and_devices_that_do_not_fit_say_so(board: str, tmp_path: Path) -> None:
    graph, target = network(), targets.load(board)
    files, over = export(graph, board, tmp_path / "files"), serial(graph, board, tmp_path / "serial")
    with pytest.raises(DeviceError, match="--app serial"), emulated(target).open(files, None):
        pass
    with pytest.raises(DeviceError, match="--app files"), QemuDevice(target).open(over, None):
        pass
    with pytest.raises(DeviceError, match="made for mps2-an386"), emulated(targets.load("mps2-an385")).open(over, None):
        pass
    other = serial(CASES["clamp"]()[0], board, tmp_path / "other")
    device = SerialBoard("mixed", target, Pinned(other.path / "model.elf"))
    with pytest.raises(DeviceError, match="runs graph"), device.open(over, None):
        pass


class Pinned(msgspec.Struct, frozen=True):
    """A console of a board that runs another image than the one it is opened with."""

    image: Path

    def open(self, target: targets.Target, image: Path) -> AbstractContextManager[Console]:
        return QemuConsole().open(target, self.image)


def test_targets_without_what_an_application_needs_refuse_it(tmp_path: Path) -> None:
    graph = network()
    with pytest.raises(TargetError, match="applications are for microcontrollers"):
        export(graph, "host", tmp_path / "a", application=Application.SERIAL, converter=ConverterName.FIRMWARE)
    bare = msgspec.structs.replace(targets.load("mps2-an386"), uart=None)
    with pytest.raises(TargetError, match="no uart"):
        export(graph, bare, tmp_path / "b", application=Application.SERIAL)
    with pytest.raises(TargetError, match="need a serial port"):
        export(graph, "mps2-an386", tmp_path / "c", tiny=TinyModel.IC01)
    with pytest.raises(TargetError, match="for MLPerf Tiny's ic01"):
        export(graph, "mps2-an386", tmp_path / "d", application=Application.SERIAL, tiny=TinyModel.IC01)


@on_boards("microbit")
def test_the_memory_of_a_serial_image_is_checked_too(board: str, tmp_path: Path) -> None:
    graph, target = CASES["conv_3x3"]()[0], targets.load(board)
    export(graph, target, tmp_path / "files")
    taken = json.loads((tmp_path / "files" / "plan.json").read_text())["ram_bytes"]
    assert target.ram is not None
    tight = msgspec.structs.replace(target, ram=msgspec.structs.replace(target.ram, nbytes=taken + 64))
    FirmwareConverter().convert(graph, tight, tmp_path)
    with pytest.raises(DoesNotFitError, match="too many"):
        FirmwareConverter(application=Application.SERIAL).convert(graph, tight, tmp_path)
