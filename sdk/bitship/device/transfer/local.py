"""This machine as a place files and commands go to: the plainest transfer, and the fake of the others."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bitship.device.transfer.base import Completed, Transfer
from bitship.errors import DeviceError


class LocalTransfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="local"):
    """This machine.

    emulator  words before every program that make a user-mode emulator run it; nothing is timed then
    launcher  words before every program of a package: ["taskset", "-c", "3"]
    """

    emulator: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()

    @contextmanager
    def open(self) -> Iterator[Transfer]:
        with tempfile.TemporaryDirectory(prefix="bitship-") as folder:
            yield _Local(folder, (*self.launcher, *self.emulator), bool(self.emulator))


class _Local:
    def __init__(self, folder: str, launcher: tuple[str, ...], emulated: bool) -> None:
        self.folder, self.launcher, self.emulated = folder, launcher, emulated

    def push(self, local: Path, remote: str) -> None:
        shutil.copy(local, f"{remote}.partial")
        Path(f"{remote}.partial").rename(remote)

    def pull(self, remote: str, local: Path) -> None:
        try:
            shutil.copy(remote, local)
        except OSError as e:
            raise DeviceError(f"{remote}: cannot be read: {e.strerror}") from None

    def run(self, words: Sequence[str], deadline_s: float) -> Completed:
        try:
            done = subprocess.run(
                words,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=deadline_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{words[0]}: silent for {deadline_s:g} s, then stopped") from None
        except OSError as e:
            raise DeviceError(f"{words[0]}: cannot be started: {e.strerror}") from None
        return Completed(done.returncode, done.stdout, done.stderr)
