"""A Power Profiler Kit II's samples: four bytes each, their counter checked, their current from the kit's calibration.

A sample, little endian: bits 0-13 the ADC, 14-16 the range of five, 18-23 a counter that goes up by one, 24-31 the
logic inputs. The current of range k with r = (4 * adc - O[k]) * 1.8 V / 163840 / R[k] is
UG[k] * (r * (GS[k] * r + GI[k]) + S[k] * V + I[k]), V the supply in volts.
"""

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitship.errors import DeviceError

RATE_HZ = 100_000
RANGES = 5
_VOLTS_PER_STEP = 1.8 / 163840
_ADC_BITS, _RANGE_MASK = 14, 7
_COUNTS = 64
_LINE = re.compile(r"^([A-Za-z]+)(\d?):\s*(-?[\d.]+(?:[eE][-+]?\d+)?|nan)\s*$", re.MULTILINE)
_KEYS = ("R", "GS", "GI", "O", "S", "I", "UG")


@dataclass(frozen=True)
class Calibration:
    """The numbers of every range, as the kit tells them: R in ohms, offsets and gains of the current."""

    r: tuple[float, ...] = (1031.64, 101.65, 10.15, 0.94, 0.043)
    gs: tuple[float, ...] = (1.0,) * RANGES
    gi: tuple[float, ...] = (1.0,) * RANGES
    o: tuple[float, ...] = (0.0,) * RANGES
    s: tuple[float, ...] = (0.0,) * RANGES
    i: tuple[float, ...] = (0.0,) * RANGES
    ug: tuple[float, ...] = (1.0,) * RANGES

    @classmethod
    def of(cls, text: str) -> "Calibration":
        """Read the kit's metadata; DeviceError names a number that is missing or senseless."""
        found = {f"{key}{index}": float(value) for key, index, value in _LINE.findall(text)}
        columns: dict[str, tuple[float, ...]] = {}
        for key in _KEYS:
            names = [f"{key}{i}" for i in range(RANGES)]
            absent = [n for n in names if not np.isfinite(found.get(n, np.nan))]
            if absent:
                raise DeviceError(f"ppk2: its calibration has no {', '.join(absent)}; unplug it and plug it in again")
            columns[key.lower()] = tuple(found[n] for n in names)
        if min(columns["r"]) <= 0:
            raise DeviceError(f"ppk2: its calibration has resistances {columns['r']}; all must be above 0")
        return cls(**columns)

    def amps(self, supply_volts: float) -> NDArray[np.float64]:
        """Return the current in amperes of every (range, adc), [8 * 2^14], for the low 17 bits of a sample."""
        adc = np.arange(1 << _ADC_BITS, dtype=np.float64) * 4
        table = np.full((_RANGE_MASK + 1, 1 << _ADC_BITS), np.nan)
        for k in range(RANGES):
            r = (adc - self.o[k]) * (_VOLTS_PER_STEP / self.r[k])
            table[k] = self.ug[k] * (r * (self.gs[k] * r + self.gi[k]) + self.s[k] * supply_volts + self.i[k])
        return table.reshape(-1)


@dataclass
class Decoder:
    """Turns bytes into currents as they come; ``lost`` counts every step of the counter that is missing.

    A gap of exactly a multiple of 64 samples leaves the counter as it was: whoever records compares the number of
    samples with the time they took.
    """

    table: NDArray[np.float64]
    lost: int = 0
    count: int = 0
    _rest: bytes = b""
    _next: int | None = None
    _amps: list[NDArray[np.float64]] = field(default_factory=list)
    _logic: list[NDArray[np.uint8]] = field(default_factory=list)

    def feed(self, data: bytes) -> None:
        """Take in bytes, of which the last sample may be cut."""
        data = self._rest + data
        whole = len(data) & ~3
        self._rest = data[whole:]
        words = np.frombuffer(data, "<u4", whole // 4)
        if not len(words):
            return
        counter = ((words >> 18) & (_COUNTS - 1)).astype(np.int64)
        before = counter[0] if self._next is None else self._next
        gaps = (counter - np.concatenate(([before], (counter[:-1] + 1)))) % _COUNTS
        self.lost += int(gaps.sum())
        self._next = int(counter[-1] + 1) % _COUNTS
        self._amps.append(self.table[words & 0x1FFFF])
        self._logic.append((words >> 24).astype(np.uint8))
        self.count += len(words)

    def amps(self) -> NDArray[np.float64]:
        """Return the current of every sample in amperes; DeviceError where a sample's range does not exist."""
        found = np.concatenate(self._amps) if self._amps else np.empty(0)
        bad = np.flatnonzero(np.isnan(found))
        if len(bad):
            raise DeviceError(f"ppk2: sample {bad[0]} is of a range that does not exist; bytes were lost on the way")
        return found

    def logic(self) -> NDArray[np.uint8]:
        """Return the levels of the eight inputs, one bit each."""
        return np.concatenate(self._logic) if self._logic else np.empty(0, np.uint8)
