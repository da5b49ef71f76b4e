"""What an ELF image puts where: its loadable segments, by the addresses they are loaded at."""

import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bitship.errors import DeviceError

LARGEST = 64 << 20
_GAP = 1 << 20  # bytes between two parts that are filled


@dataclass(frozen=True)
class Segment:
    """``data`` at ``address``, where it is loaded (not where it runs)."""

    address: int
    data: bytes


@dataclass(frozen=True)
class Image:
    """The segments of a file in order of address, and its entry point."""

    entry: int
    segments: tuple[Segment, ...]

    def flat(self, where: str, multiple: int = 1) -> Segment:
        """Return one piece, gaps as erased flash (0xFF), its length a multiple; DeviceError: parts lie far apart."""
        start = self.segments[0].address
        out = bytearray()
        for s in self.segments:
            gap = s.address - start - len(out)
            if not 0 <= gap <= _GAP:
                raise DeviceError(
                    f"{where}: parts of the image lie {gap} B apart, at most {_GAP} B can be filled; use a debug probe"
                )
            out += b"\xff" * gap + s.data
        return Segment(start, bytes(out + b"\xff" * (-len(out) % multiple)))


def read_image(path: Path) -> Image:
    """Read a 32-bit little-endian ELF; DeviceError when it is none, is damaged, or loads nothing."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise DeviceError(f"{path}: cannot be read: {e.strerror}") from None
    if len(data) > LARGEST or data[:6] != b"\x7fELF\x01\x01":
        raise DeviceError(f"{path}: {len(data)} B that are no 32-bit little-endian ELF; flash a package's image")
    try:
        entry, table = struct.unpack_from("<II", data, 24)
        size, count = struct.unpack_from("<HH", data, 42)
        headers = [struct.unpack_from("<8I", data, table + i * size) for i in range(count)]
    except struct.error:
        raise DeviceError(f"{path}: the ELF file is cut off; export the package again") from None
    segments = []
    for kind, offset, _, physical, nbytes, *_ in headers:
        if kind == 1 and nbytes:
            if offset + nbytes > len(data):
                raise DeviceError(f"{path}: the ELF file is cut off; export the package again")
            segments.append(Segment(physical, data[offset : offset + nbytes]))
    if not segments:
        raise DeviceError(f"{path}: the ELF file has nothing to load; export the package again")
    return Image(entry, tuple(sorted(segments, key=lambda s: s.address)))


@contextmanager
def binary_file(data: bytes) -> Iterator[Path]:
    """Yield a file with these bytes, for a program that takes a plain binary; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bitship-") as folder:
        path = Path(folder) / "image.bin"
        path.write_bytes(data)
        yield path
