"""An emulator's serial port: starts the target's machine with the image, a socket pair between it and here."""

import contextlib
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bitship.device.console.base import Console
from bitship.device.process import find_tool
from bitship.errors import DeviceError
from bitship.targets import Emulator, Target


class QemuConsole(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="qemu"):
    """The target's own emulated machine, as ``[emulator]`` in target.toml has it."""

    @contextmanager
    def open(self, target: Target, image: Path) -> Iterator[Console]:
        if target.emulator is None or target.emulator.machine is None:
            raise DeviceError(f"{target.name}: target.toml names no emulated machine; use console driver 'serial'")
        machine = _Machine(target, target.emulator, image)
        try:
            yield machine
        finally:
            machine.stop()


def command(target: Target, emulator: Emulator, image: Path, chardev: str) -> list[str]:
    """Return QEMU's command line for an image that talks on its serial port."""
    package = "qemu-system-misc" if "riscv" in emulator.program else "qemu-system-arm"
    program = find_tool(emulator.program, f"it emulates {target.name}: apt-get install {package}")
    words = [program, "-machine", str(emulator.machine), "-display", "none", "-monitor", "none"]
    words += ["-chardev", chardev, "-serial", "chardev:link"]
    if emulator.icount_shift is not None:
        words += ["-icount", f"shift={emulator.icount_shift},sleep=off"]
    return [*words, *emulator.options, "-kernel", str(image.resolve())]


class _Machine:
    def __init__(self, target: Target, emulator: Emulator, image: Path) -> None:
        self._where = f"qemu {emulator.machine}"
        self._target, self._emulator, self._image = target, emulator, image
        self._start()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            words = command(self._target, self._emulator, self._image, f"socket,id=link,fd={theirs.fileno()}")
            self._process = subprocess.Popen(
                words,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )

    def stop(self) -> None:
        """End the machine."""
        self._process.kill()
        self._process.communicate()
        self._socket.close()

    def _gone(self) -> DeviceError:
        self._process.kill()
        _, said = self._process.communicate()
        last = (said.decode("utf-8", "replace").strip().splitlines() or ["nothing said"])[-1]
        return DeviceError(f"{self._where}: {self._image.name}: the emulator ended: {last}")

    def write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(30)
            self._socket.sendall(data)
        except TimeoutError:
            raise DeviceError(f"{self._where}: takes no more bytes for 30 s") from None
        except OSError:
            raise self._gone() from None

    def read(self, deadline_s: float) -> bytes:
        ready, _, _ = select.select([self._socket], [], [], deadline_s)
        if not ready:
            return b""
        data = b""
        with contextlib.suppress(OSError):
            data = self._socket.recv(1 << 16)
        if not data:
            raise self._gone()
        return data

    def reset(self) -> None:
        self.stop()
        self._start()
