"""Range choice from a histogram."""

import numpy as np

from bitship.graph.base import Array

_LEVELS = 255
_STEPS = 48


def percentile_range(histogram: Array, low: float, high: float, percentile: float) -> tuple[float, float]:
    """Return the ends that leave (100 - percentile) / 2 per cent of the mass out on each side."""
    cumulative = np.cumsum(histogram, dtype=np.float64)
    outside = (100 - percentile) / 200 * cumulative[-1]
    width = (high - low) / len(histogram)
    first = int(np.searchsorted(cumulative, outside, side="right"))
    last = int(np.searchsorted(cumulative, cumulative[-1] - outside, side="left"))
    return low + first * width, low + (last + 1) * width


def mse_range(histogram: Array, low: float, high: float) -> tuple[float, float]:
    """Return the ends of least expected squared error of 8-bit rounding and clipping, searched one end at a time."""
    centres = low + (np.arange(len(histogram)) + 0.5) * (high - low) / len(histogram)

    def error(a: float, b: float) -> float:
        a, b = min(a, 0.0), max(b, 0.0)
        outside = np.maximum(a - centres, 0) + np.maximum(centres - b, 0)
        step = (b - a) / _LEVELS
        return float((histogram * (outside**2 + (outside == 0) * step * step / 12)).sum())

    best = (low, high)
    for _ in range(3):
        for end in (0, 1):
            full = (low, high)[end]
            options = [full * k / _STEPS for k in range(1, _STEPS + 1)]
            pairs = [(o, best[1]) if end == 0 else (best[0], o) for o in options]
            best = min([best, *pairs], key=lambda p: error(*p))
    return best
