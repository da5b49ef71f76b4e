"""A PowerShield (X-NUCLEO-LPM01A) on a pseudo terminal, sampling a board with a known load.

Models: the commands a measurement needs with their acknowledgements and refusals, both sample formats with their
rounding, energy and current, a timestamp every second, events of D7 when the marker falls, the end of an acquisition,
samples lost on request. Does not model the display, triggers, calibration, limits of current, or a full buffer.
"""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_FINE = 20  # points that a sample of energy is summed over
_KNOWN = re.compile(
    r"htc|hrc|volt \d+m|freq \d+k?|acqtime inf|trigdelay 0|trigsrc sw|output (energy|current)|"
    r"format (ascii_dec|bin_hexa)|eventsrc d7 fal|pwr (on|off)|start|stop"
)


@dataclass
class Shield:
    """Its settings, as commands made them."""

    amps: Callable[[Floats], Floats]
    marker: Callable[[Floats], NDArray[np.bool_]]
    drop: list[int] = field(default_factory=list)  # samples, by number since the start, that are lost on the way
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> int:
        return int(self.settings["freq"].replace("k", "000"))

    def serve(self, read: Callable[[int], bytes], write: Callable[[bytes], None]) -> None:
        """Answer command by command."""
        stop: threading.Event | None = None
        worker: threading.Thread | None = None
        while True:
            word = b""
            while not word.endswith(b"\n"):
                word += read(1)
            text = word.decode().strip()
            if text == "stop" and stop is not None and worker is not None:
                stop.set()
                worker.join()
                stop = None
                binary = self.settings["format"] == "bin_hexa"
                write(b"\xf0\xf4\xff\xff" if binary else b"PowerShield > Acquisition completed\r\n")
            elif not _KNOWN.fullmatch(text):
                write(f"PowerShield > error {text}\r\nError detail: unknown command\r\n".encode())
            else:
                key, _, value = text.partition(" ")
                self.settings[key] = value
                write(f"PowerShield > ack {text}\r\n".encode())
                if text == "start":
                    stop = threading.Event()
                    worker = threading.Thread(target=self.sample, args=(write, stop), daemon=True)
                    worker.start()

    def values(self, begun: float, first: int, count: int) -> Floats:
        """Return samples: energy in J since the last one, or the current in A."""
        volts, t = int(self.settings["volt"].rstrip("m")) / 1000, begun + (first + np.arange(count)) / self.rate
        if self.settings["output"] == "current":
            return self.amps(t)
        fine = (np.arange(_FINE) + 0.5) / _FINE / self.rate
        flow = self.amps((t[:, None] + fine).reshape(-1)).reshape(count, _FINE)
        return np.asarray(flow.mean(axis=1) * volts / self.rate)

    def sample(self, write: Callable[[bytes], None], stop: threading.Event) -> None:
        """Send samples until stopped; the sample clock never waits."""
        begun, sent, binary = time.monotonic(), 0, self.settings["format"] == "bin_hexa"
        while True:
            stopping, due = stop.is_set(), int((time.monotonic() - begun) * self.rate)
            while sent < due:
                count = min(due - sent, 2000)
                write(self.block(begun, sent, count, binary))
                sent += count
            if stopping:
                return
            time.sleep(0.003)

    def block(self, begun: float, first: int, count: int, binary: bool) -> bytes:
        values = self.values(begun, first, count)
        fine = begun + (first + np.arange(-10, count * 10) / 10) / self.rate
        level = self.marker(fine)
        falls = set(((np.flatnonzero(level[:-1] & ~level[1:]) + 1 - 10) // 10).tolist())
        out = []
        for i, value in enumerate(values):
            number = first + i
            if number % self.rate == 0:
                out.append(stamp(number // self.rate, binary))
            if i in falls and self.settings.get("eventsrc"):
                out.append(b"\xf0\xf2event 00 ris\xff\xff" if binary else b"event 00 ris\r\n")
            if number not in self.drop:
                out.append(hexa(float(value)) if binary else decimal(float(value)))
        return b"".join(out)


def stamp(seconds: int, binary: bool) -> bytes:
    """Return a timestamp."""
    if binary:
        return b"\xf0\xf3" + (seconds * 1000).to_bytes(4, "big") + b"\x00\xff\xff"
    return f"TimeStamp: {seconds:03d}s 000ms, buff 00%\r\n".encode()


def decimal(value: float) -> bytes:
    """Return a sample as text: four digits and a power of ten."""
    exponent = int(np.floor(np.log10(value))) - 3 if value > 0 else -9
    digits = round(value / 10.0**exponent)
    if digits > 9999:
        digits, exponent = digits // 10, exponent + 1
    return f"{digits:04d}{exponent:+03d}\r\n".encode()


def hexa(value: float) -> bytes:
    """Return a sample in binary: twelve bits and a power of sixteen."""
    exponent = 0
    while exponent < 14 and value * 16.0 ** (exponent + 1) < 4095.5:
        exponent += 1
    return (exponent << 12 | min(4095, round(value * 16.0**exponent))).to_bytes(2, "big")
