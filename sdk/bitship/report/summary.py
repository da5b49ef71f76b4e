"""Statistics of raw samples."""

import statistics

import msgspec
import numpy as np

from bitship.device.base import Samples
from bitship.figures import FigureKind


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Statistics of one figure's samples; ``low`` and ``high`` bound the median with 95 % confidence."""

    name: str
    unit: str
    kind: FigureKind
    count: int
    median: float
    p90: float
    p99: float
    cv: float
    low: float
    high: float

    @classmethod
    def exactly(cls, name: str, unit: str, value: float) -> "Summary":
        """Return the summary of a figure that is read off, not sampled."""
        return summarize(Samples(name, unit, FigureKind.MEASURED, (float(value),)))

    @property
    def spread(self) -> float:
        """Half the median's interval, as a part of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def summarize(samples: Samples) -> Summary:
    """Return median, percentiles, coefficient of variation and the median's 95 % interval.

    The interval is between order statistics (binomial, David and Nagaraja, Order Statistics, section 7.1), so it
    assumes nothing of the distribution; with under six samples it is the whole range.
    """
    values = sorted(samples.values)
    n = len(values)
    half = 0.98 * n**0.5
    low, high = (
        (values[0], values[-1]) if n < 6 else (values[max(0, int(n / 2 - half))], values[min(n - 1, int(n / 2 + half))])
    )
    mean = statistics.fmean(values)
    return Summary(
        name=samples.name,
        unit=samples.unit,
        kind=samples.kind,
        count=n,
        median=statistics.median(values),
        p90=float(np.percentile(values, 90, method="inverted_cdf")),
        p99=float(np.percentile(values, 99, method="inverted_cdf")),
        cv=statistics.stdev(values) / mean if n > 1 and mean else 0.0,
        low=low,
        high=high,
    )


def number(value: float) -> str:
    """Return a figure with four significant digits, or all of them where it is whole or at least 1,000."""
    if 1000 <= abs(value) < 1e15 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4g}"
