"""A Linux target in QEMU's user mode: the package's runner on files, checked by CRC. Bits only, no timing."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from bitship.device.base import DeviceSession
from bitship.device.host import RUNNER_ROLE
from bitship.device.runner import DEADLINE_SECONDS, opened_package
from bitship.device.transfer import LocalTransfer
from bitship.errors import DeviceError, MissingDependencyError
from bitship.package import Package
from bitship.targets import ConverterName, Target


class QemuUserDevice:
    """Runs the ``runner`` of a package for another processor. Emulated time means nothing, so none is taken."""

    def __init__(self, target: Target, deadline_s: float = DEADLINE_SECONDS) -> None:
        if target.emulator is None:
            raise DeviceError(f"{target.name}: target.toml names no emulator")
        self._target = target
        self._emulator = target.emulator
        self._deadline_s = deadline_s

    @property
    def name(self) -> str:
        return self._emulator.program

    def environment(self) -> dict[str, str]:
        done = subprocess.run([self._program(), "--version"], capture_output=True, text=True, timeout=30, check=False)
        version = re.search(r"version (\S+)", done.stdout)
        return {"emulator": f"{self.name} {version[1] if version else '?'}", "processor": self._target.cpu}

    def _program(self) -> str:
        program = shutil.which(self._emulator.program)
        if program is None:
            raise MissingDependencyError(
                f"{self._emulator.program}: not found; it emulates {self._target.name}: apt-get install qemu-user"
            )
        return program

    def role(self, package: Package) -> str | None:
        """Return the runner's role, whatever else the package has."""
        return RUNNER_ROLE

    @contextmanager
    def open(self, package: Package, role: str | None) -> Iterator[DeviceSession]:
        if package.manifest.converter is ConverterName.EXECUTORCH:
            raise DeviceError(
                f"{package.path}: {self.name} runs tvm and firmware packages; this is an executorch package"
            )
        with (
            LocalTransfer((self._program(), *self._emulator.options)).open() as transfer,
            opened_package(transfer, package, role or RUNNER_ROLE, self._deadline_s) as session,
        ):
            yield session
