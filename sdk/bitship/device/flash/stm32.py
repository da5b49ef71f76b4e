"""stm32flash, run as a program: the serial loader in the ROM of ST's chips (AN3155)."""

from pathlib import Path

import msgspec

from bitship.device.flash.base import Progress, facts, percent
from bitship.device.flash.elf import binary_file, read_image
from bitship.device.process import find_tool, last_words, run_tool
from bitship.errors import DeviceError
from bitship.targets import Target
from bitship.targets.flashers import Stm32Tool

INSTALL = "apt-get install stm32flash"
_HINTS = (
    ("failed to init device", "start the board with BOOT0 high, or give 'boot' a sequence of dtr and rts that does"),
    ("unknown/unsupported device", "stm32flash does not know this chip; use a debug probe"),
    ("failed to open port", "'bitship devices --scan' lists the ports"),
)


class Stm32Flasher(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="stm32"):
    """A serial port.

    mode  of the line; the ROM speaks ``8e1``, a pty or an adapter without parity ``8n1``
    boot  stm32flash's sequence of dtr and rts that enters the loader, and after a colon leaves it
    """

    port: str
    baud: int = 115200
    mode: str = "8e1"
    boot: str | None = None
    deadline_s: float = 300.0

    def flash(self, image: Path, target: Target, progress: Progress | None = None) -> None:
        facts(target, Stm32Tool, "stm32")
        piece = read_image(image).flat(str(image), 4)
        with binary_file(piece.data) as file:
            words = [find_tool("stm32flash", INSTALL), "-m", self.mode, "-b", str(self.baud)]
            words += ["-i", self.boot] if self.boot else []
            words += ["-S", f"{piece.address:#x}:{len(piece.data):#x}", "-f", "-w", str(file), "-v"]
            words += ["-g", f"{piece.address:#x}", self.port]
            said = run_tool(words, self.deadline_s, heard=percent(progress), hints=_HINTS)
        if "verified" not in said:
            raise DeviceError(f"stm32flash: {image}: nothing was verified: {last_words(said)}; flash it again")
