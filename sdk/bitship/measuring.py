"""How a figure is taken so that it can be defended: warmed up, repeated until its spread is known, all samples kept."""

import time
from collections.abc import Callable

import msgspec

from bitship.device.base import DeviceSession, Samples
from bitship.errors import DeviceError
from bitship.figures import FigureKind
from bitship.graph.base import Array
from bitship.report.summary import summarize

LEAST_RUNS = 6  # fewer have no 95 % interval of the median inside their range


class Effort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much is done for a figure.

    runs    recorded executions of the first round
    warmup  unrecorded executions before it
    spread  go on until half the median's 95 % interval is this part of the median; None: one round
    most    recorded executions at most
    most_s  seconds at most; a round that has begun is ended
    profile  whether every op is measured too, where the device can
    energy   whether energy is measured, where there is a power meter
    cool_below  degrees Celsius that a phone or computer must be below before it starts; None: it starts as it is
    cool_s      seconds it gets for that
    """

    runs: int = 20
    warmup: int = 3
    spread: float | None = None
    most: int = 1000
    most_s: float = 60.0
    profile: bool = True
    energy: bool = True
    cool_below: float | None = None
    cool_s: float = 600.0

    def check(self) -> None:
        """Raise DeviceError on values that make no sense."""
        if self.runs < 1:
            raise DeviceError(f"bench: {self.runs} runs; at least 1 is needed")
        if self.warmup < 0 or self.most < self.runs or self.most_s <= 0:
            raise DeviceError(
                f"bench: warmup {self.warmup}, most {self.most}, {self.most_s:g} s; warmup of 0 or more, most of at "
                f"least the {self.runs} runs, and some time are needed"
            )
        if self.spread is not None and not 0 < self.spread < 1:
            raise DeviceError(f"bench: spread {self.spread:g}; a part between 0 and 1 is needed, 0.01 for 1 %")


def sample(
    session: DeviceSession,
    row: tuple[Array, ...],
    effort: Effort,
    tick: Callable[[int, float], None] | None = None,
) -> tuple[tuple[Samples, ...], float | None]:
    """Return every figure's samples, and the widest spread that is left (None without measured figures).

    Rounds are as long as all before them together, so that their number stays small. Figures that come once a round
    (a start, a high-water mark) are kept from the first. ``tick`` hears of executions done and the spread after each
    round.
    """
    end = time.monotonic() + effort.most_s
    found = session.measure(row, effort.runs, effort.warmup)
    done = effort.runs
    while True:
        spread = _spread(found, done)
        if tick is not None:
            tick(done, 0.0 if spread is None else spread)
        if spread is None or effort.spread is None or done >= effort.most or time.monotonic() >= end:
            return found, spread
        if spread <= effort.spread and done >= LEAST_RUNS:
            return found, spread
        count = min(done, effort.most - done)
        found = _join(found, session.measure(row, count, 0), done, count)
        done += count


def _spread(found: tuple[Samples, ...], done: int) -> float | None:
    repeated = [s for s in found if s.kind is FigureKind.MEASURED and len(s.values) == done and done > 1]
    return max((summarize(s).spread for s in repeated), default=None)


def _join(first: tuple[Samples, ...], more: tuple[Samples, ...], done: int, count: int) -> tuple[Samples, ...]:
    """Append what was sampled once per execution; the same figures must have come back."""
    again = {(s.name, s.unit, s.kind): s for s in more if len(s.values) == count}
    joined = []
    for samples in first:
        other = again.get((samples.name, samples.unit, samples.kind))
        if len(samples.values) == done and other is not None:
            joined.append(msgspec.structs.replace(samples, values=(*samples.values, *other.values)))
        elif len(samples.values) == done and done > 1:
            raise DeviceError(f"bench: figure '{samples.name}' came with the first {done} executions and not later")
        else:
            joined.append(samples)
    return tuple(joined)
