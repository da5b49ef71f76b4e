"""A board on a serial port: flashed, switched on, asked for its image's digest, then run, measured and looked into."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bitship.converters.firmware.serial import STEPS
from bitship.device.base import DeviceSession
from bitship.device.board_session import Info, SerialSession
from bitship.device.console import ConsoleDriver
from bitship.device.console.qemu import QemuConsole
from bitship.device.flash import FlasherDriver
from bitship.device.link import Link
from bitship.device.power import PowerDriver
from bitship.errors import DeviceError, TargetError
from bitship.package import Package
from bitship.targets import Application, Target
from bitship.targets.base import ON_NPU

ROLES = tuple(a.role for a in Application if a.speaks)
SILENCE_SECONDS = 60.0
EMULATED_SECONDS = 300.0  # an emulated inference may take long
HANDSHAKE_SECONDS = 15.0
_OFF_SECONDS = 0.5
_PORT_SECONDS = 10.0  # in which a port on the board itself comes back after a power cycle


class SerialBoard:
    """A unit that runs packages of ``--app serial``.

    silence_s  an inference may take so long; without a byte for longer, a command has failed
    """

    def __init__(
        self,
        name: str,
        target: Target,
        console: ConsoleDriver,
        flasher: FlasherDriver | None = None,
        power: PowerDriver | None = None,
        silence_s: float = SILENCE_SECONDS,
    ) -> None:
        if target.uart is None:
            raise TargetError(f"{target.name}: target.toml has no uart; a board on a serial port needs one")
        self._name = name
        self._target = target
        self._console = console
        self._flasher = flasher
        self._power = power
        self._silence_s = silence_s
        self._info: Info | None = None

    @property
    def name(self) -> str:
        return self._name

    def environment(self) -> dict[str, str]:
        """Return the processor and its clock; what counts the figures, once a package was opened."""
        found = {"processor": self._target.cpu}
        if isinstance(self._console, QemuConsole):
            from bitship.device.qemu import QemuDevice

            found = QemuDevice(self._target).environment()
        elif self._target.clock_hz is not None:
            found["clock"] = f"{self._target.clock_hz} Hz"
        found["link"] = "serial"
        if self._info is not None:
            found["timer"] = self._info.timer()
        return found

    @contextmanager
    def open(self, package: Package, role: str | None) -> Iterator[DeviceSession]:
        artifact = package.artifact(role)
        role = artifact.role.removeprefix(ON_NPU)
        if role not in ROLES:
            raise DeviceError(
                f"{package.path}: its image has role '{artifact.role}', device '{self._name}' runs "
                f"{' and '.join(ROLES)}; export the package with --app serial"
            )
        if package.manifest.target != self._target.name:
            raise DeviceError(
                f"{package.path}: made for {package.manifest.target}, '{self._name}' is {self._target.name}"
            )
        image = package.path / artifact.path
        if self._flasher is not None:
            self._flasher.flash(image, self._target)
        if self._power is not None:
            self._power.set(False)
            time.sleep(_OFF_SECONDS)
            self._power.set(True)
        with self._opened(image, role) as link:
            self._info = Info.of(link.handshake(HANDSHAKE_SECONDS), link.where)
            graph = package.graph()
            if self._info.digest != graph.digest:
                raise DeviceError(
                    f"{link.where}: runs graph {self._info.digest[:12]}, the package has {graph.digest[:12]}; "
                    "flash the package's image: name a flasher in devices.toml"
                )
            yield SerialSession(link, self._info, graph, (image.parent / STEPS).read_bytes())

    @contextmanager
    def _opened(self, image: Path, role: str) -> Iterator[Link]:
        """Open the console; a port that a power cycle took away gets time to come back."""
        target = self._target
        if role == Application.ENERGY.role and target.uart is not None:
            slow = msgspec.structs.replace(target.uart, baud=target.uart.energy_baud)
            target = msgspec.structs.replace(target, uart=slow)
        end = time.monotonic() + (_PORT_SECONDS if self._power is not None else 0.0)
        while True:
            opening = self._console.open(target, image)
            try:
                console = opening.__enter__()
                break
            except DeviceError:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.2)
        try:
            yield Link(console, self._name, self._silence_s, reset=console.reset)
        finally:
            opening.__exit__(None, None, None)


def emulated(target: Target) -> SerialBoard:
    """Return the target's emulator as a board on a serial port."""
    machine = target.emulator.machine if target.emulator else None
    return SerialBoard(f"qemu {machine}", target, QemuConsole(), silence_s=EMULATED_SECONDS)
