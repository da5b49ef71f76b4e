"""The real esptool, stm32flash and smpmgr against loaders on a serial line; UF2 into a folder that plays a drive."""

import hashlib
import struct
from pathlib import Path

import msgspec
import pytest
from standins import ports
from standins.esp_rom import EspRom
from standins.smp_server import SmpServer
from standins.stm32_rom import ORIGIN, Stm32Rom
from tools.flashing import Images, debian_tool, python_tools

from bitship.device.flash.base import FlasherDriver
from bitship.device.flash.elf import read_image
from bitship.device.flash.esptool import EsptoolFlasher
from bitship.device.flash.smp import SmpFlasher
from bitship.device.flash.stm32 import Stm32Flasher
from bitship.errors import DeviceError

pytestmark = pytest.mark.tools


def esptool(port: str, stub: bool) -> EsptoolFlasher:
    return EsptoolFlasher(
        port=port, baud=115200, stub=stub, before="no-reset", after="no-reset", size="4MB", deadline_s=120
    )


@pytest.mark.parametrize("stub", [False, True])
def test_esptool_writes_an_image_that_the_rom_would_start(
    stub: bool, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_tools(monkeypatch)
    elf, target = images("esp32-c3")
    rom, seen = EspRom(), list[float]()
    with ports.serve(rom.run) as port:
        esptool(port, stub).flash(elf, target, seen.append)
    want = read_image(elf).flat("", 4)
    assert want.address == 0
    assert bytes(rom.flash[: len(want.data)]) == want.data
    assert rom.flash[:8] == struct.pack("<II", 0xAEDB041D, 0xAEDB041D)
    assert rom.stub is stub
    assert seen[-1] == 1.0


@pytest.mark.slow
def test_esptool_that_finds_another_byte_is_an_error(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    python_tools(monkeypatch)
    elf, target = images("esp32-c3")
    with ports.serve(EspRom(spoil=0x123).run) as port, pytest.raises(DeviceError, match=r"MD5|verif"):
        esptool(port, False).flash(elf, target)


def test_stm32flash_writes_verifies_and_starts(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    debian_tool(monkeypatch, "stm32flash", "stm32flash")
    elf, target = images("nucleo-l4r5zi")
    rom, seen = Stm32Rom(), list[float]()
    with ports.serve(rom.run) as port:
        Stm32Flasher(port=port, mode="8n1", deadline_s=120).flash(elf, target, seen.append)
    want = read_image(elf).flat("", 4)
    assert want.address == ORIGIN
    assert bytes(rom.flash[: len(want.data)]) == want.data
    assert rom.started == ORIGIN
    assert seen[-1] == 1.0


@pytest.mark.slow
def test_stm32flash_that_finds_another_byte_is_an_error(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    debian_tool(monkeypatch, "stm32flash", "stm32flash")
    elf, target = images("nucleo-l4r5zi")
    with ports.serve(Stm32Rom(spoil=0x123).run) as port, pytest.raises(DeviceError, match="verif"):
        Stm32Flasher(port=port, mode="8n1", deadline_s=120).flash(elf, target)


@pytest.mark.slow
def test_smpmgr_uploads_an_image_whose_hash_the_board_confirms(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    python_tools(monkeypatch)
    elf, target = images("nrf52840-dk-mcuboot")
    board = SmpServer()
    with ports.serve(board.run) as port:
        SmpFlasher(port=port, deadline_s=120).flash(elf, target)
    body = read_image(elf).flat("", 4).data
    assert bytes(board.slot[512 : 512 + len(body)]) == body
    assert bytes(board.slot[-32:]) == hashlib.sha256(board.slot[: 512 + len(body)]).digest()
    assert board.resets == 1


@pytest.mark.slow
def test_smpmgr_that_uploads_another_byte_is_an_error(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    python_tools(monkeypatch)
    elf, target = images("nrf52840-dk-mcuboot")
    board = SmpServer(spoil=0x300)
    with ports.serve(board.run) as port, pytest.raises(DeviceError):
        SmpFlasher(port=port, deadline_s=120).flash(elf, target)
    assert board.resets == 0


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["esptool", "stm32flash", "smpmgr"])
def test_a_silent_line_is_an_error_within_the_deadline(
    tool: str, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_tools(monkeypatch)
    debian_tool(monkeypatch, "stm32flash", "stm32flash")

    def silent(read: ports.Read, write: ports.Write) -> None:
        while True:
            read(1)

    with ports.serve(silent) as port:
        flashers: dict[str, tuple[FlasherDriver, str]] = {
            "esptool": (msgspec.structs.replace(esptool(port, False), deadline_s=60), "esp32-c3"),
            "stm32flash": (Stm32Flasher(port=port, mode="8n1", deadline_s=60), "nucleo-l4r5zi"),
            "smpmgr": (SmpFlasher(port=port, deadline_s=8), "nrf52840-dk-mcuboot"),
        }
        flasher, board = flashers[tool]
        with pytest.raises(DeviceError, match=r"; (hold BOOT|start the board)"):
            flasher.flash(*images(board))


def test_a_port_that_is_not_there_is_named(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python_tools(monkeypatch)
    debian_tool(monkeypatch, "stm32flash", "stm32flash")
    port = str(tmp_path / "ttyNONE")
    flashers: list[tuple[FlasherDriver, str]] = [
        (esptool(port, False), "esp32-c3"),
        (Stm32Flasher(port=port), "nucleo-l4r5zi"),
        (SmpFlasher(port=port), "nrf52840-dk-mcuboot"),
    ]
    for flasher, board in flashers:
        with pytest.raises(DeviceError, match=r"ttyNONE.*; 'bitship devices --scan' lists the ports"):
            flasher.flash(*images(board))
