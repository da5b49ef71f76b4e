"""What a PowerShield sends while it samples, in its two formats, with what stands between the samples.

Text: ``6409-07`` is 6409e-07; ``TimeStamp: 001s 000ms, buff 00%``; ``event 00 ris``. Binary, big endian: 0x52A0 is
0x2A0 * 16^-5; 0xF0 0xF1 message 0xFF 0xFF is an error, 0xF2 a note, 0xF3 milliseconds in four bytes, the buffer in one,
0xF4 the end, 0xF5 too much current, 0xF6 the board without power, 0xF7 millivolts in two bytes, each up to 0xFF 0xFF.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitship.errors import DeviceError

_SAMPLE = re.compile(rb"(\d{4})([+-]\d{2})")
_STAMP = re.compile(rb"TimeStamp: *(\d+)s *(\d+)ms")
_EVENT = re.compile(rb"event \d+ (?:ris|fal)")
_FIXED = {0xF3: 9, 0xF4: 4, 0xF5: 4, 0xF6: 4, 0xF7: 6}  # bytes of a note, with its two of each end
_TEXTS = (0xF1, 0xF2)
_LOOKED = 1 << 16
_TOLERANCE = 0.01


@dataclass(frozen=True)
class Parsed:
    """Samples in A or J; ``events``: the sample each came before; ``stamps``: (sample, seconds)."""

    values: NDArray[np.float64]
    events: tuple[int, ...]
    stamps: tuple[tuple[int, float], ...]

    def lost(self, rate_hz: int) -> int:
        """Return how many samples are missing between timestamps; a stamp may stand off by one per cent."""
        missing = 0
        for (a, t0), (b, t1) in zip(self.stamps, self.stamps[1:], strict=False):
            wanted = (t1 - t0) * rate_hz
            if wanted - (b - a) > max(1.0, _TOLERANCE * wanted):
                missing += round(wanted) - (b - a)
        return missing


def parse_ascii(data: bytes, where: str) -> Parsed:
    """Parse text; DeviceError names a line that is damaged, or the shield's own error."""
    values: list[float] = []
    events: list[int] = []
    stamps: list[tuple[int, float]] = []
    for raw in data.split(b"\n"):
        line = raw.strip(b"\r \0")
        if b"Acquisition completed" in line or b"ack stop" in line:
            break
        sample = _SAMPLE.fullmatch(line)
        if sample:
            values.append(int(sample[1]) * 10.0 ** int(sample[2]))
        elif stamp := _STAMP.match(line):
            stamps.append((len(values), int(stamp[1]) + int(stamp[2]) / 1000))
        elif _EVENT.match(line):
            events.append(len(values))
        elif line and line != b"PowerShield >":
            said = line[:60].decode("ascii", "replace")
            raise DeviceError(f"{where}: '{said}' came between samples; the trace is not used; measure again")
    return Parsed(np.array(values, np.float64), tuple(events), tuple(stamps))


def parse_binary(data: bytes, where: str) -> Parsed:
    """Parse binary; DeviceError on too much current, the shield's own error, or bytes that make no sense."""
    parts: list[NDArray[np.float64]] = []
    events: list[int] = []
    stamps: list[tuple[int, float]] = []
    at = count = 0
    while at + 1 < len(data):
        words = np.frombuffer(data, ">u2", min(_LOOKED, (len(data) - at) // 2), at)
        note = np.flatnonzero(words >> 12 == 0xF)
        samples = words[: note[0]] if len(note) else words
        parts.append((samples & 0xFFF) * 16.0 ** -(samples >> 12).astype(np.float64))
        at, count = at + 2 * len(samples), count + len(samples)
        if not len(note):
            continue
        kind, size = _note(data, at, where)
        if kind == 0xF4:
            break
        if kind == 0xF3:
            stamps.append((count, (int.from_bytes(data[at + 2 : at + 6], "big") & 0x7FFFFFFF) / 1000))
        elif kind in _TEXTS:
            text = data[at + 2 : at + size - 2]
            if kind == 0xF1:
                raise DeviceError(f"{where}: the shield says: {text.decode('ascii', 'replace').strip()}")
            if _EVENT.search(text):
                events.append(count)
        elif kind != 0xF7:
            raise DeviceError(f"{where}: {'too much current' if kind == 0xF5 else 'the board lost its power'}")
        at += size
    values = np.concatenate(parts) if parts else np.empty(0)
    return Parsed(values, tuple(events), tuple(stamps))


def _note(data: bytes, at: int, where: str) -> tuple[int, int]:
    """Return (kind, bytes) of the note at a place; DeviceError where none ends as it must."""
    kind = data[at + 1]
    if data[at] == 0xF0 and kind in _FIXED:
        size = _FIXED[kind]
        if data[at + size - 2 : at + size] == b"\xff\xff":
            return kind, size
    if data[at] == 0xF0 and kind in _TEXTS:
        end = data.find(b"\xff\xff", at + 2)
        if end >= 0:
            return kind, end + 2 - at
    raise DeviceError(f"{where}: byte {at} begins neither a sample nor a note; bytes were lost; measure again")
