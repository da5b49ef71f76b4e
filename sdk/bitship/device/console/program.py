"""Any program whose standard input and output are the line: a board on another machine, a stand-in."""

import contextlib
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bitship.device.console.base import Console
from bitship.errors import DeviceError, MissingDependencyError
from bitship.targets import Target


class ProgramConsole(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="program"):
    """``command``: words, with ``{image}`` and ``{target}`` replaced; no shell."""

    command: tuple[str, ...]

    @contextmanager
    def open(self, target: Target, image: Path) -> Iterator[Console]:
        program = Program([w.format(image=image, target=target.name) for w in self.command])
        try:
            yield program
        finally:
            program.stop()


class Program:
    """A running program as a console; a reset starts it anew."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._start()

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as e:
            raise MissingDependencyError(f"{self._words[0]}: cannot be started: {e.strerror}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()

    def stop(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _gone(self) -> DeviceError:
        self._process.kill()
        return DeviceError(f"{self._words[0]}: ended with code {self._process.wait()}, the line is gone")

    def write(self, data: bytes) -> None:
        while data:
            _, ready, _ = select.select([], [self._in], [], 30)
            if not ready:
                raise DeviceError(f"{self._words[0]}: takes no more bytes for 30 s")
            try:
                data = data[os.write(self._in, data) :]
            except OSError:
                raise self._gone() from None

    def read(self, deadline_s: float) -> bytes:
        ready, _, _ = select.select([self._out], [], [], deadline_s)
        if not ready:
            return b""
        data = os.read(self._out, 1 << 16)
        if not data:
            raise self._gone()
        return data

    def reset(self) -> None:
        self.stop()
        self._start()
