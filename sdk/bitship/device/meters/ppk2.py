"""Nordic's Power Profiler Kit II: 100,000 samples a second, eight logic inputs, and a supply of its own."""

import enum
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from bitship.device.meters.base import PowerTrace, Recording
from bitship.device.meters.ppk2_decoder import RATE_HZ, Calibration, Decoder
from bitship.errors import DeviceError

_START, _STOP, _POWER, _REGULATOR, _MODE, _METADATA = 0x06, 0x07, 0x0C, 0x0D, 0x11, 0x19
_SILENCE_SECONDS = 3.0
_LOWEST_MV, _HIGHEST_MV = 800, 5000
_SLACK_SECONDS = 0.005  # USB and the host's scheduling, at the first sample
_DRIFT, _BURST_SECONDS = 0.02, 0.25  # what may lie between the kit's clock and the host's


class Ppk2Mode(enum.Enum):
    """SOURCE: the kit supplies the board; AMPERE: the board has a supply of its own, through the kit."""

    SOURCE = "source"
    AMPERE = "ampere"


class Ppk2Meter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="ppk2"):
    """A kit on a serial port.

    supply_mv  what it supplies, or, in mode ``ampere``, what the board's supply is: 800 to 5000
    marker     which logic input (0 to 7) the board's marker is wired to; None: none is
    """

    port: str
    mode: Ppk2Mode = Ppk2Mode.SOURCE
    supply_mv: int = 3300
    marker: int | None = None

    def __post_init__(self) -> None:
        if not _LOWEST_MV <= self.supply_mv <= _HIGHEST_MV:
            raise ValueError(f"supply_mv is {self.supply_mv}; {_LOWEST_MV} to {_HIGHEST_MV} are allowed")
        if self.marker is not None and not 0 <= self.marker <= 7:
            raise ValueError(f"marker is {self.marker}; a logic input, 0 to 7, is needed")

    def title(self) -> str:
        return f"PPK2, {RATE_HZ // 1000} kS/s, {self.mode.value} mode at {self.supply_mv / 1000:g} V"

    @contextmanager
    def record(self) -> Iterator[Recording]:
        with opened(self.port) as line:
            decoder = Decoder(read_calibration(line, self.port).amps(self.supply_mv / 1000))
            configure(line, self.mode, self.supply_mv)
            line.write(bytes((_POWER, 1)))
            recording = _Recording(self, line, decoder)
            try:
                recording.start()
                yield recording
            finally:
                recording.halt()


@contextmanager
def opened(port: str) -> Iterator[Any]:
    """Open a kit's port; DeviceError when it cannot be."""
    import serial

    try:
        line = serial.Serial(port, 115200, timeout=0.1, write_timeout=5)
    except (serial.SerialException, ValueError, OSError) as e:
        raise DeviceError(f"ppk2 {port}: cannot be opened: {e}; 'bitship devices --scan' lists the ports") from None
    try:
        line.write(bytes((_STOP,)))
        yield line
    except (serial.SerialException, OSError) as e:
        raise DeviceError(f"ppk2 {port}: the line is gone: {e}") from None
    finally:
        line.close()


def configure(line: Any, mode: Ppk2Mode, supply_mv: int) -> None:
    """Set mode and supply. The regulator's number is the millivolts above 800, plus 32, from 3 * 256 on."""
    line.write(struct.pack(">BH", _REGULATOR, 3 * 256 + 32 + supply_mv - _LOWEST_MV))
    line.write(bytes((_MODE, 2 if mode is Ppk2Mode.SOURCE else 1)))


def read_calibration(line: Any, port: str) -> Calibration:
    """Ask for the kit's metadata; DeviceError when something else answers, or nothing does."""
    time.sleep(0.05)
    line.reset_input_buffer()
    line.write(bytes((_METADATA,)))
    text, end = b"", time.monotonic() + _SILENCE_SECONDS
    while b"END" not in text:
        text += line.read(line.in_waiting or 1)
        if time.monotonic() > end:
            said = f"{text[:60]!r} came" if text else "nothing came"
            raise DeviceError(f"ppk2 {port}: no calibration after {_SILENCE_SECONDS:g} s, {said}; is it a PPK2?")
    return Calibration.of(text.decode("ascii", "replace"))


class _Recording:
    """A thread empties the port, so that nothing is lost while the caller waits for the board."""

    def __init__(self, settings: Ppk2Meter, line: Any, decoder: Decoder) -> None:
        self._settings, self._line, self._decoder = settings, line, decoder
        self._parts: list[bytes] = []
        self._stopping = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._empty, daemon=True)
        self._start_s = self._end_s = 0.0
        self._bytes = 0

    def start(self) -> None:
        self._line.write(bytes((_START,)))
        end = time.monotonic() + _SILENCE_SECONDS
        first = b""
        while not first:
            first = self._line.read(self._line.in_waiting or 1)
            if time.monotonic() > end:
                raise DeviceError(f"ppk2 {self._settings.port}: no sample after {_SILENCE_SECONDS:g} s")
        self._end_s = time.monotonic()
        self._start_s = self._end_s - len(first) / 4 / RATE_HZ
        self._bytes = len(first)
        self._parts.append(first)
        self._thread.start()

    def _empty(self) -> None:
        try:
            while not self._stopping.is_set():
                data = self._line.read(self._line.in_waiting or 1)
                if data:
                    self._parts.append(bytes(data))
                    self._end_s = time.monotonic()
                    self._bytes += len(data)  # the least delayed bytes tell best when sampling began
                    self._start_s = min(self._start_s, self._end_s - self._bytes / 4 / RATE_HZ)
        except Exception as e:
            self._failed = e

    def halt(self) -> None:
        """End the thread and the sampling."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_SILENCE_SECONDS)
        if self._failed is None:
            self._line.write(bytes((_STOP,)))

    def stop(self) -> PowerTrace:
        asked_s = time.monotonic()
        while self._thread.is_alive() and time.monotonic() < asked_s + _SILENCE_SECONDS:
            if self._bytes >= 4 * (asked_s - self._start_s) * RATE_HZ * (1 - _DRIFT):
                break  # all that was sampled until now has come
            time.sleep(0.002)
        self.halt()
        where = f"ppk2 {self._settings.port}"
        if self._failed is not None:
            raise DeviceError(f"{where}: the line is gone: {self._failed}")
        for part in self._parts:
            self._decoder.feed(part)
        lasted, expected = self._end_s - self._start_s, (self._end_s - self._start_s) * RATE_HZ
        if abs(self._decoder.count - expected) > _DRIFT * expected + _BURST_SECONDS * RATE_HZ:
            raise DeviceError(
                f"{where}: {self._decoder.count} samples in {lasted:.2f} s, about {expected:.0f} are expected; use "
                "another USB port, or a less busy computer"
            )
        amps, logic, pin = self._decoder.amps(), self._decoder.logic(), self._settings.marker
        return PowerTrace(
            np.arange(len(amps)) / RATE_HZ,
            amps * (self._settings.supply_mv / 1000),
            None if pin is None else (logic >> pin & 1).astype(np.bool_),
            self._start_s,
            _SLACK_SECONDS,
            self._decoder.lost,
        )
