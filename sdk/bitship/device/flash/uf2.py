"""UF2: the image in blocks of 512 bytes, copied to the drive a board shows; written here, no tool needed."""

import os
import struct
import time
from pathlib import Path

import msgspec

from bitship.device.flash.base import Progress, facts
from bitship.device.flash.elf import Image, read_image
from bitship.errors import DeviceError
from bitship.targets import Target
from bitship.targets.flashers import Uf2Tool

PAYLOAD, BLOCK = 256, 512
MAGIC = (0x0A324655, 0x9E5D5157, 0x0AB16F30)
FAMILY_PRESENT = 0x2000
INFO = "INFO_UF2.TXT"
MOUNTS = Path("/proc/mounts")


class Uf2Flasher(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="uf2"):
    """A USB drive that flashes what is copied to it.

    volume  where it is mounted; None: looked for by the labels in target.toml
    wait_s  how long to wait for it (hold BOOTSEL, or press reset twice)
    """

    volume: str | None = None
    wait_s: float = 30.0

    def flash(self, image: Path, target: Target, progress: Progress | None = None) -> None:
        fact = facts(target, Uf2Tool, "uf2")
        data = encode(read_image(image), fact.family)
        volume = self._find(fact.labels)
        path = volume / "bitship.uf2"
        try:
            with path.open("wb") as file:
                for at in range(0, len(data), 64 * BLOCK):
                    file.write(data[at : at + 64 * BLOCK])
                    if progress is not None:
                        progress(min(at / len(data), 0.99))
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            raise DeviceError(f"{path}: cannot be written: {e.strerror}; mount the drive for this user") from None
        if progress is not None:
            progress(1.0)

    def _find(self, labels: tuple[str, ...]) -> Path:
        end = time.monotonic() + self.wait_s
        while True:
            found = [Path(self.volume)] if self.volume else volumes(labels)
            found = [v for v in found if (v / INFO).is_file()]
            if len(found) > 1:
                raise DeviceError(f"uf2: {len(found)} drives: {', '.join(map(str, found))}; name one as 'volume'")
            if found:
                return found[0]
            if time.monotonic() >= end:
                where = self.volume or f"a drive named {' or '.join(labels)}"
                raise DeviceError(
                    f"uf2: {where}: not mounted (no {INFO}) within {self.wait_s:g} s; hold BOOTSEL while connecting, "
                    "or press reset twice, and mount the drive"
                )
            time.sleep(0.2)


def volumes(labels: tuple[str, ...] | None = None, mounts: Path | None = None) -> list[Path]:
    """Return mounted UF2 drives, of these labels if given."""
    try:
        lines = (mounts or MOUNTS).read_text().splitlines()
    except OSError:
        return []
    paths = [Path(words[1].replace("\\040", " ")) for words in (line.split() for line in lines) if len(words) > 1]
    return [p for p in paths if (labels is None or p.name in labels) and p.parent != p and (p / INFO).is_file()]


def encode(image: Image, family: int) -> bytes:
    """Return a UF2 file: whole pages of 256 bytes, what lies between segments of one page as erased flash."""
    pages: dict[int, bytearray] = {}
    for segment in image.segments:
        for i, byte in enumerate(segment.data):
            at = segment.address + i
            pages.setdefault(at & -PAYLOAD, bytearray(b"\xff" * PAYLOAD))[at % PAYLOAD] = byte
    blocks = []
    for number, (address, page) in enumerate(sorted(pages.items())):
        head = struct.pack("<8I", *MAGIC[:2], FAMILY_PRESENT, address, PAYLOAD, number, len(pages), family)
        blocks.append(head + bytes(page) + bytes(BLOCK - 32 - PAYLOAD - 4) + struct.pack("<I", MAGIC[2]))
    return b"".join(blocks)
