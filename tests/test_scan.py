"""Looking for devices: each source alone, with what it might see; a source that fails or hangs is one row."""

import json
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from flash_fakes import Fake, drive

from bitship.device import scan as s
from bitship.device.check import PROGRAMS, Lack, lacks
from bitship.device.desk import Desk, Drivers, Unit, read
from bitship.device.flash import uf2
from bitship.device.flash.pyocd import PyocdFlasher
from bitship.device.scan import Found, entries
from bitship.settings import _structs


def port(device: str, vid: int | None, pid: int | None, serial: str = "", what: str = "n/a") -> SimpleNamespace:
    return SimpleNamespace(device=device, vid=vid, pid=pid, serial_number=serial, description=what)


def test_serial_ports_are_matched_by_their_usb_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    from serial.tools import list_ports

    ports = [
        port("/dev/ttyS0", None, None),
        port("/dev/ttyACM0", 0x0483, 0x374E, "0669FF"),
        port("/dev/ttyUSB9", 0x1234, 0x1),
    ]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    found = s.serial_ports()
    assert [f.where for f in found] == ["/dev/ttyACM0", "/dev/ttyS0", "/dev/ttyUSB9"]
    assert set(found[0].targets) == {"nucleo-l4r5zi", "stm32h743"}
    assert found[0].serial == "0669FF"
    assert found[0].what == "0483:374e"
    assert found[1].targets == found[2].targets == ()


def test_a_port_is_called_by_its_lasting_name(tmp_path: Path) -> None:
    device = tmp_path / "ttyACM0"
    device.touch()
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    (by_id / "usb-ST-if02").symlink_to(device)
    assert s.stable_name(str(device), by_id) == str(by_id / "usb-ST-if02")
    assert s.stable_name(str(tmp_path / "other"), by_id) == str(tmp_path / "other")
    assert s.stable_name(str(device), tmp_path / "absent") == str(device)


def test_probes_phones_and_drives(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards = [{"unique_id": "E66", "vendor_name": "RPi", "product_name": "Debug Probe", "target": None}]
    boards.append({"unique_id": "0669FF", "vendor_name": "ST", "product_name": "STLink", "target": "stm32h743xx"})
    fake("pyocd", f"print({json.dumps(json.dumps({'status': 0, 'boards': boards}))})")
    probes = s.debug_probes()
    assert [(p.where, p.what, p.targets) for p in probes] == [
        ("E66", "RPi Debug Probe", ()),
        ("0669FF", "ST STLink", ("stm32h743",)),
    ]
    fake("adb", "print('List of devices attached\\nR5CT device usb:1 model:SM_S921B\\nABC unauthorized usb:2\\n')")
    phones = s.phones()
    assert [(p.where, p.what) for p in phones] == [
        ("R5CT", "SM_S921B"),
        ("ABC", "unauthorized: allow this computer on the phone's screen"),
    ]
    assert "android-arm64" in phones[0].targets
    assert phones[1].targets == ()
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 {drive(tmp_path, 'RP2350')} vfat rw 0 0\n")
    monkeypatch.setattr(uf2, "MOUNTS", mounts)
    assert [(d.what, d.targets) for d in s.drives()] == [("RPI-RP2", ("rp2350",))]


def test_a_source_that_hangs_or_fails_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Found]:
        raise ValueError("no JSON")

    monkeypatch.setattr(s, "serial_ports", lambda: [Found(source="serial port", where="/dev/x")])
    monkeypatch.setattr(s, "debug_probes", broken)
    monkeypatch.setattr(s, "phones", lambda: time.sleep(30))
    monkeypatch.setattr(s, "drives", lambda: [])
    start = time.monotonic()
    found = s.scan(deadline_s=0.5)
    assert time.monotonic() - start < 5
    assert [(f.source, f.problem) for f in found] == [
        ("serial port", ""),
        ("debug probe", "ValueError: no JSON"),
        ("adb", "no answer within 0.5 s"),
    ]


def test_what_is_missing_is_said_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {f.source: f.problem for f in s.scan()}
    assert found["debug probe"].endswith("pip install 'bitship[flash]'")
    assert found["adb"].endswith("apt-get install adb")


def test_entries_can_be_pasted_and_join_a_probe_with_its_port(tmp_path: Path) -> None:
    found = [
        Found(
            source="serial port",
            where="/dev/ttyACM0",
            targets=("nucleo-l4r5zi", "stm32h743"),
            keys={"console": {"driver": "serial", "port": "/dev/ttyACM0"}},
            serial="0669FF",
        ),
        Found(source="serial port", where="/dev/ttyS0", keys={"console": {"driver": "serial", "port": "/dev/ttyS0"}}),
        Found(
            source="debug probe",
            where="0669FF",
            targets=("stm32h743",),
            keys={"flasher": {"driver": "pyocd", "probe": "0669FF"}},
            serial="0669FF",
        ),
        Found(
            source="adb", where="R5", targets=("android-arm64",), keys={"transfer": {"driver": "adb", "serial": "R5"}}
        ),
        Found(source="adb", problem="nothing"),
    ]
    text = entries(found)
    units = tomllib.loads(text)["device"]
    assert [u["name"] for u in units] == ["stm32h743-1", "android-arm64-1"]
    assert units[0]["flasher"] == {"driver": "pyocd", "probe": "0669FF"}
    assert units[0]["console"] == {"driver": "serial", "port": "/dev/ttyACM0"}
    (tmp_path / "devices.toml").write_text(text)
    assert [u.target for u in read(tmp_path / "devices.toml").device] == ["stm32h743", "android-arm64"]
    doubtful = entries(found[:1])
    assert 'target = "nucleo-l4r5zi"  # or: stm32h743' in doubtful


def test_a_desk_says_what_its_units_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "devices.toml"
    there = tmp_path / "tty"
    there.touch()
    file.write_text(f"""
[[device]]
name = "a"
target = "nrf52840-dk"
console = {{ driver = "serial", port = "{there}" }}
flasher = {{ driver = "pyocd" }}

[[device]]
name = "b"
target = "esp32-c3"
console = {{ driver = "serial", port = "{tmp_path}/gone" }}
""")
    monkeypatch.setenv("PATH", str(tmp_path))
    desk = read(file)
    assert lacks(desk) == [
        Lack("a", "flasher: pyocd is not installed", "pip install 'bitship[flash]'"),
        Lack("b", f"console: {tmp_path}/gone is not there", "connect it; 'bitship devices --scan' lists the ports"),
    ]
    assert lacks(Desk((Unit("c", "nrf52840-dk", flasher=PyocdFlasher()),)))[0].unit == "c"


def test_every_driver_that_is_a_program_is_looked_for() -> None:
    """A tag in the table that no driver has would never be looked up."""
    tags = {(key, str(t.tag)) for key in ("flasher", "transfer", "power") for t in _structs(Drivers, f"$.{key}")}
    assert set(PROGRAMS) <= tags
    own = {("flasher", "script"), ("flasher", "uf2"), ("transfer", "local"), ("power", "script"), ("power", "ppk2")}
    assert tags - set(PROGRAMS) <= own


def test_a_port_without_permission_names_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from bitship.device import check

    (tmp_path / "tty").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(check, "_group", lambda _: "dialout")
    lack = check._port("a", "console", tmp_path / "tty")[0]
    assert "not open to this user" in lack.what
    assert lack.todo == "sudo usermod -aG dialout $USER, log in anew"
