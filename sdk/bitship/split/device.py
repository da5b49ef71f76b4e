"""A split head on a board: the image that holds head, exit and coder, and the host's side of its serial port."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bitship import targets
from bitship.device.console import ConsoleDriver
from bitship.device.console.base import Console
from bitship.device.console.qemu import QemuConsole
from bitship.errors import DeviceError
from bitship.exporting import export_image
from bitship.graph.base import Array, as_bytes
from bitship.package import Package
from bitship.split.frame import HASH_BYTES, Frame, Kind, Reader, refused
from bitship.split.package import SplitPackage
from bitship.targets import Application, Target

if TYPE_CHECKING:
    from bitship.converters.firmware.split import SplitOptions

LOCAL_ONLY = 15  # an image's rung: the exit answers whatever it thinks of it
IMAGE_NAME = "model.elf"
HELLO_SECONDS = 20.0
RUN_SECONDS = 60.0


def export_head(package: SplitPackage, target: str | Target, out: Path, overwrite: bool = False) -> Package:
    """Build the image of a head for a microcontroller; it speaks frames on the board's serial port.

    Raises TargetError, DoesNotFitError, MissingDependencyError as ``bitship.export`` does; nothing is left behind then.
    """
    from bitship.converters.firmware import FirmwareConverter

    converter = FirmwareConverter(application=Application.SPLIT, options=options_of(package))
    return export_image(package.head, target, out, converter, overwrite)


def options_of(package: SplitPackage) -> "SplitOptions":
    """Return what the image of a head is told beside the model."""
    from bitship.converters.firmware.split import SplitOptions

    manifest = package.manifest
    rungs = tuple(
        (rung.shift, bytes.fromhex(rung.table_hash)[:HASH_BYTES], package.tables(i))
        for i, rung in enumerate(manifest.rungs)
    )
    return SplitOptions(
        model=bytes.fromhex(manifest.model_hash)[:HASH_BYTES],
        rungs=rungs,
        zero_point=manifest.zero_point,
        confidence=manifest.exit.confidence,
        threshold=manifest.exit.threshold,
    )


class SplitBoard:
    """A board that runs the image: give it an image, get what its head made of it."""

    def __init__(self, console: Console, model: bytes) -> None:
        self._console, self._model = console, model
        self._reader = Reader()
        self._sequence = 0

    def hello(self, digest: str) -> None:
        """Wait for the board's first frame; DeviceError when it is silent, or runs another head."""
        frame = self._wait(Kind.HELLO, None, HELLO_SECONDS)
        found = frame.payload.decode("ascii", "replace")
        if found != digest or frame.model != self._model:
            raise DeviceError(f"split board: it runs head {found[:12]}, {digest[:12]} is needed; flash it again")

    def run(self, image: Array, rung: int, deadline_s: float = RUN_SECONDS) -> Frame:
        """Return the board's frame, FEATURES or ANSWER, for an image of the head's input type, any shape.

        rung  LOCAL_ONLY: the exit answers. RefusedError what the board refuses, DeviceError when it is silent
        """
        self._sequence = (self._sequence + 1) & 0xFFFF
        ask = Frame(Kind.IMAGE, as_bytes(image), rung=rung, sequence=self._sequence, model=self._model)
        self._console.write(ask.pack())
        return self._wait(None, self._sequence, deadline_s)

    def _wait(self, kind: Kind | None, sequence: int | None, deadline_s: float) -> Frame:
        end = time.monotonic() + deadline_s
        while (left := end - time.monotonic()) > 0:
            for frame in self._reader.feed(self._console.read(min(left, 0.5))):
                if frame.kind == Kind.REFUSAL:
                    raise refused(frame.payload)
                if (kind is None or frame.kind == kind) and (sequence is None or frame.sequence == sequence):
                    return frame
        raise DeviceError(f"split board: no frame within {deadline_s:.0f} s; is it flashed, is the port right?")


@contextmanager
def open_board(package: SplitPackage, image: Package, console: ConsoleDriver | None = None) -> Iterator[SplitBoard]:
    """Open the board behind a console, or the target's emulator; its head is checked against the package's."""
    console = console or QemuConsole()
    with console.open(targets.load(image.manifest.target), image.path / IMAGE_NAME) as opened:
        board = SplitBoard(opened, bytes.fromhex(package.manifest.model_hash)[:HASH_BYTES])
        board.hello(package.manifest.head_digest)
        yield board
