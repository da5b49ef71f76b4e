"""What the flasher tests share: the tools on the PATH, images, and a talk with the application on an emulated UART."""

import os
import socket
import time
from pathlib import Path

import pytest
from op_cases import CASES
from tool_install import apt_program, environment

from bitship import targets
from bitship.converters.firmware import FirmwareConverter
from bitship.graph import Graph
from bitship.targets import Application, Target

PACKAGES = {"arm-none-eabi-": "gcc-arm-none-eabi", "riscv64-unknown-elf-": "gcc-riscv64-unknown-elf"}
FLASH_REQUIREMENTS = ("pyocd==0.46.*", "esptool>=5", "smpmgr>=0.19")


def python_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put pyocd, esptool and smpmgr on the PATH."""
    _add(monkeypatch, environment("flash", *FLASH_REQUIREMENTS))


def debian_tool(monkeypatch: pytest.MonkeyPatch, program: str, package: str) -> None:
    """Put a program of a Debian package on the PATH."""
    _add(monkeypatch, Path(apt_program(program, package)).parent)


def _add(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def small_graph() -> Graph:
    """Return a convolution that fits the smallest board."""
    return CASES["conv_3x3"]()[0]


class Images:
    """Images of the small graph with the serial application, built once a session."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, board: str) -> tuple[Path, Target]:
        """Return a board's image and its target."""
        target = targets.load(board)
        assert target.toolchain is not None
        apt_program(f"{target.toolchain.prefix}gcc", PACKAGES[target.toolchain.prefix])
        out = self._folder / board
        if not out.is_dir():
            out.mkdir()
            FirmwareConverter(application=Application.SERIAL).convert(small_graph(), target, out)
        return out / "model.elf", target


def free_port() -> int:
    """Return a port of 127.0.0.1 nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


class Uart:
    """The far end of an emulated board's serial port: QEMU connects to us, so that nothing is lost before we look."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(10.0)
        self.options = ("-serial", f"tcp:127.0.0.1:{self._server.getsockname()[1]}")
        self._line: socket.socket | None = None
        self.heard = b""

    def __enter__(self) -> "Uart":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        if self._line is not None:
            self._line.close()

    def wait(self, text: bytes, seconds: float = 10.0) -> bytes:
        """Read until ``text`` has come; return all since the last wait."""
        if self._line is None:
            self._line, _ = self._server.accept()
            self._line.settimeout(0.2)
        end = time.monotonic() + seconds
        while text not in self.heard:
            if time.monotonic() > end:
                pytest.fail(f"{text!r} did not come within {seconds} s; heard: {self.heard[-200:]!r}")
            try:
                self.heard += self._line.recv(4096)
            except TimeoutError:
                continue
        heard, self.heard = self.heard, b""
        return heard

    def ask(self, command: bytes) -> bytes:
        """Send a command of the serial application and return its answer."""
        assert self._line is not None
        self._line.sendall(command)
        return self.wait(b"m-ready")
