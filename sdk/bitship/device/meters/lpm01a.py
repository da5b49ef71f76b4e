"""ST's X-NUCLEO-LPM01A (PowerShield): text commands, samples as text or as binary, events of input D7."""

import enum
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from bitship.device.meters.base import PowerTrace, Recording
from bitship.device.meters.lpm01a_parser import Parsed, parse_ascii, parse_binary
from bitship.errors import DeviceError

BAUD = 3_686_400
RATES = (100_000, 50_000, 20_000, 10_000, 5_000, 2_000, 1_000, 500, 200, 100, 50, 20, 10, 5, 2, 1)
_ANSWER_SECONDS = 5.0
_SLACK_SECONDS = 0.005
_ENDS = (b"Acquisition completed", b"\xf0\xf4\xff\xff")
_MOST = {"ascii_dec": 5_000, "bin_hexa": 100_000}
_ENERGY_MOST = 10_000


class Lpm01aFormat(enum.Enum):
    """How samples come; the text takes 9 bytes each and is good for 5,000 a second."""

    ASCII = "ascii_dec"
    BINARY = "bin_hexa"


class Lpm01aOutput(enum.Enum):
    """ENERGY: what flowed since the last sample, nothing between samples is missed. CURRENT: at the moment of one."""

    ENERGY = "energy"
    CURRENT = "current"


class Lpm01aMeter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="lpm01a"):
    """A PowerShield on a serial port. It supplies the board, which needs no more than 50 mA.

    supply_mv  1800 to 3300
    rate_hz    samples a second: 1 to 100,000 in steps of 1, 2, 5; 5,000 at most as text, 10,000 of energy
    marker     whether the board's marker is wired to D7
    """

    port: str
    supply_mv: int = 3300
    rate_hz: int = 5_000
    format: Lpm01aFormat = Lpm01aFormat.ASCII
    output: Lpm01aOutput = Lpm01aOutput.ENERGY
    marker: bool = True

    def __post_init__(self) -> None:
        if not 1800 <= self.supply_mv <= 3300:
            raise ValueError(f"supply_mv is {self.supply_mv}; 1800 to 3300 are allowed")
        most = min(_MOST[self.format.value], _ENERGY_MOST if self.output is Lpm01aOutput.ENERGY else 100_000)
        if self.rate_hz not in RATES or self.rate_hz > most:
            allowed = ", ".join(str(r) for r in RATES if r <= most)
            raise ValueError(f"rate_hz is {self.rate_hz}; with {self.format.value} and {self.output.value}: {allowed}")

    def title(self) -> str:
        return f"LPM01A, {self.rate_hz} Hz of {self.output.value} as {self.format.value}, {self.supply_mv / 1000:g} V"

    @contextmanager
    def record(self) -> Iterator[Recording]:
        import serial

        try:
            line = serial.Serial(self.port, BAUD, timeout=0.05, write_timeout=5)
        except (serial.SerialException, ValueError, OSError) as e:
            raise DeviceError(f"lpm01a {self.port}: cannot be opened: {e}") from None
        try:
            shield = _Shield(self, line)
            shield.configure()
            shield.start()
            try:
                yield shield
            finally:
                shield.halt()
        except (serial.SerialException, OSError) as e:
            raise DeviceError(f"lpm01a {self.port}: the line is gone: {e}") from None
        finally:
            line.close()


class _Shield:
    def __init__(self, settings: Lpm01aMeter, line: Any) -> None:
        self._settings, self._line = settings, line
        self._where = f"lpm01a {settings.port}"
        self._data = bytearray()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._empty, daemon=True)
        self._failed: Exception | None = None
        self._started = False
        self._start_s = 0.0

    def configure(self) -> None:
        s = self._settings
        rate = f"{s.rate_hz // 1000}k" if s.rate_hz >= 1000 else str(s.rate_hz)
        self._line.reset_input_buffer()
        words = ["htc", f"volt {s.supply_mv}m", f"freq {rate}", "acqtime inf", "trigdelay 0", "trigsrc sw"]
        words += [f"output {s.output.value}", f"format {s.format.value}"]
        for word in [*words, *(["eventsrc d7 fal"] if s.marker else []), "pwr on"]:
            self._ask(word)

    def _ask(self, word: str) -> bytes:
        """Send a command and wait until it is acknowledged; return what came behind that."""
        self._line.write(f"{word}\n".encode())
        said, end = b"", time.monotonic() + _ANSWER_SECONDS
        while True:
            said += self._line.read(self._line.in_waiting or 1)
            _, found, rest = said.partition(f"ack {word}".encode())
            if found:
                return bytes(rest)
            if b"error" in said and b"\n" in said.partition(b"error")[2]:
                raise DeviceError(f"{self._where}: '{word}' was refused: {said.decode('ascii', 'replace').strip()}")
            if time.monotonic() > end:
                seen = repr(said[:60]) if said else "nothing"
                raise DeviceError(
                    f"{self._where}: no acknowledgement of '{word}' after {_ANSWER_SECONDS:g} s, {seen} came; is it a "
                    "PowerShield?"
                )

    def start(self) -> None:
        rest = self._ask("start")
        self._start_s = time.monotonic()
        while b"\n" not in rest:  # the end of the acknowledgement's line; data begins behind it
            rest += self._line.read(1)
            if time.monotonic() > self._start_s + _ANSWER_SECONDS:
                raise DeviceError(f"{self._where}: 'start' was acknowledged, then nothing came")
        self._data += rest.partition(b"\n")[2]
        self._started = True
        self._thread.start()

    def _empty(self) -> None:
        try:
            while not self._stopping.is_set():
                self._data += self._line.read(self._line.in_waiting or 1)
        except Exception as e:
            self._failed = e

    def halt(self) -> None:
        """Stop sampling and wait for its end; once is enough."""
        if not self._started:
            return
        self._started = False
        self._line.write(b"stop\n")
        end = time.monotonic() + _ANSWER_SECONDS
        while not any(mark in self._data[-4096:] for mark in _ENDS) and self._failed is None:
            if time.monotonic() > end:
                self._failed = DeviceError("no end of the acquisition")
            time.sleep(0.01)
        self._stopping.set()
        self._thread.join(_ANSWER_SECONDS)
        if self._failed is None:
            self._line.write(b"hrc\n")

    def stop(self) -> PowerTrace:
        self.halt()
        if self._failed is not None:
            raise DeviceError(f"{self._where}: {self._failed}")
        s = self._settings
        parse = parse_ascii if s.format is Lpm01aFormat.ASCII else parse_binary
        return trace_of(s, parse(bytes(self._data), self._where), self._start_s)


def trace_of(settings: Lpm01aMeter, found: Parsed, start_s: float) -> PowerTrace:
    """Return the trace of parsed samples; energy lies in the middle of what it was gathered over."""
    values, rate = found.values, settings.rate_hz
    half = 0.5 if settings.output is Lpm01aOutput.ENERGY else 0.0
    scale = rate if settings.output is Lpm01aOutput.ENERGY else settings.supply_mv / 1000
    marker = None
    if settings.marker:
        marker = np.ones(len(values), np.bool_)
        at = np.array([e for e in found.events if e < len(values)], np.int64)
        marker[at] = False
    seconds = (np.arange(len(values)) + half) / rate
    return PowerTrace(seconds, values * scale, marker, start_s, _SLACK_SECONDS, found.lost(rate))
