"""A board with a known load, for meters' stand-ins: power as a function of time, and a marker that pulses.

Models: an idle draw with ripple, and bursts during which the draw is higher, wavy and has steps; the marker line is
high and falls for ``PULSE_S`` at both edges of a burst. Does not model a supply that sags. Times are the host's
monotonic clock, so that meters sample what happened.
"""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitship.device.base import Burst
from bitship.graph.base import Array

PULSE_S = 100e-6
Floats = NDArray[np.float64]


@dataclass
class Board:
    """A session that runs bursts: an inference takes ``run_s``; the host knows its edges but for ``slack_s``."""

    volts: float = 3.3
    idle_amps: float = 0.002
    busy_amps: float = 0.012
    run_s: float = 0.002
    slack_s: float = 0.0
    pulses: int = 2
    bursts: list[tuple[float, float, int]] = field(default_factory=list)

    def amps(self, t: Floats) -> Floats:
        """Return the current at times of the monotonic clock."""
        found = self.idle_amps * (1 + 0.2 * np.sin(2 * np.pi * 50 * t))
        for start, end, _ in list(self.bursts):
            inside = (t >= start) & (t < end)
            at = t[inside] - start
            step = np.where(at % self.run_s < self.run_s / 4, 1.5, 1.0)
            found[inside] = self.busy_amps * step * (1 + 0.3 * np.sin(2 * np.pi * 330 * at))
        return np.asarray(found)

    def marker(self, t: Floats) -> NDArray[np.bool_]:
        """Return the level of the marker line."""
        high = np.ones(len(t), np.bool_)
        for start, end, _ in list(self.bursts):
            for edge in (start, end)[: self.pulses]:
                high &= ~((t >= edge) & (t < edge + PULSE_S))
        return high

    def joules(self, burst: int) -> float:
        """Return the exact energy of a burst, by a sum of its own over steps of 1 us."""
        start, end, _ = self.bursts[burst]
        middle = np.arange(start, end, 1e-6) + 0.5e-6
        return float(self.amps(middle[middle < end]).sum() * 1e-6 * self.volts)

    def burst(self, row: tuple[Array, ...], runs: int) -> Burst:
        """Be busy for ``runs`` inferences."""
        start = time.monotonic() + 0.005
        end = start + runs * self.run_s
        self.bursts.append((start, end, runs))
        time.sleep(max(0.0, end - time.monotonic()) + 0.005)
        return Burst(runs, start - self.slack_s, end + self.slack_s, runs * self.run_s, self.slack_s)
