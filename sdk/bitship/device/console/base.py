"""What a console is: a stream of bytes to and from a board's serial port."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from bitship.targets import Target


class Console(Protocol):
    """An open stream. Nothing here knows of lines or commands."""

    def write(self, data: bytes) -> None:
        """Send all bytes; DeviceError when the line is gone."""
        ...

    def read(self, deadline_s: float) -> bytes:
        """Return what has arrived, at least one byte, or nothing after ``deadline_s``; DeviceError when it is gone."""
        ...

    def reset(self) -> None:
        """Restart the board if the line can (DTR/RTS, an emulator); do nothing if it cannot."""
        ...


class ConsoleDriver(Protocol):
    """Settings of one driver, a struct of ``devices.toml``, that can open a console."""

    def open(self, target: Target, image: Path) -> AbstractContextManager[Console]:
        """Open it; ``image`` is what the board runs, for drivers that start the board themselves."""
        ...
