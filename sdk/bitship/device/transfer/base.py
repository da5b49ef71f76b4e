"""What a transfer is: files and commands on a computer or phone with a system of its own."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol


class Completed(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


class Transfer(Protocol):
    """An open connection."""

    def push(self, local: Path, remote: str) -> None:
        """Copy one file there, with its mode; under a temporary name until it is whole."""
        ...

    def pull(self, remote: str, local: Path) -> None:
        """Copy one file from there."""
        ...

    def run(self, words: Sequence[str], deadline_s: float) -> Completed:
        """Run a command (words, not a shell line) and return how it ended; DeviceError past the deadline."""
        ...

    @property
    def folder(self) -> str:
        """A folder of this session's own over there; removed at the end."""
        ...

    @property
    def launcher(self) -> tuple[str, ...]:
        """Words that come before a package's own program: an emulator, ``taskset`` with a mask."""
        ...

    @property
    def emulated(self) -> bool:
        """Whether the launcher emulates another processor, so that no time means anything."""
        ...


class TransferDriver(Protocol):
    """Settings of one driver, a struct of ``devices.toml``, that can open a connection."""

    def open(self) -> AbstractContextManager[Transfer]:
        """Connect; DeviceError names host, user and what failed."""
        ...
