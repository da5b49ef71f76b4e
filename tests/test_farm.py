"""Units of a farm: taken while a package is open, given back whatever happens, equipped with what their place has."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitship.device.borrowed import BorrowedDevice, equip
from bitship.device.console.serial import SerialConsole
from bitship.device.desk import Unit, connect, read
from bitship.device.farm import LabgridFarm, Lease, Resource
from bitship.device.flash.script import ScriptFlasher
from bitship.errors import DeviceError, MissingDependencyError
from bitship.package import Package

CLIENT = """#!{python}
import pathlib, sys
log = pathlib.Path({log!r})
words = sys.argv[3:]
log.open("a").write(" ".join(words) + "\\n")
if pathlib.Path({away!r}).exists() and (left := int(pathlib.Path({away!r}).read_text())):
    pathlib.Path({away!r}).write_text(str(left - 1))
    sys.exit("labgrid-client: cannot connect")
if words[0] == "reserve":
    print("export LG_TOKEN=T0KEN")
elif words[-1] == "show":
    print(pathlib.Path({shown!r}).read_text())
"""

SHOWN = """Place 'm4-a':
  tags: board=mps2-an386
Acquired resource 'NetworkSerialPort' (bench-1/m4-a/NetworkSerialPort/NetworkSerialPort):
  {'acquired': 'm4-a',
   'avail': True,
   'cls': 'NetworkSerialPort',
   'params': {'host': '127.0.0.1', 'port': 4711, 'speed': 115200}}
Acquired resource 'BitshipUnit' (bench-1/m4-a/BitshipUnit/BitshipUnit):
  {'acquired': 'm4-a', 'avail': True, 'cls': 'BitshipUnit',
   'params': {'toml': 'flasher = { driver = "script", command = ["flash", "{image}"] }'}}
"""


class Desk:
    """A fake labgrid-client and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.shown, self.away, self.log = folder / "shown", folder / "away", folder / "log"
        self.shown.write_text(SHOWN)
        self.client = folder / "labgrid-client"
        text = CLIENT.format(python=sys.executable, log=str(self.log), away=str(self.away), shown=str(self.shown))
        self.client.write_text(text)
        self.client.chmod(0o755)

    def farm(self, wait_s: float = 20.0) -> LabgridFarm:
        return LabgridFarm({"board": "mps2-an386"}, "127.0.0.1:1", str(self.client), wait_s)

    def told(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


UNIT = Unit(name="m4", target="mps2-an386")


def test_a_place_is_reserved_acquired_shown_and_given_back(desk: Desk) -> None:
    with desk.farm().lease() as lease:
        assert lease.place == "m4-a"
        assert [r.kind for r in lease.resources] == ["NetworkSerialPort", "BitshipUnit"]
        assert len(desk.told()) == 4
    assert desk.told() == [
        "reserve --shell board=mps2-an386",
        "wait T0KEN",
        "-p +T0KEN acquire",
        "-p +T0KEN show",
        "-p +T0KEN release",
        "cancel-reservation T0KEN",
    ]


def use_and_fail(farm: LabgridFarm) -> None:
    with farm.lease():
        raise DeviceError("the line is gone")


def test_a_place_is_given_back_when_the_job_fails(desk: Desk) -> None:
    with pytest.raises(DeviceError, match="the line is gone"):
        use_and_fail(desk.farm())
    assert desk.told()[-2:] == ["-p +T0KEN release", "cancel-reservation T0KEN"]


def test_a_coordinator_that_comes_back_is_waited_for_and_one_that_does_not_is_named(desk: Desk) -> None:
    desk.away.write_text("2")
    with desk.farm().lease() as lease:
        assert lease.place == "m4-a"
    desk.away.write_text("1000")
    with pytest.raises(DeviceError, match="cannot connect"), desk.farm(1.5).lease():
        pass


def test_a_coordinator_that_is_gone_at_the_end_costs_no_result(desk: Desk) -> None:
    with pytest.warns(RuntimeWarning, match="not given back"), desk.farm(2.5).lease():
        desk.away.write_text("1000")


def test_a_place_that_is_not_available_or_shown_strangely_is_an_error(desk: Desk) -> None:
    desk.shown.write_text(SHOWN.replace("'avail': True", "'avail': False"))
    with pytest.raises(DeviceError, match=r"'NetworkSerialPort' .* is not available"), desk.farm().lease():
        pass
    desk.shown.write_text(SHOWN.replace("'params'", "'parms'"))
    with pytest.raises(DeviceError, match="is shown as"), desk.farm().lease():
        pass
    absent = LabgridFarm({"a": "b"}, client=str(desk.client) + "-not")
    with pytest.raises(MissingDependencyError, match="environment of its own"), absent.lease():
        pass


def test_a_unit_gets_the_drivers_its_place_brings_and_keeps_its_own(desk: Desk) -> None:
    with desk.farm().lease() as lease:
        unit = equip(UNIT, lease)
    assert unit.console == SerialConsole("rfc2217://127.0.0.1:4711?ign_set_control")
    assert unit.flasher == ScriptFlasher(("flash", "{image}"))
    own = Unit(name="m4", target="mps2-an386", console=SerialConsole("/dev/ttyUSB0"))
    assert equip(own, lease).console == own.console
    raw = Lease("p", (Resource("NetworkSerialPort", "n", {"host": "h", "port": 1, "protocol": "raw"}),))
    assert equip(UNIT, raw).console == SerialConsole("socket://h:1")
    with pytest.raises(DeviceError, match="did you mean 'flasher'"):
        equip(UNIT, Lease("p", (Resource("BitshipUnit", "b", {"toml": "flashr = 1"}),)))
    with pytest.raises(DeviceError, match="must give both"):
        equip(UNIT, Lease("p", (Resource("NetworkSerialPort", "n", {"host": "", "port": None}),)))


def test_a_unit_of_devices_toml_is_borrowed_only_while_a_package_is_open(tmp_path: Path) -> None:
    (tmp_path / "devices.toml").write_text(
        '[[device]]\nname = "m4"\ntarget = "mps2-an386"\nfarm = { driver = "labgrid", tags = { board = "m4" } }\n'
    )
    device = connect(read(tmp_path / "devices.toml").unit("m4"))
    assert device.name == "m4"
    assert device.environment() == {}


def test_a_borrowed_device_says_which_place_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fake_device import Playback
    from test_package import make

    import bitship
    from bitship.device import desk as desk_module

    ended = []

    class OnePlace:
        @contextmanager
        def lease(self) -> Iterator[Lease]:
            yield Lease("shelf-3", ())
            ended.append("given back")

    seen: list[Unit] = []

    def fake(unit: Unit) -> Playback:
        seen.append(unit)
        return Playback()

    monkeypatch.setattr(desk_module, "connect", fake)
    package: Package = make(tmp_path / "p")
    report = bitship.bench(package, BorrowedDevice(UNIT, OnePlace()), runs=6)
    assert report.environment["place"] == "shelf-3"
    assert report.device == "m4"
    assert seen[0].farm is None
    assert ended == ["given back"]
