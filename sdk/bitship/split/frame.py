"""Frames: what a device and a gateway exchange, and the payload of an OIP request (docs/split.md)."""

import struct
import zlib
from dataclasses import dataclass, field
from enum import IntEnum

from bitship.errors import FormatError

START, VERSION = 0xB5, 1
EXTRA_BYTES = 19
MAX_PAYLOAD = 0xFFFF
HASH_BYTES = 4
_HEADER = struct.Struct("<BBBHH4s4s")
_ANSWER = struct.Struct("<HHBB")


class Kind(IntEnum):
    """What a frame is."""

    FEATURES = 1
    ANSWER = 2
    HELLO = 3
    REFUSAL = 4
    IMAGE = 5


class Codec(IntEnum):
    """How the symbols of a FEATURES frame are coded."""

    RAW = 0
    RANS = 1
    ZSTD = 2


class Source(IntEnum):
    """Who gave an answer."""

    TAIL = 1
    LOCAL_EXIT = 2


class Refusal(IntEnum):
    """Why there is no answer, by name."""

    WRONG_MODEL = 1
    STALE_TABLE = 2
    WRONG_SPLIT = 3
    UNKNOWN_RUNG = 4
    UNKNOWN_CODEC = 5
    DAMAGED = 6
    TOO_LARGE = 7
    WRONG_KIND = 8
    BUSY = 9
    LATE = 10
    NOT_ALLOWED = 11
    UNAVAILABLE = 12
    INTERNAL = 13


class RefusedError(FormatError):
    """A frame or a request is refused; ``code`` says why."""

    def __init__(self, code: Refusal, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.said = message


@dataclass(frozen=True)
class Frame:
    """One frame. ``model`` and ``table`` are the first 4 bytes of the hashes of a package and of a rung's tables."""

    kind: int
    payload: bytes = b""
    codec: int = Codec.RAW
    rung: int = 0
    sequence: int = 0
    model: bytes = bytes(HASH_BYTES)
    table: bytes = bytes(HASH_BYTES)

    def pack(self) -> bytes:
        """Return the frame's bytes; FormatError where a field is out of range."""
        small = all(0 <= v <= 15 for v in (self.kind, self.codec, self.rung))
        if not small or not 0 <= self.sequence <= 0xFFFF or {len(self.model), len(self.table)} != {HASH_BYTES}:
            raise FormatError(f"frame: a field is out of range in {self}")
        if len(self.payload) > MAX_PAYLOAD:
            raise FormatError(f"frame: a payload of {len(self.payload)} B: at most {MAX_PAYLOAD} B")
        head = _HEADER.pack(
            START,
            VERSION << 4 | self.kind,
            self.codec << 4 | self.rung,
            self.sequence,
            len(self.payload),
            self.model,
            self.table,
        )
        body = head + self.payload
        return body + zlib.crc32(body).to_bytes(4, "little")


def unpack(data: bytes) -> Frame:
    """Read exactly one whole frame; RefusedError names what is wrong."""
    if len(data) < EXTRA_BYTES:
        raise RefusedError(Refusal.DAMAGED, f"{len(data)} B: a frame has at least {EXTRA_BYTES} B")
    start, version, codec, sequence, nbytes, model, table = _HEADER.unpack_from(data)
    if start != START or version >> 4 != VERSION:
        raise RefusedError(Refusal.DAMAGED, f"it begins with {start:#04x}, version {version >> 4}: 0xb5, {VERSION}")
    if len(data) != nbytes + EXTRA_BYTES:
        raise RefusedError(Refusal.DAMAGED, f"{len(data)} B: its header says {nbytes + EXTRA_BYTES} B")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise RefusedError(Refusal.DAMAGED, "its CRC is wrong")
    return Frame(version & 15, data[_HEADER.size : -4], codec >> 4, codec & 15, sequence, model, table)


@dataclass
class Reader:
    """Takes bytes as they come and gives whole frames; after damage it goes on at the next start byte.

    capacity  bytes of the largest frame that is taken; dropped  bytes that were no part of a whole frame
    """

    capacity: int = MAX_PAYLOAD + EXTRA_BYTES
    dropped: int = 0
    _held: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes; return the frames that are now whole."""
        self._held += data
        return self._found()

    def idle(self) -> list[Frame]:
        """The line fell silent inside a frame: give up on the start byte at hand, and look behind it."""
        found = self._found()
        while self._held:
            self._drop()
            found += self._found()
        return found

    @property
    def waiting(self) -> bool:
        """Whether the start of a frame is held."""
        return bool(self._held)

    def _drop(self) -> None:
        del self._held[0]
        self.dropped += 1

    def _found(self) -> list[Frame]:
        frames: list[Frame] = []
        while self._held:
            nbytes = self._bytes()
            if nbytes is None or (nbytes and nbytes > len(self._held)):
                break
            if nbytes:
                try:
                    frames.append(unpack(bytes(self._held[:nbytes])))
                except RefusedError:
                    pass
                else:
                    del self._held[:nbytes]
                    continue
            self._drop()
        return frames

    def _bytes(self) -> int | None:
        """Return the bytes of the frame at hand, 0 where none begins, None where more are needed to tell."""
        held = self._held
        if held[0] != START or (len(held) > 1 and held[1] >> 4 != VERSION):
            return 0
        if len(held) < 7:
            return None
        nbytes = int.from_bytes(held[5:7], "little") + EXTRA_BYTES
        return nbytes if nbytes <= self.capacity else 0


@dataclass(frozen=True)
class Answer:
    """The payload of an ANSWER frame. ``confidence`` is of 65,535."""

    label: int
    confidence: int
    source: Source

    def pack(self) -> bytes:
        """Return the payload."""
        return _ANSWER.pack(self.label, self.confidence, self.source, 0)

    @classmethod
    def unpack(cls, payload: bytes) -> "Answer":
        """Read a payload; FormatError for another size or an unknown source."""
        if len(payload) != _ANSWER.size:
            raise FormatError(f"answer: {len(payload)} B: {_ANSWER.size} B are needed")
        label, confidence, source, _ = _ANSWER.unpack(payload)
        try:
            return cls(label, confidence, Source(source))
        except ValueError:
            raise FormatError(f"answer: source {source}: {[int(s) for s in Source]} are known") from None


def refusal(code: Refusal, message: str) -> bytes:
    """Return the payload of a REFUSAL frame; a long message is cut."""
    return bytes([code]) + message.encode()[:200].decode(errors="ignore").encode()


def refused(payload: bytes) -> RefusedError:
    """Return the error that the payload of a REFUSAL frame stands for; an unknown code is INTERNAL."""
    code = Refusal(payload[0]) if payload and payload[0] in set(Refusal) else Refusal.INTERNAL
    return RefusedError(code, payload[1:].decode(errors="replace"))
