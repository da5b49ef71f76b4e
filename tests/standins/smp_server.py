"""A board in MCUboot's serial recovery: an SMP server on a serial line, for the real smpmgr.

Models: the console framing of SMP (base64, CRC-16), echo, image upload and image list of slot 0, reset. An upload is
an image only with MCUboot's magic and a SHA-256 that holds. Not modelled: signatures, swapping, other slots, limits.
"""

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass, field
from typing import Any

from standins.ports import Read, Write

START, NEXT = b"\x06\x09", b"\x04\x14"
MAGIC = 0x96F3B83D
ECHO, RESET, STATE, UPLOAD = (0, 0), (0, 5), (1, 0), (1, 1)
UNSUPPORTED = 8


@dataclass
class SmpServer:
    """``slot``: what was uploaded; ``resets``: how many were asked for; ``spoil``: a byte that arrives wrong."""

    slot: bytearray = field(default_factory=bytearray)
    resets: int = 0
    spoil: int | None = None
    _length: int = 0

    def run(self, read: Read, write: Write) -> None:
        """Answer until the line closes."""
        text = b""
        while True:
            line = b""
            while not line.endswith(b"\n"):
                line += read(1)
            line = line.strip(b"\r\n\0")
            text = line[2:] if line.startswith(START) else text + line[2:] if line.startswith(NEXT) else b""
            try:
                packet = base64.b64decode(text, validate=True)
            except binascii.Error:
                continue
            if len(packet) < 4 or len(packet) - 2 < int.from_bytes(packet[:2], "big"):
                continue
            body = packet[2:]
            if binascii.crc_hqx(body, 0) == 0:
                self._send(self._answer(body[:-2]), write)
            text = b""

    def _send(self, body: bytes, write: Write) -> None:
        whole = body + binascii.crc_hqx(body, 0).to_bytes(2, "big")
        text = base64.b64encode(len(whole).to_bytes(2, "big") + whole)
        for at in range(0, len(text), 124):
            write((NEXT if at else START) + text[at : at + 124] + b"\n")

    def _answer(self, packet: bytes) -> bytes:
        operation, flags, _, group, sequence, command = struct.unpack_from(">BBHHBB", packet)
        asked, _ = _decode(packet, 8)
        reply = self._handle((group, command), operation & 7, asked)
        body = _encode(reply)
        return struct.pack(">BBHHBB", operation | 1, flags, len(body), group, sequence, command) + body

    def _handle(self, command: tuple[int, int], operation: int, asked: Any) -> dict[str, Any]:
        if command == ECHO:
            return {"r": asked["d"]}
        if command == RESET:
            self.resets += 1
            return {}
        if command == UPLOAD and operation == 2:
            if asked["off"] == 0:
                self.slot.clear()
                self._length = asked["len"]
            if asked["off"] == len(self.slot):
                self.slot += asked["data"]
                if self.spoil is not None and self.spoil < len(self.slot) == self._length:
                    self.slot[self.spoil] ^= 1
            return {"off": len(self.slot)}
        if command == STATE and operation == 0:
            digest = self._digest()
            image = {"slot": 0, "version": "0.0.0", "hash": digest, "bootable": True, "active": True, "confirmed": True}
            return {"images": [image] if digest else []}
        return {"rc": UNSUPPORTED}

    def _digest(self) -> bytes | None:
        """Return the image's SHA-256 if its TLV says the same."""
        if len(self.slot) < 32:
            return None
        magic, _, header, _, size = struct.unpack_from("<IIHHI", self.slot)
        end = header + size
        if magic != MAGIC or len(self.slot) < end + 40:
            return None
        digest = hashlib.sha256(self.slot[:end]).digest()
        return digest if bytes(self.slot[end + 8 : end + 40]) == digest else None


def _decode(data: bytes, at: int) -> tuple[Any, int]:
    """Return one CBOR item of the kinds SMP uses, and where the next begins."""
    kind, small = data[at] >> 5, data[at] & 31
    at += 1
    if small == 31:
        value = -1
    elif small >= 24:
        width = 1 << small - 24
        value, at = int.from_bytes(data[at : at + width], "big"), at + width
    else:
        value = small
    if kind in (2, 3):
        raw = data[at : at + value]
        return (raw if kind == 2 else raw.decode()), at + value
    if kind in (4, 5):
        items: list[Any] = []
        while (value < 0 and data[at] != 0xFF) or len(items) < value * (kind - 3):
            item, at = _decode(data, at)
            items.append(item)
        at += value < 0
        return (items if kind == 4 else dict(zip(items[::2], items[1::2], strict=True))), at
    if kind == 7:
        return {20: False, 21: True}.get(small), at
    return (value if kind == 0 else -1 - value), at


def _encode(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return _head(0, value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value)) + value.encode()
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(_encode, value))
    return _head(5, len(value)) + b"".join(_encode(k) + _encode(v) for k, v in value.items())


def _head(kind: int, value: int) -> bytes:
    if value < 24:
        return bytes([kind << 5 | value])
    width = next(w for w in (1, 2, 4, 8) if value < 1 << 8 * w)
    return bytes([kind << 5 | 24 + width.bit_length() - 1]) + value.to_bytes(width, "big")
