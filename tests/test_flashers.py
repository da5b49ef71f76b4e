"""Flashers and power switches without the real programs: files they write, words they pass on, what they believe."""

import hashlib
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from flash_fakes import Fake, drive

from bitship import targets
from bitship.device.flash import FlasherSettings, uf2
from bitship.device.flash.bossac import BossacFlasher
from bitship.device.flash.elf import Image, Segment, read_image
from bitship.device.flash.esptool import EsptoolFlasher
from bitship.device.flash.openocd import OpenocdFlasher
from bitship.device.flash.pyocd import PyocdFlasher
from bitship.device.flash.smp import SmpFlasher, wrap
from bitship.device.flash.uf2 import Uf2Flasher, encode
from bitship.device.power.labgrid import LabgridPower
from bitship.device.power.uhubctl import UhubctlPower
from bitship.device.process import run_tool
from bitship.errors import DeviceError, MissingDependencyError


def elf(path: Path, segments: list[tuple[int, int, bytes]], entry: int = 0x100) -> Path:
    """Write an ELF of (address it runs at, address it is loaded at, data)."""
    head = 52 + 32 * len(segments)
    table, body = b"", b""
    for virtual, physical, data in segments:
        table += struct.pack("<8I", 1, head + len(body), virtual, physical, len(data), len(data), 5, 4)
        body += data
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIIIIIHHHHHH", 2, 40, 1, entry, 52, 0, 0, 52, 32, len(segments), 40, 0, 0)
    path.write_bytes(header + table + body)
    return path


def test_elf_segments_come_in_the_order_of_the_addresses_they_are_loaded_at(tmp_path: Path) -> None:
    path = elf(tmp_path / "a.elf", [(0x2000, 0x110, b"data"), (0x100, 0x100, b"0123456789")], 0x101)
    image = read_image(path)
    assert image == Image(0x101, (Segment(0x100, b"0123456789"), Segment(0x110, b"data")))
    assert image.flat("x", 8) == Segment(0x100, b"0123456789" + b"\xff" * 6 + b"data" + b"\xff" * 4)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda b: b[:-1], "cut off"),
        (lambda b: b[:60], "cut off"),
        (lambda b: b"\x7fELF\x02" + b[5:], "no 32-bit little-endian ELF"),
        (lambda b: b"", "no 32-bit little-endian ELF"),
        (lambda b: b[:44] + b"\0\0" + b[46:], "nothing to load"),
    ],
)
def test_a_damaged_elf_is_an_error(spoil: Callable[[bytes], bytes], said: str, tmp_path: Path) -> None:
    path = elf(tmp_path / "a.elf", [(0, 0, b"01234567")])
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DeviceError, match=said):
        read_image(path)


def test_parts_far_apart_or_over_each_other_are_not_made_one_piece() -> None:
    far = Image(0, (Segment(0, b"1"), Segment(0x10000000, b"2")))
    over = Image(0, (Segment(0, b"12"), Segment(1, b"2")))
    for image in (far, over):
        with pytest.raises(DeviceError, match=r"apart.*use a debug probe"):
            image.flat("x")


def test_uf2_blocks_are_those_of_the_format() -> None:
    data = encode(Image(0, (Segment(0x10000000, bytes(range(200))), Segment(0x10000100, b"\x55" * 260))), 0xE48BFF56)
    assert len(data) == 3 * 512
    for i in range(3):
        block = data[512 * i : 512 * (i + 1)]
        words = struct.unpack_from("<8I", block)
        assert words == (0x0A324655, 0x9E5D5157, 0x2000, 0x10000000 + 256 * i, 256, i, 3, 0xE48BFF56)
        assert struct.unpack_from("<I", block, 508)[0] == 0x0AB16F30
        assert block[288:508] == bytes(220)
    assert data[32 : 32 + 256] == bytes(range(200)) + b"\xff" * 56
    assert data[1024 + 32 : 1024 + 32 + 256] == b"\x55" * 4 + b"\xff" * 252


def test_uf2_is_copied_to_the_drive_with_the_targets_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = elf(tmp_path / "a.elf", [(0x10000000, 0x10000000, b"\x01" * 300)])
    one, other = drive(tmp_path, "RPI-RP2"), drive(tmp_path, "RP2350")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 {other} vfat rw 0 0\n/dev/sdb1 {one} vfat rw 0 0\nproc /proc proc rw 0 0\n")
    monkeypatch.setattr(uf2, "MOUNTS", mounts)
    seen: list[float] = []
    Uf2Flasher(wait_s=0).flash(image, targets.load("rp2040"), seen.append)
    assert (one / "bitship.uf2").read_bytes() == encode(read_image(image), 0xE48BFF56)
    assert not (other / "bitship.uf2").exists()
    assert seen[-1] == 1.0
    Uf2Flasher(volume=str(other), wait_s=0).flash(image, targets.load("rp2350"))
    assert (other / "bitship.uf2").read_bytes() == encode(read_image(image), 0xE48BFF59)


def test_uf2_without_a_drive_or_with_two_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = elf(tmp_path / "a.elf", [(0x10000000, 0x10000000, b"\x01")])
    mounts = tmp_path / "mounts"
    mounts.write_text("")
    monkeypatch.setattr(uf2, "MOUNTS", mounts)
    with pytest.raises(DeviceError, match=r"RPI-RP2: not mounted.*hold BOOTSEL"):
        Uf2Flasher(wait_s=0).flash(image, targets.load("rp2040"))
    (tmp_path / "x").mkdir()
    mounts.write_text("".join(f"/dev/sd {drive(d, 'RPI-RP2')} vfat rw 0 0\n" for d in (tmp_path, tmp_path / "x")))
    with pytest.raises(DeviceError, match=r"2 drives: .*name one as 'volume'"):
        Uf2Flasher(wait_s=0).flash(image, targets.load("rp2040"))


def test_an_mcuboot_image_has_header_body_and_hash() -> None:
    body = bytes(range(100))
    data = wrap(body, 512)
    assert struct.unpack_from("<IIHHII", data) == (0x96F3B83D, 0, 512, 0, 100, 0)
    assert data[512:612] == body
    assert struct.unpack_from("<HHBBH", data, 612) == (0x6907, 40, 0x10, 0, 32)
    assert data[620:] == hashlib.sha256(data[:612]).digest()


def test_bossac_gets_port_image_and_verify(fake: Fake, tmp_path: Path) -> None:
    image = elf(tmp_path / "a.elf", [(0x10000, 0x10000, b"1234")])
    board = targets.load("arduino-nano-33-ble")
    noted = fake("bossac", "print('[====] 100% (1/1 pages)'); print('Verify successful')")
    BossacFlasher(port="/dev/ttyACM3").flash(image, board)
    words = noted.read_text().split()
    assert words[:5] == ["--port=ttyACM3", "-U", "-i", "-e", "-v"]
    assert words[5] == "-w"
    assert words[-1] == "-R"
    fake("bossac", "print('[====] 100% (1/1 pages)')")
    with pytest.raises(DeviceError, match="nothing was verified"):
        BossacFlasher(port="/dev/ttyACM3").flash(image, board)
    fake("bossac", "print('No device found on ttyACM3'); sys.exit(1)")
    with pytest.raises(DeviceError, match=r"No device found on ttyACM3; press the board's reset button twice"):
        BossacFlasher(port="/dev/ttyACM3").flash(image, board)


@pytest.mark.parametrize(
    ("flasher", "board", "program"),
    [
        (PyocdFlasher(), "nrf52840-dk", "pyocd"),
        (OpenocdFlasher(interface="interface/cmsis-dap.cfg"), "nrf52840-dk", "openocd"),
        (EsptoolFlasher(port="/dev/null"), "esp32-c3", "esptool"),
        (SmpFlasher(port="/dev/null"), "nrf52840-dk-mcuboot", "smpmgr"),
    ],
)
def test_a_missing_program_says_how_to_install_it(
    flasher: FlasherSettings, board: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = elf(tmp_path / "a.elf", [(0x100, 0x100, b"1234")])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=rf"{program}: not found; (pip|apt-get) install"):
        flasher.flash(image, targets.load(board))


def test_programs_that_succeed_without_verifying_are_not_believed(fake: Fake, tmp_path: Path) -> None:
    image = elf(tmp_path / "a.elf", [(0x100, 0x100, b"1234")])
    for name in ("pyocd", "openocd", "esptool"):
        fake(name, "print('done')")
    with pytest.raises(DeviceError, match="nothing was compared"):
        PyocdFlasher().flash(image, targets.load("nrf52840-dk"))
    with pytest.raises(DeviceError, match="nothing was verified"):
        OpenocdFlasher(interface="x.cfg").flash(image, targets.load("nrf52840-dk"))
    with pytest.raises(DeviceError, match="nothing was verified"):
        EsptoolFlasher(port="/dev/null").flash(image, targets.load("esp32-c3"))
    fake("pyocd", "print('Comparing 4 bytes'); print('Mismatched byte at 0x00000100 (offset 0x0): 0x00 != 0x31')")
    with pytest.raises(DeviceError, match="verify failed: Mismatched byte at 0x00000100"):
        PyocdFlasher().flash(image, targets.load("nrf52840-dk"))


def test_a_flasher_says_which_ones_a_board_has(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"rp2040: flasher 'esptool' cannot flash it; .* lists: uf2, pyocd, openocd"):
        EsptoolFlasher(port="/dev/null").flash(tmp_path / "a.elf", targets.load("rp2040"))


def test_uhubctl_is_believed_only_when_the_port_says_so(fake: Fake) -> None:
    noted = fake("uhubctl", "print('New status for hub 1-1 [x]'); print('  Port 2: 0100 power')")
    UhubctlPower(hub="1-1", port=2).set(True)
    assert noted.read_text() == "-l 1-1 -p 2 -a on -r 3\n"
    with pytest.raises(DeviceError, match=r"port 2: is still on: power"):
        UhubctlPower(hub="1-1", port=2).set(False)
    with pytest.raises(DeviceError, match="has no port 3"):
        UhubctlPower(hub="1-1", port=3).set(True)
    fake("uhubctl", "print('  Port 2: 0000 off')")
    UhubctlPower(hub="1-1", port=2).set(False)
    fake("uhubctl", "print('No compatible devices detected at location 1-1!'); sys.exit(1)")
    with pytest.raises(DeviceError, match=r"No compatible devices.*; this hub cannot switch its ports"):
        UhubctlPower(hub="1-1", port=2).set(True)


def test_labgrid_switches_and_asks_again(fake: Fake) -> None:
    noted = fake("labgrid-client", "print('power for place m4 is on' if sys.argv[-1] == 'get' else '')")
    LabgridPower(place="m4", coordinator="127.0.0.1:20408").set(True)
    assert noted.read_text().splitlines() == [
        "-x 127.0.0.1:20408 -p m4 power on",
        "-x 127.0.0.1:20408 -p m4 power get",
    ]
    with pytest.raises(DeviceError, match="place m4: is on after 'power off'"):
        LabgridPower(place="m4").set(False)
    fake("labgrid-client", "print('labgrid-client: error: place m4 is not acquired'); sys.exit(1)")
    with pytest.raises(DeviceError, match=r"not acquired; acquire the place"):
        LabgridPower(place="m4").set(True)


def test_a_program_that_leaves_children_behind_is_stopped_with_them() -> None:
    """The child holds the pipe; the deadline still ends both."""
    line = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with pytest.raises(DeviceError, match=r"not done after 2 s, stopped"):
        run_tool([sys.executable, "-c", line], 2.0)


def test_output_is_heard_as_it_comes() -> None:
    heard: list[str] = []
    line = "import time\nfor i in range(3): print(i, flush=True); time.sleep(0.2)"
    assert run_tool([sys.executable, "-c", line], 30.0, heard=heard.append) == "0\n1\n2\n"
    assert len(heard) >= 2


def test_every_flasher_of_the_union_has_a_deadline_or_a_wait() -> None:
    for kind in FlasherSettings.__args__:
        names = {f.name for f in msgspec.structs.fields(kind)}
        assert names & {"deadline_s", "wait_s"}, kind
