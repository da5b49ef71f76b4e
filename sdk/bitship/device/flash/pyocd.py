"""pyOCD, run as a program: CMSIS-DAP, ST-Link, J-Link and ``remote:host:port`` probes."""

import tempfile
from pathlib import Path

import msgspec

from bitship.device.flash.base import Progress, facts
from bitship.device.flash.elf import read_image
from bitship.device.process import Heard, find_tool, last_words, run_tool
from bitship.errors import DeviceError
from bitship.targets import Target
from bitship.targets.flashers import PyocdTool

INSTALL = "pip install 'bitship[flash]'"
_HINTS = (
    ("no available debug probes", "connect the probe; 'bitship devices --scan' lists those that are seen"),
    ("no connected debug probe", "connect the probe; 'bitship devices --scan' lists those that are seen"),
    ("connection refused", "start the probe server, or correct 'probe'"),
    ("not recognized", "the chip comes from a CMSIS pack: pyocd pack install NAME"),
    ("locked", "the chip's read-out protection is on: pyocd erase --mass-erase removes it, with all that is in it"),
)
_BAR = 40  # characters of one of pyOCD's progress bars: erase, then program


class PyocdFlasher(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="pyocd"):
    """A debug probe.

    probe      its id, or the beginning of it (``pyocd list``), or ``remote:host:port``; None: the only one
    target     pyOCD's name of the chip; None: the one in target.toml
    frequency  of the wire, such as ``"4M"``; None: pyOCD's
    """

    probe: str | None = None
    target: str | None = None
    frequency: str | None = None
    deadline_s: float = 300.0

    def flash(self, image: Path, target: Target, progress: Progress | None = None) -> None:
        tool = find_tool("pyocd", INSTALL)
        words = [tool, "commander", "--no-config", "--no-wait"]
        words += ["--target", self.target or facts(target, PyocdTool, "pyocd").target]
        words += ["--probe", self.probe] if self.probe else []
        words += ["--frequency", self.frequency] if self.frequency else []
        with tempfile.TemporaryDirectory(prefix="bitship-") as name:
            commands, sizes = [f"load '{image.resolve()}'"], 0
            for i, segment in enumerate(read_image(image).segments):
                part = Path(name) / f"{i}.bin"
                part.write_bytes(segment.data)
                commands.append(f"compare {segment.address:#x} '{part}'")
                sizes += len(segment.data)
            commands.append("reset")
            for command in commands:
                words += ["--command", command]
            said = run_tool(words, self.deadline_s, heard=_bars(progress), hints=_HINTS)
        wrong = next((line for line in said.splitlines() if "Mismatched byte" in line), None)
        if wrong is not None:
            raise DeviceError(f"pyocd: {image}: verify failed: {wrong.strip()}; flash it again")
        if said.count("Comparing") == 0:
            raise DeviceError(f"pyocd: {image}: nothing was compared: {last_words(said)}")


def _bars(progress: Progress | None) -> Heard | None:
    """Return a listener that counts the characters of pyOCD's two bars."""
    if progress is None:
        return None
    seen = 0

    def heard(text: str) -> None:
        nonlocal seen
        seen += text.count("=")
        progress(min(seen / (2 * _BAR), 1.0))

    return heard
