"""A computer reached by OpenSSH's own client: one connection, shared by every command of a session."""

import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bitship.device.process import find_tool
from bitship.device.transfer import shell
from bitship.device.transfer.base import Completed, Transfer
from bitship.errors import DeviceError

_COPY_SECONDS = 600.0
_POLL_SECONDS = 0.05
_LONGEST_PATH = 60  # a socket's path, with what ssh adds to it, has 108 bytes


class SshTransfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="ssh"):
    """A host of ``ssh``; what is left out is as the user's own ssh configuration has it.

    host      a name, an address, or an alias of ~/.ssh/config
    key       path of a private key; known_hosts  of a file of host keys; config  of another configuration
    folder    where the session's folder is made over there; it must allow programs to be run
    launcher  words before every program of a package: ["taskset", "-c", "3"]
    connect_s how long connecting may take

    Nothing is ever asked: keys must be in place, and the host's key must be known.
    """

    host: str
    user: str | None = None
    port: int | None = None
    key: str | None = None
    known_hosts: str | None = None
    config: str | None = None
    folder: str = "/tmp"
    launcher: tuple[str, ...] = ()
    connect_s: float = 20.0

    @contextmanager
    def open(self) -> Iterator[Transfer]:
        ssh = find_tool("ssh", "apt-get install openssh-client")
        if self.host.startswith("-"):
            raise DeviceError(f"ssh: host '{self.host}' looks like an option; a host's name is needed")
        short = None if len(tempfile.gettempdir()) < _LONGEST_PATH else "/tmp"
        with tempfile.TemporaryDirectory(prefix="bitship-", dir=short) as name:
            link = _Ssh(self, [ssh, *self._options(), "-o", f"ControlPath={name}/c"])
            try:
                link.connect()
                yield link
            finally:
                link.close()

    def _options(self) -> list[str]:
        words = ["-F", self.config] if self.config else []
        for flag, value in (("-l", self.user), ("-p", self.port), ("-i", self.key)):
            words += [flag, str(value)] if value is not None else []
        known = [f"UserKnownHostsFile={self.known_hosts}"] if self.known_hosts else []
        alive = ["ServerAliveInterval=5", "ServerAliveCountMax=3", f"ConnectTimeout={max(1, int(self.connect_s))}"]
        for option in ("BatchMode=yes", "StrictHostKeyChecking=yes", "LogLevel=ERROR", *known, *alive):
            words += ["-o", option]
        return words


class _Ssh:
    """One master connection; commands and files go through it and never open one of their own."""

    emulated = False

    def __init__(self, settings: SshTransfer, words: list[str]) -> None:
        self._settings = settings
        self._words = words
        self._where = f"ssh {settings.user + '@' if settings.user else ''}{settings.host}"
        self._master: subprocess.Popen[str] | None = None
        self.folder = ""
        self.launcher = settings.launcher

    def connect(self) -> None:
        host = self._settings.host
        self._master = subprocess.Popen(
            [*self._words, "-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-N", "--", host],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        end = time.monotonic() + self._settings.connect_s
        while not self._alive():
            if self._master.poll() is not None:
                said = self._said()
                raise DeviceError(f"{self._where}: cannot connect: {said}; try it by hand: {self._by_hand()}")
            if time.monotonic() > end:
                raise DeviceError(f"{self._where}: no connection after {self._settings.connect_s:g} s")
            time.sleep(_POLL_SECONDS)
        self.folder = shell.claim(self._shell, self._settings.folder, self._where)

    def _by_hand(self) -> str:
        s = self._settings
        return " ".join(["ssh", *(["-p", str(s.port)] if s.port else []), f"{s.user + '@' if s.user else ''}{s.host}"])

    def _said(self) -> str:
        text = self._master.stderr.read() if self._master is not None and self._master.stderr is not None else ""
        return (text.strip().splitlines() or ["nothing said"])[-1].strip()

    def _alive(self) -> bool:
        words = [*self._words, "-O", "check", "--", self._settings.host]
        try:
            return subprocess.run(words, capture_output=True, timeout=10, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _shell(self, line: str, deadline_s: float, data: bytes | None = None) -> Completed:
        """Run a line over there; DeviceError when the connection is gone or the deadline passes."""
        if self._master is None or self._master.poll() is not None:
            raise DeviceError(f"{self._where}: the connection is gone; run it again")
        words = [*self._words, "-o", "ControlMaster=no", "-o", "ProxyCommand=false", "--", self._settings.host, line]
        try:
            done = subprocess.run(words, input=data or b"", capture_output=True, timeout=deadline_s, check=False)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self._where}: silent for {deadline_s:g} s, then stopped") from None
        result = Completed(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        if done.returncode == 255 and not self._alive():
            raise DeviceError(f"{self._where}: the connection was lost: {shell.last_line(result)}; run it again")
        return result

    def push(self, local: Path, remote: str) -> None:
        data, mode = local.read_bytes(), local.stat().st_mode & 0o777
        part, to = shlex.quote(f"{remote}.partial"), shlex.quote(remote)
        line = f"cat >{part} && chmod {mode:o} {part} && mv {part} {to} && wc -c <{to}"
        done = self._shell(line, _COPY_SECONDS, data)
        if done.code != 0 or done.stdout.strip() != str(len(data)):
            said = shell.last_line(done)
            raise DeviceError(f"{self._where}: {local.name}: {len(data)} B were not copied to {remote}: {said}")

    def pull(self, remote: str, local: Path) -> None:
        words = [*self._words, "-o", "ControlMaster=no", "-o", "ProxyCommand=false", "--", self._settings.host]
        with local.open("wb") as f:
            try:
                done = subprocess.run(
                    [*words, f"cat {shlex.quote(remote)}"],
                    stdin=subprocess.DEVNULL,
                    stdout=f,
                    stderr=subprocess.PIPE,
                    text=True,
                    timeout=_COPY_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise DeviceError(f"{self._where}: {remote}: not copied after {_COPY_SECONDS:g} s") from None
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["the connection was lost"])[-1]
            raise DeviceError(f"{self._where}: {remote}: cannot be read: {said}")

    def run(self, words: Sequence[str], deadline_s: float) -> Completed:
        try:
            done = self._shell(shell.command(self.folder, words), deadline_s)
        except DeviceError:
            if self._master is not None and self._master.poll() is None:
                shell.stop(self._shell, self.folder)
            raise
        return shell.completed(done, self._where, words)

    def close(self) -> None:
        if self._master is None:
            return
        if self.folder:
            shell.release(self._shell, self.folder)
        self._master.terminate()
        try:
            self._master.wait(5)
        except subprocess.TimeoutExpired:
            self._master.kill()
            self._master.wait()
        if self._master.stderr is not None:
            self._master.stderr.close()
