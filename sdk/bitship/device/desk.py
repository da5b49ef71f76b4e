"""The devices of one desk: ``devices.toml`` says which units there are and how each is reached.

[[device]]
name = "l4-a"
target = "nucleo-l4r5zi"
console = { driver = "serial", port = "/dev/serial/by-id/usb-STMicroelectronics_..." }
flasher = { driver = "pyocd", probe = "0669FF..." }
meter = { driver = "ppk2", port = "/dev/serial/by-id/usb-Nordic_..." }
"""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from bitship.device.base import Device
from bitship.device.benchmark_model import BenchmarkModel
from bitship.device.console import ConsoleSettings
from bitship.device.farm import FarmSettings
from bitship.device.flash import FlasherSettings
from bitship.device.hub import HubSettings
from bitship.device.meters import MeterSettings
from bitship.device.power import PowerSettings
from bitship.device.transfer import TransferSettings
from bitship.errors import DeviceError
from bitship.settings import read_toml
from bitship.targets import Target, TargetKind, load

FILE = "devices.toml"
VARIABLE = "BITSHIP_DEVICES"


class Drivers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What reaches a unit; a driver that is left out is done without."""

    console: ConsoleSettings | None = None
    flasher: FlasherSettings | None = None
    transfer: TransferSettings | None = None
    power: PowerSettings | None = None
    meter: MeterSettings | None = None


class Unit(Drivers, frozen=True, forbid_unknown_fields=True):
    """One unit: what type it is, and its drivers.

    runner  path, on the device, of the user's own ``executor_runner`` for executorch packages
    benchmark  the user's own ``benchmark_model`` there, which times tflite packages
    farm    where the unit is borrowed; its place may bring drivers that are left out here
    hub     how a device of Qualcomm AI Hub is used; its name is the target's where it is left out
    """

    name: str
    target: str
    runner: str | None = None
    benchmark: BenchmarkModel | None = None
    farm: FarmSettings | None = None
    hub: HubSettings | None = None


class Desk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All units of one file."""

    device: tuple[Unit, ...] = ()

    def unit(self, name: str) -> Unit:
        """Return a unit by its name; DeviceError with the nearest names."""
        for unit in self.device:
            if unit.name == name:
                return unit
        names = [u.name for u in self.device]
        near = difflib.get_close_matches(name, names, 3, 0.4) or names
        raise DeviceError(f"device '{name}': unknown; there are: {', '.join(near) or 'none'}; {FILE} lists them")


def way(unit: Unit) -> str:
    """Return the drivers that reach a unit, in a few words."""
    found = []
    for key in ("farm", "flasher", "console", "transfer", "power", "meter"):
        driver = getattr(unit, key)
        if driver is not None:
            found.append(f"{key} {driver.__struct_config__.tag or ''}".strip())
    return ", ".join(found) or "nothing"


def find() -> Path | None:
    """Return the file in use: ``$BITSHIP_DEVICES``, else devices.toml here, else in the user's configuration folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "bitship" / FILE
    return next((p for p in (Path(FILE), home) if p.is_file()), None)


def read(path: Path | None = None) -> Desk:
    """Read a desk, an empty one when there is no file; DeviceError names the file, the key and what is allowed."""
    path = path or find()
    if path is None:
        return Desk()
    desk = read_toml(path, Desk, DeviceError)
    names = [u.name for u in desk.device]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise DeviceError(f"{path}: two devices are named '{twice}'; names must differ")
    for unit in desk.device:
        load(unit.target)
    return desk


def _board(unit: Unit, target: Target) -> Device:
    from bitship.device.board import SerialBoard

    if unit.console is None:
        raise DeviceError(
            f"device '{unit.name}': has no console; a board needs one, such as {{ driver = \"serial\", ... }}"
        )
    return SerialBoard(unit.name, target, unit.console, unit.flasher, unit.power)


def _computer(unit: Unit, target: Target) -> Device:
    from bitship.device.computer import RemoteComputer
    from bitship.device.transfer import LocalTransfer

    if unit.transfer is None and target.kind is not TargetKind.HOST:
        raise DeviceError(
            f"device '{unit.name}': no transfer reaches it; ssh, adb or local are needed: "
            'transfer = { driver = "ssh", host = "..." }'
        )
    return RemoteComputer(unit.name, target, unit.transfer or LocalTransfer(), unit.runner, benchmark=unit.benchmark)


def _cloud(unit: Unit, target: Target) -> Device:
    from bitship.device.hub import HubDevice

    settings = unit.hub or HubSettings()
    if settings.device is None and target.hub_device is None:
        raise DeviceError(f"device '{unit.name}': which one is not said: hub = {{ device = \"Samsung Galaxy S24\" }}")
    return HubDevice(unit.name, msgspec.structs.replace(settings, device=settings.device or target.hub_device))


OPENERS: dict[TargetKind, Callable[[Unit, Target], Device]] = {
    TargetKind.HOST: _computer,
    TargetKind.LINUX: _computer,
    TargetKind.ANDROID: _computer,
    TargetKind.MCU: _board,
    TargetKind.CLOUD: _cloud,
}


def connect(unit: Unit) -> Device:
    """Return a unit as a Device; nothing is opened, or borrowed, before a package is."""
    if unit.farm is not None:
        from bitship.device.borrowed import BorrowedDevice

        return BorrowedDevice(unit, unit.farm)
    target = load(unit.target)
    return OPENERS[target.kind](unit, target)
