"""esptool, run as a program: Espressif's chips through their ROM loader, on a port or an rfc2217 URL."""

from pathlib import Path

import msgspec

from bitship.device.flash.base import Progress, facts, percent
from bitship.device.flash.elf import binary_file, read_image
from bitship.device.process import find_tool, last_words, run_tool
from bitship.errors import DeviceError
from bitship.targets import Target
from bitship.targets.flashers import EsptoolTool

INSTALL = "pip install 'bitship[flash]'"
_HINTS = (
    ("failed to connect", "hold BOOT while the board starts, or look at the cable"),
    ("could not open", "'bitship devices --scan' lists the ports"),
    ("wrong chip", "another chip is on this port; correct 'target' in devices.toml"),
)


class EsptoolFlasher(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="esptool"):
    """A serial port.

    port    a device's path, or ``rfc2217://host:port``
    baud    while flashing
    stub    whether esptool's faster loader is put into RAM; off: the ROM alone
    before, after  esptool's resets; ``no-reset`` where the line has no DTR and RTS
    size    of the flash, such as ``"4MB"``; None: as the chip says
    """

    port: str
    baud: int = 460800
    stub: bool = True
    before: str = "default-reset"
    after: str = "hard-reset"
    size: str | None = None
    deadline_s: float = 300.0

    def flash(self, image: Path, target: Target, progress: Progress | None = None) -> None:
        fact = facts(target, EsptoolTool, "esptool")
        words = [find_tool("esptool", INSTALL), "--port", self.port, "--baud", str(self.baud), "--chip", fact.chip]
        words += ["--before", self.before, "--after", self.after, *([] if self.stub else ["--no-stub"])]
        words += ["write-flash", *(["--flash-size", self.size] if self.size else [])]
        piece = read_image(image).flat(str(image), 4)
        with binary_file(piece.data) as file:
            words += [f"{fact.offset + piece.address:#x}", str(file)]
            said = run_tool(words, self.deadline_s, heard=percent(progress), hints=_HINTS)
        if "Hash of data verified" not in said:
            raise DeviceError(f"esptool: {image}: nothing was verified: {last_words(said)}; flash it again")
