"""Joulescope JS110 and JS220 through their maker's library, an optional package."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from bitship.device.meters.base import PowerTrace, Recording
from bitship.errors import DeviceError
from bitship.extras import require

_SLACK_SECONDS = 0.02  # between start() and the first sample of the library's buffer


class JoulescopeMeter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="joulescope"):
    """The Joulescope with this serial number; the only one there is when None.

    rate_hz    samples a second the library keeps; buffer_s  how long a recording may last
    marker     whether the board's marker is wired to input 0
    """

    serial: str | None = None
    rate_hz: int = 100_000
    buffer_s: float = 60.0
    marker: bool = False

    def title(self) -> str:
        return f"Joulescope{f' {self.serial}' if self.serial else ''}, {self.rate_hz / 1000:g} kS/s"

    @contextmanager
    def record(self) -> Iterator[Recording]:
        library = require("joulescope", "joulescope", "meter 'joulescope'")
        device = self._find(library)
        try:
            with device:
                device.parameter_set("sampling_frequency", self.rate_hz)
                device.parameter_set("i_range", "auto")
                device.buffer_duration = self.buffer_s
                device.start()
                recording = _Recording(self, device, time.monotonic())
                try:
                    yield recording
                finally:
                    recording.halt()
        except (OSError, RuntimeError) as e:
            raise DeviceError(f"joulescope: {e or type(e).__name__}; unplug it and plug it in again") from None

    def _find(self, library: Any) -> Any:
        """Return the device; DeviceError names those that are there."""
        found = library.scan(config="off")
        wanted = [d for d in found if self.serial in (None, str(d.device_serial_number))]
        if len(wanted) != 1:
            numbers = ", ".join(str(d.device_serial_number) for d in found) or "none"
            raise DeviceError(f"joulescope: {self.serial or 'exactly one'} is wanted; there are: {numbers}")
        return wanted[0]


class _Recording:
    def __init__(self, settings: JoulescopeMeter, device: Any, start_s: float) -> None:
        self._settings, self._device, self._start_s = settings, device, start_s
        self._running = True

    def halt(self) -> None:
        """Stop; once is enough."""
        if self._running:
            self._running = False
            self._device.stop()

    def stop(self) -> PowerTrace:
        self.halt()
        rate, buffer = self._settings.rate_hz, self._device.stream_buffer
        first, end = buffer.sample_id_range
        if end - first < 2:
            raise DeviceError("joulescope: no samples came; unplug it and plug it in again")
        fields = ["current", "voltage", *(["current_lsb"] if self._settings.marker else [])]
        found = {k: np.asarray(v["value"]) for k, v in buffer.samples_get(first, end, fields=fields)["signals"].items()}
        watts = found["current"].astype(np.float64) * found["voltage"].astype(np.float64)
        missing = ~np.isfinite(watts)
        begun = int(np.argmin(missing))  # until the first sample of a start there are none
        marker = found["current_lsb"][begun:].astype(np.bool_) if self._settings.marker else None
        seconds = np.arange(len(watts) - begun) / rate
        start_s = self._start_s + (first + begun) / rate
        return PowerTrace(seconds, watts[begun:], marker, start_s, _SLACK_SECONDS, int(missing[begun:].sum()))
