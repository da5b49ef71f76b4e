"""bossac, run as a program: the SAM-BA loader of Arduino boards, entered by opening the port at 1200 Bd."""

import time
from pathlib import Path

import msgspec

from bitship.device.flash.base import Progress, facts, percent
from bitship.device.flash.elf import binary_file, read_image
from bitship.device.process import find_tool, last_words, run_tool
from bitship.errors import DeviceError
from bitship.targets import Target
from bitship.targets.flashers import BossacTool

INSTALL = "take Arduino's own: arduino-cli core install arduino:mbed_nano, and put its bossac on the PATH"
_HINTS = (("no device found", "press the board's reset button twice, and look at its port again"),)


class BossacFlasher(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="bossac"):
    """A SAM-BA loader.

    port    of the loader
    touch   open it at 1200 Bd first, for an Arduino sketch that runs; off: reset was pressed twice
    verify  off: for loaders that cannot be read; then the tool's word is all there is
    """

    port: str
    touch: bool = False
    verify: bool = True
    deadline_s: float = 300.0

    def flash(self, image: Path, target: Target, progress: Progress | None = None) -> None:
        facts(target, BossacTool, "bossac")
        piece = read_image(image).flat(str(image), 4)
        tool = find_tool("bossac", INSTALL)
        if self.touch:
            self._touch()
        with binary_file(piece.data) as file:
            words = [tool, f"--port={Path(self.port).name}", "-U", "-i", "-e"]
            words += [*(["-v"] if self.verify else []), "-w", str(file), "-R"]
            said = run_tool(words, self.deadline_s, heard=percent(progress), hints=_HINTS)
        if self.verify and "Verify successful" not in said:
            raise DeviceError(f"bossac: {image}: nothing was verified: {last_words(said)}; flash it again")

    def _touch(self) -> None:
        import serial

        try:
            with serial.serial_for_url(self.port, baudrate=1200):
                time.sleep(0.1)
        except (serial.SerialException, OSError) as e:
            raise DeviceError(f"{self.port}: cannot be opened: {e}; 'bitship devices --scan' lists the ports") from None
        time.sleep(2.0)
