"""A phone or board reached by adb, Android's own client, run as a program."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bitship.device.process import find_tool
from bitship.device.transfer import shell
from bitship.device.transfer.base import Completed, Transfer
from bitship.errors import DeviceError

_COPY_SECONDS = 600.0
_START_SECONDS = 30.0
_STATES = {
    "unauthorized": "unlock it and allow this computer",
    "offline": "plug it in again, or 'adb reconnect'",
    "no permissions": "udev rules for USB are missing on this computer",
}


class AdbTransfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="adb"):
    """A device of ``adb devices``.

    serial    its serial number, or host:port, which is connected to first; None: the only one there is
    folder    where the session's folder is made over there; it must allow programs to be run
    launcher  words before every program of a package: ["taskset", "f0"]
    server_port  of another adb server than the usual one
    """

    serial: str | None = None
    folder: str = "/data/local/tmp"
    launcher: tuple[str, ...] = ()
    server_port: int | None = None

    @contextmanager
    def open(self) -> Iterator[Transfer]:
        link = _Adb(self, find_tool("adb", "apt-get install adb"))
        link.connect()
        try:
            yield link
        finally:
            shell.release(link.shell, link.folder)


class _Adb:
    emulated = False

    def __init__(self, settings: AdbTransfer, adb: str) -> None:
        self._settings = settings
        self._adb = [adb, *(["-P", str(settings.server_port)] if settings.server_port else [])]
        self._where = f"adb {settings.serial or 'device'}"
        self.folder = ""
        self.launcher = settings.launcher

    def connect(self) -> None:
        serial = self._settings.serial
        self._tool(["start-server"], _START_SECONDS)
        if serial is not None and re.search(r":\d+$", serial):
            said = self._tool(["connect", serial], _START_SECONDS)
            if "connected to" not in said.stdout:
                raise DeviceError(f"{self._where}: cannot connect: {shell.last_line(said)}")
        state = self._tool(["get-state"], _START_SECONDS)
        if state.code != 0 or state.stdout.strip() != "device":
            said_text = shell.last_line(state).removeprefix("error: ")
            hint = next((h for s, h in _STATES.items() if s in said_text), "'adb devices' lists what there is")
            raise DeviceError(f"{self._where}: not ready: {said_text}; {hint}")
        self.folder = shell.claim(self.shell, self._settings.folder, self._where)

    def _tool(self, words: Sequence[str], deadline_s: float) -> Completed:
        chosen = ["-s", self._settings.serial] if self._settings.serial else []
        try:
            done = subprocess.run(
                [*self._adb, *chosen, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=deadline_s,
                check=False,
                env={k: v for k, v in os.environ.items() if k != "ANDROID_SERIAL"},
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self._where}: silent for {deadline_s:g} s at 'adb {words[0]}', then stopped") from None
        return Completed(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def shell(self, line: str, deadline_s: float) -> Completed:
        """Run a line over there; a lost connection shows in what it did not say."""
        done = self._tool(["shell", "-n", line], deadline_s)
        return Completed(done.code, done.stdout.replace("\r\n", "\n"), done.stderr)  # old shells have a terminal

    def push(self, local: Path, remote: str) -> None:
        part = f"{remote}.partial"
        done = self._tool(["push", str(local), part], _COPY_SECONDS)
        size = local.stat().st_size
        if done.code == 0:
            mode, quoted, to = local.stat().st_mode & 0o777, shlex.quote(part), shlex.quote(remote)
            line = f"chmod {mode:o} {quoted} && mv {quoted} {to} && wc -c <{to}"
            done = self.shell(line, shell.SHORT_SECONDS)
        if done.code != 0 or done.stdout.strip() != str(size):
            said = shell.last_line(done)
            raise DeviceError(f"{self._where}: {local.name}: {size} B were not copied to {remote}: {said}")

    def pull(self, remote: str, local: Path) -> None:
        done = self._tool(["pull", remote, str(local)], _COPY_SECONDS)
        if done.code != 0:
            raise DeviceError(f"{self._where}: {remote}: cannot be read: {shell.last_line(done)}")

    def run(self, words: Sequence[str], deadline_s: float) -> Completed:
        try:
            done = self.shell(shell.command(self.folder, words), deadline_s)
        except DeviceError:
            shell.stop(self.shell, self.folder)
            raise
        return shell.completed(done, self._where, words)
