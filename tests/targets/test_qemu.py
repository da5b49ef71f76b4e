"""Every case on every emulated board: the bits of the specification; and boards that are silent, short or garbled."""

import json
import shutil
import stat
import struct
import sys
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from benchmarks.six_cores import digest, measure
from boards import BOARDS, needs_board, on_boards
from merged_cases import ALL_CASES, groups, merge
from op_cases import CASES
from random_nets import mobilenet_v2

from bitship import targets
from bitship.converters.firmware import FirmwareConverter, build
from bitship.device.qemu import QemuDevice, decode_outputs, encode_inputs
from bitship.errors import DeviceError, MissingDependencyError
from bitship.graph import Graph, spec
from bitship.graph.base import Array
from bitship.package import golden_inputs
from bitship.targets import Emulator, Target, TargetKind

NOPS = 1000


def assert_same(found: list[tuple[Array, ...]], graph: Graph, rows: list[tuple[Array, ...]]) -> None:
    for inputs, outputs in zip(rows, found, strict=True):
        for port, value, wanted in zip(graph.outputs, outputs, spec.run(graph, *inputs), strict=True):
            np.testing.assert_array_equal(value, wanted, err_msg=port.name)


# a microbit takes a few cases at a time; an M7 has the M4's kernels
@on_boards(*BOARDS, slow=("microbit", "mps2-an500"))
def test_the_whole_op_set_gives_the_bits_of_the_specification(board: str, tmp_path: Path) -> None:
    target = targets.load(board)
    assert target.ram is not None
    device = QemuDevice(target, 120)
    seen = 0
    for i, names in enumerate(groups(min(target.ram.nbytes // 2, 1 << 20))):
        graph, rows = merge(names)
        folder = tmp_path / str(i)
        folder.mkdir()
        FirmwareConverter().convert(graph, target, folder)
        result = device.run(folder / "model.elf", graph, rows)
        assert_same(result.outputs, graph, rows)
        assert 0 < result.stack_bytes < 4096
        assert result.instructions is not None
        assert min(result.instructions) > 0
        seen += len(names)
    assert seen == len(ALL_CASES)


@pytest.mark.parametrize("boards", [pytest.param(BOARDS, marks=[m for b in BOARDS for m in needs_board(b)])])
def test_six_cores_give_six_equal_outputs(boards: list[str]) -> None:
    graph = mobilenet_v2(24, 0.35, 10, 3)
    rows = golden_inputs(graph, 4)
    wanted = digest([spec.run(graph, *row) for row in rows])
    assert [measure(graph, board, rows).digest for board in boards] == [wanted] * 6


@on_boards("mps3-an547-dtcm")
@pytest.mark.parametrize(
    "dtcm", [pytest.param(0, marks=pytest.mark.slow), 4096, pytest.param(524288, marks=pytest.mark.slow)]
)
def test_tensors_in_two_memories_give_the_bits_of_the_specification(board: str, dtcm: int, tmp_path: Path) -> None:
    target = targets.load(board)
    fast = msgspec.structs.replace(target.memories[0], nbytes=dtcm)
    graph, rows = merge(sorted(ALL_CASES)[::12])
    converter = FirmwareConverter()
    converter.convert(graph, msgspec.structs.replace(target, memories=(fast,)), tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["elsewhere_bytes"]["dtcm"] == plan["sections"].get(".arena_dtcm", 0) <= dtcm
    assert bool(plan["elsewhere_bytes"]["dtcm"]) == bool(dtcm)
    result = QemuDevice(target).run(tmp_path / "model.elf", graph, rows)
    assert_same(result.outputs, graph, rows)


@on_boards(*BOARDS)
def test_a_thousand_nops_count_as_a_thousand_instructions(board: str, tmp_path: Path) -> None:
    target = targets.load(board)
    graph, rows = CASES["reshape"]()
    FirmwareConverter().convert(graph, target, tmp_path)
    made = build.recipe(target, [], weights=False)  # a reshape calls nothing
    text = (tmp_path / "model.c").read_text().replace("int error = BITSHIP_OK;", "int error = 0; NOPS;")
    nops = f'#define NOPS __asm__ volatile(".rept {NOPS}\\n nop\\n .endr")\n'
    (tmp_path / "model.c").write_text(nops + text)
    with_nops = _rebuilt(made, target, tmp_path, graph, rows)
    (tmp_path / "model.c").write_text("#define NOPS\n" + text)
    without = _rebuilt(made, target, tmp_path, graph, rows)
    assert without <= 25
    assert abs(with_nops - without - NOPS) <= 2


def _rebuilt(made: build.Recipe, target: Target, folder: Path, graph: Graph, rows: list[tuple[Array, ...]]) -> int:
    build.compile_package(made, folder, target.name)
    counts = QemuDevice(target, 60).run(folder / made.output, graph, rows).instructions
    assert counts is not None
    assert max(counts) - min(counts) <= 2
    return counts[0]


@on_boards("mps2-an386")
def test_the_package_rebuilds_itself(board: str, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    graph, _ = CASES["conv_3x3"]()
    FirmwareConverter().convert(graph, targets.load(board), tmp_path)
    before = (tmp_path / "model.elf").read_bytes()
    (tmp_path / "model.elf").unlink()
    build.run(["make"], tmp_path)
    assert (tmp_path / "model.elf").read_bytes() == before


@on_boards("mps2-an386")
def test_an_image_of_another_graph_is_refused(board: str, tmp_path: Path) -> None:
    graph, _ = CASES["clamp"]()
    FirmwareConverter().convert(graph, targets.load(board), tmp_path)
    other, rows = CASES["table_int8"]()
    with pytest.raises(DeviceError, match=r"ended with code 4|another graph"):
        QemuDevice(targets.load(board), 60).run(tmp_path / "model.elf", other, rows)


def _fake(folder: Path, body: str) -> QemuDevice:
    """An emulator that is a script; it runs in the folder with in.bin."""
    program = folder / "emulator"
    program.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    emulator = Emulator(program=str(program), machine="fake")
    return QemuDevice(Target("fake", "fake", TargetKind.MCU, "none", (), emulator=emulator), deadline_s=2)


def _results(graph: Graph, rows: list[tuple[Array, ...]]) -> bytes:
    """What an honest image would send."""

    def sealed(part: bytes) -> bytes:
        return part + struct.pack("<I", zlib.crc32(part))

    wanted = [b"".join(a.tobytes() for a in spec.run(graph, *row)) for row in rows]
    head = sealed(b"BSOU" + struct.pack("<II", 64, len(wanted[0])) + graph.digest.encode())
    records = b"".join(sealed(struct.pack("<iQ", 0, 160) + body) for body in wanted)
    return head + records + sealed(b"BSND" + struct.pack("<III", len(rows), 512, 60))


def test_an_honest_fake_is_understood(tmp_path: Path) -> None:
    graph, rows = CASES["clamp"]()
    result = _fake(tmp_path, f"open('out.bin', 'wb').write({_results(graph, rows)!r})").run(tmp_path, graph, rows)
    assert_same(result.outputs, graph, rows)
    assert (result.instructions, result.stack_bytes, result.arena_bytes, result.arena_used) == (None, 512, 64, 60)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("time.sleep(60)", "silent"),
        ("", "without results"),
        ("sys.exit(3)", "fault"),
        ("sys.exit('board fell off')", "board fell off"),
        ("open('out.bin', 'wb').write(b'')", "end after 0 B"),
        ("open('out.bin', 'wb').write(b'hello' * 1000)", "garbled"),
    ],
)
def test_a_silent_or_babbling_board_is_an_error(body: str, message: str, tmp_path: Path) -> None:
    graph, rows = CASES["clamp"]()
    with pytest.raises(DeviceError, match=message):
        _fake(tmp_path, body).run(tmp_path, graph, rows)


def test_every_truncation_and_bit_flip_of_the_results_is_noticed() -> None:
    graph, rows = CASES["reduce_any"]()
    data = _results(graph, rows)
    decode_outputs(data, graph, len(rows), "fake")
    for end in range(len(data)):
        with pytest.raises(DeviceError):
            decode_outputs(data[:end], graph, len(rows), "fake")
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 0x10
        with pytest.raises(DeviceError):
            decode_outputs(bytes(bad), graph, len(rows), "fake")


def test_inputs_of_another_shape_are_refused_before_anything_starts(tmp_path: Path) -> None:
    graph, _ = CASES["clamp"]()
    with pytest.raises(Exception, match="is needed"):
        _fake(tmp_path, "").run(tmp_path, graph, [(np.zeros(3, np.int8),)])


def test_a_missing_emulator_names_its_package() -> None:
    emulator = Emulator(program="no-such-emulator", machine="fake")
    device = QemuDevice(Target("fake", "fake", TargetKind.MCU, "none", (), emulator=emulator))
    graph, rows = CASES["clamp"]()
    with pytest.raises(MissingDependencyError, match="apt-get"):
        device.run(Path("x"), graph, rows)


def test_the_inputs_file_has_a_crc_behind_every_record() -> None:
    data = encode_inputs([(np.arange(4, dtype=np.int8),)] * 2, 4)
    assert len(data) == 16 + 2 * 8
    assert struct.unpack("<I", data[20:24])[0] == zlib.crc32(bytes([0, 1, 2, 3]))
