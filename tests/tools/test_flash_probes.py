"""The real pyocd, openocd and gdb flash packages into emulated boards; then the package's application answers."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from standins.machine import Machine
from standins.probe import Probe
from tool_install import apt_program
from tools.flashing import Images, Uart, debian_tool, free_port, python_tools, small_graph

from bitship import bench, export, targets
from bitship.converters.firmware import FirmwareConverter
from bitship.device.desk import connect, read
from bitship.device.flash.base import FlasherDriver
from bitship.device.flash.elf import read_image
from bitship.device.flash.gdb import GdbFlasher
from bitship.device.flash.openocd import OpenocdFlasher
from bitship.device.flash.pyocd import PyocdFlasher
from bitship.errors import DeviceError
from bitship.targets import Application
from bitship.targets.base import Timer

STANDINS = Path(__file__).resolve().parents[1] / "standins"
JTAG = {"microbit": "nrf51_jtag.cfg", "mps2-an386": "mps2_jtag.cfg"}

pytestmark = pytest.mark.tools


@pytest.fixture
def uart() -> Iterator[Uart]:
    apt_program("qemu-system-arm", "qemu-system-arm")
    with Uart() as u:
        yield u


def pyocd(port: int) -> PyocdFlasher:
    return PyocdFlasher(probe=f"remote:127.0.0.1:{port}", deadline_s=120)


def openocd(port: int, board: str) -> OpenocdFlasher:
    commands = ("adapter driver remote_bitbang", "remote_bitbang host 127.0.0.1", f"remote_bitbang port {port}")
    return OpenocdFlasher(
        commands=(*commands, "transport select jtag"), config=(str(STANDINS / JTAG[board]),), deadline_s=120
    )


def assert_flashed(machine: Machine, elf: Path) -> None:
    """Every byte of the image is where it belongs."""
    for segment in read_image(elf).segments:
        for at in range(0, len(segment.data) & ~3, 4):
            want = int.from_bytes(segment.data[at : at + 4], "little")
            assert machine.read(segment.address + at) == want, hex(segment.address + at)


@pytest.mark.parametrize("board", ["microbit", "mps2-an386"])
def test_pyocd_flashes_a_package_and_it_runs(
    board: str, uart: Uart, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_tools(monkeypatch)
    elf, target = images(board)
    seen: list[float] = []
    with Machine(board, uart.options) as machine, Probe("pyocd", machine) as probe:
        pyocd(probe.port).flash(elf, target, seen.append)
        assert b"m-init-done" in uart.wait(b"m-ready")
        assert b"m-name-dut-[" in uart.ask(b"name%")
        assert_flashed(machine, elf)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0 or board != "microbit"


@pytest.mark.slow
@pytest.mark.parametrize("board", ["microbit", "mps2-an386"])
def test_openocd_flashes_a_package_and_it_runs(
    board: str, uart: Uart, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian_tool(monkeypatch, "openocd", "openocd")
    elf, target = images(board)
    with Machine(board, uart.options) as machine, Probe("openocd", machine) as probe:
        openocd(probe.port, board).flash(elf, target)
        assert b"m-init-done" in uart.wait(b"m-ready")
        assert b"m-name-dut-[" in uart.ask(b"name%")
        assert_flashed(machine, elf)


@pytest.mark.slow
def test_gdb_loads_a_package_through_an_emulators_server_and_it_runs(
    uart: Uart, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian_tool(monkeypatch, "gdb-multiarch", "gdb-multiarch")
    elf, target = images("mps2-an386")
    port = free_port()
    with Machine("mps2-an386", (*uart.options, "-gdb", f"tcp:127.0.0.1:{port}"), own_gdb=False):
        GdbFlasher(server=f"127.0.0.1:{port}", deadline_s=60).flash(elf, target)
        assert b"m-init-done" in uart.wait(b"m-ready")
        assert b"m-name-dut-[" in uart.ask(b"name%")


@pytest.mark.slow
def test_a_second_package_replaces_the_first(
    uart: Uart, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flash is erased before it is written: bits that were 0 come back as 1."""
    python_tools(monkeypatch)
    elf, target = images("microbit")
    data = elf.read_bytes()
    last = read_image(elf).segments[0].data[-256:]  # weights: the program still runs with others
    at = data.index(last)
    other = tmp_path / "other.elf"
    other.write_bytes(data[:at] + bytes(0x5A ^ b for b in last) + data[at + len(last) :])
    with Machine("microbit", uart.options) as machine, Probe("pyocd", machine) as probe:
        for which in (other, elf):
            pyocd(probe.port).flash(which, target)
            assert_flashed(machine, which)
        assert b"m-init-done" in uart.wait(b"m-ready")


class BadFlash(Machine):
    """A board with one bit of flash that never changes."""

    def read(self, address: int, size: int = 3) -> int:
        value = super().read(address, size)
        return value ^ 0x100 if address == 0x40 and size == 3 else value


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["pyocd", "openocd"])
def test_a_bad_bit_of_flash_is_an_error(tool: str, uart: Uart, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    python_tools(monkeypatch)
    debian_tool(monkeypatch, "openocd", "openocd")
    elf, target = images("mps2-an386")
    with BadFlash("mps2-an386", uart.options) as machine, Probe(tool, machine) as probe:
        flasher: FlasherDriver = pyocd(probe.port) if tool == "pyocd" else openocd(probe.port, "mps2-an386")
        with pytest.raises(DeviceError, match=r"verify failed|ended with code|Mismatched|differs"):
            flasher.flash(elf, target)


def test_nobody_at_the_other_end_is_one_clear_line(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    python_tools(monkeypatch)
    debian_tool(monkeypatch, "openocd", "openocd")
    debian_tool(monkeypatch, "gdb-multiarch", "gdb-multiarch")
    elf, target = images("mps2-an386")
    port = free_port()
    with pytest.raises(DeviceError, match=r"pyocd .*Connection refused.*; start the probe server"):
        pyocd(port).flash(elf, target)
    with pytest.raises(DeviceError, match=r"openocd .*remote_bitbang.*; start the adapter's server"):
        openocd(port, "mps2-an386").flash(elf, target)
    with pytest.raises(DeviceError, match=r"gdb.*refused.*; start the gdb server"):
        GdbFlasher(server=f"127.0.0.1:{port}", deadline_s=60).flash(elf, target)
    with pytest.raises(DeviceError, match=r"pyocd pack install"):
        PyocdFlasher(probe=f"remote:127.0.0.1:{port}", target="stm32l4r5zitx").flash(elf, target)
    with pytest.raises(DeviceError, match=r"flasher 'pyocd' cannot flash it; its target.toml lists: none"):
        pyocd(port).flash(elf, msgspec.structs.replace(target, flashers=()))


DESK = """
[[device]]
name = "bit-a"
target = "microbit"
console = {{ driver = "serial", port = "socket://127.0.0.1:{uart}" }}
flasher = {{ driver = "pyocd", probe = "remote:127.0.0.1:{pyocd}" }}

[[device]]
name = "bit-b"
target = "microbit"
console = {{ driver = "serial", port = "socket://127.0.0.1:{uart}" }}

[device.flasher]
driver = "openocd"
config = ["{config}"]
commands = [
    "adapter driver remote_bitbang", "remote_bitbang host 127.0.0.1", "remote_bitbang port {openocd}",
    "transport select jtag",
]
"""


@pytest.mark.slow
def test_bench_flashes_a_package_proves_its_bits_and_measures_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way, as a user goes it: export, devices.toml, bench; by pyocd and by openocd."""
    python_tools(monkeypatch)
    debian_tool(monkeypatch, "openocd", "openocd")
    graph = small_graph()
    package = export(graph, "microbit", tmp_path / "pkg", application=Application.SERIAL)
    line = free_port()
    options = ("-serial", f"tcp:127.0.0.1:{line},server=on,wait=off")
    with Machine("microbit", options) as machine, Probe("pyocd", machine) as one, Probe("openocd", machine) as two:
        file = tmp_path / "devices.toml"
        config = STANDINS / JTAG["microbit"]
        file.write_text(DESK.format(uart=line, pyocd=one.port, openocd=two.port, config=config))
        counts = set()
        for name in ("bit-a", "bit-b"):
            report = bench(package, connect(read(file).unit(name)), runs=3, warmup=1)
            assert report.bits.differing == 0
            assert report.bits.vectors > 2
            assert report.device == name
            counts |= {s.values for s in report.samples if s.name == "instructions"}
        assert len(counts) == 1


@pytest.mark.target
def test_the_pl011_driver_talks_on_an_emulated_board_that_has_one(uart: Uart, tmp_path: Path) -> None:
    """The RP2040's and RP2350's serial port is a PL011; QEMU's Stellaris board has one too, and a SysTick."""
    board = targets.load("mps2-an385")
    assert board.uart is not None
    assert board.flash is not None
    assert board.ram is not None
    stellaris = msgspec.structs.replace(
        board,
        flash=msgspec.structs.replace(board.flash, nbytes=256 << 10),
        ram=msgspec.structs.replace(board.ram, nbytes=64 << 10),
        uart=msgspec.structs.replace(board.uart, driver="pl011", address=0x4000C000, hz=12_000_000),
        timer=Timer("systick", 12_000_000),
        emulator=None,
    )
    FirmwareConverter(application=Application.SERIAL).convert(small_graph(), stellaris, tmp_path)
    command = ["qemu-system-arm", "-M", "lm3s6965evb", "-display", "none", "-monitor", "none", *uart.options]
    process = subprocess.Popen([*command, "-kernel", str(tmp_path / "model.elf")], stdin=subprocess.DEVNULL)
    try:
        assert b"m-init-done" in uart.wait(b"m-ready")
        assert b"m-name-dut-[" in uart.ask(b"name%")
        first = int(uart.ask(b"timestamp%").split(b"m-lap-us-")[1].split()[0])
        second = int(uart.ask(b"timestamp%").split(b"m-lap-us-")[1].split()[0])
        assert second > first
    finally:
        process.kill()
        process.wait()
