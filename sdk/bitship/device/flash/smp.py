"""smpmgr, run as a program: MCUboot's serial recovery. The image gets MCUboot's header and a SHA-256, no signature."""

import hashlib
import struct
from pathlib import Path

import msgspec

from bitship.device.flash.base import Progress, facts, percent
from bitship.device.flash.elf import binary_file, read_image
from bitship.device.process import find_tool, run_tool
from bitship.errors import DeviceError
from bitship.targets import Target
from bitship.targets.flashers import SmpTool

INSTALL = "pip install smpmgr"
MAGIC, TLV_MAGIC, TLV_SHA256 = 0x96F3B83D, 0x6907, 0x10
_HINTS = (
    ("could not open", "'bitship devices --scan' lists the ports"),
    ("timeout", "start the board in MCUboot's serial recovery (its button or pin at reset)"),
)


class SmpFlasher(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="smp"):
    """A serial port, or an address of the network for UDP.

    port, ip  one of the two; slot  of MCUboot; line_bytes  None: smpmgr's
    """

    port: str | None = None
    ip: str | None = None
    baud: int = 115200
    slot: int = 0
    line_bytes: int | None = None
    deadline_s: float = 300.0

    def flash(self, image: Path, target: Target, progress: Progress | None = None) -> None:
        if (self.port is None) == (self.ip is None):
            raise DeviceError("flasher 'smp': one of 'port' and 'ip' is needed")
        if self.port is not None and self.port.startswith("/") and not Path(self.port).exists():
            raise DeviceError(f"{self.port}: is not there; 'bitship devices --scan' lists the ports")
        fact = facts(target, SmpTool, "smp")
        words = [find_tool("smpmgr", INSTALL)]
        words += ["--port", self.port, "--baudrate", str(self.baud)] if self.port else ["--ip", str(self.ip)]
        words += ["--line-length", str(self.line_bytes)] if self.line_bytes else []
        data = wrap(read_image(image).flat(str(image), 4).data, fact.header_bytes)
        with binary_file(data) as file:
            upload = [*words, "image", "upload", "--slot", str(self.slot), str(file)]
            run_tool(upload, self.deadline_s, heard=percent(progress), hints=_HINTS)
        said = "".join(run_tool([*words, "image", "state-read"], self.deadline_s, hints=_HINTS).split()).lower()
        digest = data[-32:].hex()
        if digest not in said:
            raise DeviceError(f"smpmgr: {image}: the board lists no image with hash {digest[:16]}...; flash it again")
        run_tool([*words, "os", "reset"], self.deadline_s, hints=_HINTS)


def wrap(body: bytes, header_bytes: int = 512) -> bytes:
    """Return an MCUboot image: header, body, and one TLV, the SHA-256 of both; version 0.0.0+0."""
    head = struct.pack("<IIHHII8sI", MAGIC, 0, header_bytes, 0, len(body), 0, bytes(8), 0)
    whole = head + bytes(header_bytes - len(head)) + body
    tlv = struct.pack("<BBH", TLV_SHA256, 0, 32) + hashlib.sha256(whole).digest()
    return whole + struct.pack("<HH", TLV_MAGIC, 4 + len(tlv)) + tlv
