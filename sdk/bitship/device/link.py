"""The host's side of firmware/PROTOCOL.md: commands with a CRC out, numbered lines with a CRC back, until they hold.

A reply counts when every one of its lines has arrived once, in order, with its CRC and with the sequence number of this
very attempt. Anything else - noise, silence, a lost line, a restart in between - is tried again under a new number.
"""

import enum
import re
import secrets
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from bitship.device.console.base import Console
from bitship.errors import DeviceError

READY = b"m-ready"
_FRAME = re.compile(rb"^m-x-([0-9A-F]{8})-(\d{1,9})-(data|end|err|rows)-\[([ -~]*)\]-([0-9A-F]{8})$")
_SHOWN = 12  # lines of the raw exchange that an error shows
_LONGEST_LINE = 8192
_LEAST_SECONDS = 1.0
_MOST_NOISE = 2000  # lines that do not hold, in one attempt: a device that talks all the time is another one


class Kind(enum.Enum):
    """What a line of a reply is."""

    DATA = "data"
    END = "end"
    ERROR = "err"
    ROWS = "rows"


class LinkError(DeviceError):
    """No attempt gave a reply that holds; the message has the raw exchange."""


@dataclass(frozen=True)
class Line:
    """One line of a reply, checked."""

    kind: Kind
    text: str


def seal(sequence: int, text: str) -> bytes:
    """Return a command as it is sent."""
    body = f"{sequence:08X} {text}"
    return f"x {body} {zlib.crc32(body.encode('ascii')):08X}%".encode("ascii")


def parse(raw: bytes) -> tuple[int, int, Line] | None:
    """Return (sequence, number of the line, line); None for anything that does not hold."""
    found = _FRAME.match(raw)
    if found is None:
        return None
    sequence, number, kind, text, crc = found.groups()
    if zlib.crc32(raw[4 : raw.rindex(b"-")]) != int(crc, 16):
        return None
    return int(sequence, 16), int(number), Line(Kind(kind.decode()), text.decode("ascii"))


@dataclass
class Link:
    """A command at a time over a console.

    where      what errors call the device
    silence_s  without a byte for so long, an attempt has failed
    quiet_s    after a ready line, so long without a byte means that nothing more will come
    attempts   how often a command is tried
    reset      called when the device does not even answer an empty command: restart it by other means, if there are any
    """

    console: Console
    where: str
    silence_s: float = 30.0
    attempts: int = 6
    quiet_s: float = 0.05
    reset: Callable[[], None] | None = None
    _sequence: int = field(default_factory=lambda: secrets.randbits(31))
    _buffer: bytes = b""
    _raw: deque[str] = field(default_factory=lambda: deque(maxlen=_SHOWN))

    def ask(self, text: str, silence_s: float | None = None) -> tuple[Line, ...]:
        """Send a command; return its reply's lines, the last an END or a ROWS.

        Raises LinkError when no attempt succeeds, DeviceError when the device refuses.
        """
        limit = self.silence_s if silence_s is None else silence_s
        for attempt in range(self.attempts):
            if attempt:
                self.resync(limit)
            reply = self._attempt(text, limit)
            if reply is None:
                continue
            if reply[-1].kind is Kind.ERROR:
                raise DeviceError(f"{self.where}: '{text[:40]}' was refused: {reply[-1].text}")
            return reply
        raise LinkError(f"{self.where}: no reply to '{text[:40]}' in {self.attempts} attempts that holds; {self.raw()}")

    def _attempt(self, text: str, limit: float) -> tuple[Line, ...] | None:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._write(seal(self._sequence, text))
        lines: list[Line] = []
        broken, noise = False, 0
        while noise < _MOST_NOISE and (raw := self._line(limit)) is not None:
            if READY in raw:
                done = bool(lines) and lines[-1].kind is not Kind.DATA
                return tuple(lines) if done and not broken and raw == READY else None
            found = parse(raw)
            if found is None or found[0] != self._sequence or found[1] != len(lines):
                broken, noise = True, noise + 1
            else:
                lines.append(found[2])
        return None

    def resync(self, limit: float) -> None:
        """End whatever the device is in the middle of, and read until it is quiet."""
        for attempt in range(3):
            self._write(b"%")
            if self._drain(limit if attempt == 0 else min(limit, 2.0)):
                return
        if self.reset is not None:
            self.reset()
            self._drain(limit)

    def _drain(self, limit: float) -> bool:
        """Read until a ready line is followed by silence, or for twice the limit; whether one came."""
        ready, end = False, time.monotonic() + max(2 * limit, _LEAST_SECONDS)
        while time.monotonic() < end and (raw := self._line(self.quiet_s if ready else limit)) is not None:
            ready = ready or raw.endswith(READY)
        return ready

    def handshake(self, deadline_s: float) -> tuple[Line, ...]:
        """Find the application, starting up or idle; return its reply to ``info``. LinkError with what came instead."""
        end = time.monotonic() + deadline_s
        while True:
            self._write(b"%")
            self._drain(min(1.0, deadline_s))
            reply = self._attempt("info", min(2.0, deadline_s))
            if reply is not None and reply[-1].kind is Kind.END:
                return reply
            if time.monotonic() >= end:
                raise LinkError(
                    f"{self.where}: not a bitship application: 'm-x-...-end-[]' was expected within {deadline_s:g} s; "
                    f"{self.raw()}; check port, baud rate and image"
                )

    def restart(self, limit: float) -> float | None:
        """Restart the device; return the seconds until it said it was ready, None when it was not heard to.

        LinkError when it cannot be found again.
        """
        self.ask("restart")
        begin, taken = time.monotonic(), None
        while taken is None and (raw := self._line(limit)) is not None:
            taken = time.monotonic() - begin if raw == READY else None
        self.handshake(limit)
        return taken

    def raw(self) -> str:
        """Return the end of the raw exchange for a message."""
        return "the exchange ended: " + (" ".join(self._raw) or "nothing was sent or received")

    def _write(self, data: bytes) -> None:
        self._raw.append(f">{data[:60]!r}")
        self.console.write(data)

    def _line(self, limit: float) -> bytes | None:
        """Return the next line, without its end; None after silence, or after a limit's worth of no line's end."""
        end = time.monotonic() + max(limit, _LEAST_SECONDS)
        while b"\n" not in self._buffer:
            more = self.console.read(limit)
            if not more or time.monotonic() > end:
                if self._buffer:
                    self._raw.append(f"<{self._buffer[:80]!r}...")
                    self._buffer = b""
                return None
            self._buffer = (self._buffer + more)[-_LONGEST_LINE:] if b"\n" not in more else self._buffer + more
        raw, _, self._buffer = self._buffer.partition(b"\n")
        raw = raw.rstrip(b"\r")
        self._raw.append(f"<{raw[:80]!r}")
        return raw
