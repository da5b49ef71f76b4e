"""A unit of a farm as a device: a place is taken when a package is opened, and given back when it is closed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from bitship.device.base import Device, DeviceSession
from bitship.device.console import ConsoleSettings
from bitship.device.console.serial import SerialConsole
from bitship.device.farm import FarmDriver, Lease
from bitship.errors import DeviceError
from bitship.package import Package
from bitship.settings import parse_toml

if TYPE_CHECKING:
    from bitship.device.desk import Unit

RESOURCE = "BitshipUnit"  # a resource a bench host may export: ``toml`` holds drivers as in devices.toml
_DRIVERS = ("console", "flasher", "transfer", "power", "meter")


class BorrowedDevice:
    """One unit of a farm, whichever place is free."""

    def __init__(self, unit: "Unit", farm: FarmDriver) -> None:
        self._unit = unit
        self._farm = farm
        self._device: Device | None = None
        self._place = ""

    @property
    def name(self) -> str:
        return self._unit.name

    def environment(self) -> dict[str, str]:
        inner = self._device.environment() if self._device is not None else {}
        return {**inner, "place": self._place} if self._place else inner

    @contextmanager
    def open(self, package: Package, role: str | None) -> Iterator[DeviceSession]:
        from bitship.device.desk import connect

        with self._farm.lease() as lease:
            self._place = lease.place
            self._device = connect(equip(self._unit, lease))
            with self._device.open(package, role) as session:
                yield session


def equip(unit: "Unit", lease: Lease) -> "Unit":
    """Return the unit with the drivers its place brings; what devices.toml says goes first.

    A ``NetworkSerialPort`` is a console; a ``BitshipUnit`` has drivers as devices.toml has them, and goes before it.
    """
    from bitship.device.desk import Drivers

    given: dict[str, Any] = {name: getattr(unit, name) for name in _DRIVERS if getattr(unit, name) is not None}
    for resource in sorted(lease.resources, key=lambda r: r.kind != RESOURCE):
        if resource.kind == RESOURCE:
            where = f"{lease.place}, resource '{resource.name}'"
            brought = parse_toml(str(resource.settings.get("toml", "")).encode(), where, Drivers, DeviceError)
            for name in _DRIVERS:
                if getattr(brought, name) is not None:
                    given.setdefault(name, getattr(brought, name))
        elif resource.kind == "NetworkSerialPort":
            given.setdefault("console", _console(lease, resource.settings))
    return msgspec.structs.replace(unit, farm=None, **given)


def _console(lease: Lease, settings: dict[str, Any]) -> ConsoleSettings:
    host, port = settings.get("host"), settings.get("port")
    if not host or not port:
        raise DeviceError(
            f"{lease.place}: its serial port has host {host} and port {port}; its exporter must give both"
        )
    scheme = "socket" if settings.get("protocol") == "raw" else "rfc2217"
    return SerialConsole(f"{scheme}://{host}:{port}" + ("" if scheme == "socket" else "?ign_set_control"))
