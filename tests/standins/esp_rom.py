"""The ROM loader of an ESP32-C3 on a serial line, for the real esptool; with its stub too, as far as flashing goes.

Models: SLIP frames, sync, security info (chip id), registers that remember writes, flash begin/data/end, deflated flash
data, MD5 of flash. Not modelled: eFuses (they read as 0), the SPI controller, real speeds, encryption, the stub's code
(it is taken, not run: from then on replies have the stub's form).
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass, field

from standins.ports import Read, Write

CHIP_ID, MAGIC_REGISTER, MAGIC = 5, 0x40001000, 0x6921506F
SYNC, READ_REG, WRITE_REG, SECURITY, MD5 = 0x08, 0x0A, 0x09, 0x14, 0x13
FLASH_BEGIN, FLASH_DATA, DEFL_BEGIN, DEFL_DATA, DEFL_END = 0x02, 0x03, 0x10, 0x11, 0x12
MEM_END = 0x06
ROM_VALUE = 0x20120707  # what a ROM answers to a sync: anything but 0, which is the stub's


@dataclass
class EspRom:
    """``flash`` begins erased; ``spoil``: a byte of it that stays wrong, whatever is written."""

    flash: bytearray = field(default_factory=lambda: bytearray(b"\xff" * (4 << 20)))
    spoil: int | None = None
    stub: bool = False
    commands: list[int] = field(default_factory=list)
    registers: dict[int, int] = field(default_factory=dict)
    _at: int = 0
    _inflate: "zlib._Decompress | None" = None

    def run(self, read: Read, write: Write) -> None:
        """Answer until the line closes."""
        while True:
            frame = _frame(read)
            if len(frame) < 8 or frame[0] != 0:
                continue
            command, body = frame[1], frame[8:]
            self.commands.append(command)
            value, data, status = self._handle(command, body)
            tail = bytes([status, 0 if status == 0 else 7]) + (b"" if self.stub else b"\0\0")
            reply = struct.pack("<BBHI", 1, command, len(data) + len(tail), value) + data + tail
            for _ in range(8 if command == SYNC else 1):
                write(_slip(reply))
            if command == MEM_END and struct.unpack_from("<I", body)[0] == 0:
                self.stub = True
                write(_slip(b"OHAI"))

    def _handle(self, command: int, body: bytes) -> tuple[int, bytes, int]:
        """Return (value, data, status) of a reply."""
        if command == READ_REG:
            address = struct.unpack_from("<I", body)[0]
            return (MAGIC if address == MAGIC_REGISTER else self.registers.get(address, 0)), b"", 0
        if command == WRITE_REG:
            self.registers[struct.unpack_from("<I", body)[0]] = 0  # whatever is started is done at once
        elif command == SECURITY:
            return 0, struct.pack("<IB7sII", 0, 0, bytes(7), CHIP_ID, 0), 0
        elif command == MD5:
            address, size = struct.unpack_from("<II", body)
            digest = hashlib.md5(self.flash[address : address + size])
            return 0, (digest.digest() if self.stub else digest.hexdigest().encode()), 0
        elif command in (FLASH_BEGIN, DEFL_BEGIN):
            size, _, _, self._at = struct.unpack_from("<4I", body)
            self.flash[self._at : self._at + size] = b"\xff" * size
            self._inflate = zlib.decompressobj() if command == DEFL_BEGIN else None
        elif command in (FLASH_DATA, DEFL_DATA):
            return 0, b"", self._data(body)
        return (0 if self.stub else ROM_VALUE), b"", 0

    def _data(self, body: bytes) -> int:
        size = struct.unpack_from("<I", body)[0]
        data = body[16 : 16 + size]
        if self._inflate is not None:
            data = self._inflate.decompress(data)
        data = data[: len(self.flash) - self._at]
        self.flash[self._at : self._at + len(data)] = data
        if self.spoil is not None and self._at <= self.spoil < self._at + len(data):
            self.flash[self.spoil] ^= 0x10
        self._at += len(data)
        return 0


def _slip(data: bytes) -> bytes:
    return b"\xc0" + data.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0"


def _frame(read: Read) -> bytes:
    data = bytearray()
    while True:
        byte = read(1)
        if byte == b"\xc0":
            if data:
                return bytes(data).replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")
        else:
            data += byte
