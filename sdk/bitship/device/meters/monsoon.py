"""Monsoon's High Voltage Power Monitor through its maker's library, an optional package."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from bitship.device.meters.base import PowerTrace, Recording
from bitship.errors import DeviceError
from bitship.extras import require

RATE_HZ = 5_000
_AT_ONCE = 250
_SLACK_SECONDS = 0.1  # samples come in packets, and the monitor calibrates itself first
_DRIFT = 0.02
_CURRENT, _VOLTAGE = 1, 4  # columns of the library's samples: mA and V of the main channel


class MonsoonMeter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="monsoon"):
    """A monitor, which supplies the board with ``supply_mv`` (800 to 13500). ``serial``: None, the first one."""

    supply_mv: int
    serial: int | None = None

    def __post_init__(self) -> None:
        if not 800 <= self.supply_mv <= 13500:
            raise ValueError(f"supply_mv is {self.supply_mv}; 800 to 13500 are allowed")

    def title(self) -> str:
        return f"Monsoon HVPM, {RATE_HZ // 1000} kS/s, {self.supply_mv / 1000:g} V"

    @contextmanager
    def record(self) -> Iterator[Recording]:
        monitors = require("Monsoon.HVPM", "monsoon", "meter 'monsoon'")
        engines = require("Monsoon.sampleEngine", "monsoon", "meter 'monsoon'")
        monitor = monitors.Monsoon()
        try:
            monitor.setup_usb(self.serial)
            monitor.setVout(self.supply_mv / 1000)
            engine = engines.SampleEngine(monitor)
            engine.ConsoleOutput(False)
            if engine.periodicStartSampling() is False:
                raise DeviceError("monsoon: does not begin to sample; switch it off and on")
            recording = _Recording(engine)
            try:
                yield recording
            finally:
                recording.halt()
        except (OSError, RuntimeError, AttributeError) as e:
            raise DeviceError(f"monsoon: cannot be used: {e or type(e).__name__}; is it plugged in?") from None
        finally:
            monitor.closeDevice()


class _Recording:
    """A thread collects samples as the library wants it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._parts: list[tuple[list[float], list[float]]] = []
        self._stopping = threading.Event()
        self._failed: Exception | None = None
        self._running = True
        self._start_s = self._end_s = time.monotonic()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        try:
            while not self._stopping.is_set():
                columns = self._engine.periodicCollectSamples(_AT_ONCE)
                self._end_s = time.monotonic()
                if not self._parts:
                    self._start_s = self._end_s - len(columns[_CURRENT]) / RATE_HZ
                self._parts.append((list(columns[_CURRENT]), list(columns[_VOLTAGE])))
        except Exception as e:
            self._failed = e

    def halt(self) -> None:
        """Stop; once is enough."""
        if self._running:
            self._running = False
            self._stopping.set()
            self._thread.join(10)
            self._engine.periodicStopSampling()

    def stop(self) -> PowerTrace:
        self.halt()
        if self._failed is not None or not self._parts:
            raise DeviceError(f"monsoon: sampling ended: {self._failed or 'nothing came'}; measure again")
        milliamps = np.concatenate([np.array(c, np.float64) for c, _ in self._parts])
        volts = np.concatenate([np.array(v, np.float64) for _, v in self._parts])
        missing = round((self._end_s - self._start_s) * RATE_HZ) - len(milliamps)
        lost = missing if missing > _DRIFT * len(milliamps) + 2 * _AT_ONCE else 0
        seconds = np.arange(len(milliamps)) / RATE_HZ
        return PowerTrace(seconds, milliamps / 1e3 * volts, None, self._start_s, _SLACK_SECONDS, lost)
