"""Energy of an inference: a meter's power integrated between the edges of a burst, what the idle board draws beside it.

Window edges are those of the marker line where there is one, else the host's clock with its slack as an error bound.
"""

import math
import time
from dataclasses import dataclass

import msgspec
import numpy as np

from bitship.device.base import Burst, Bursts, Samples, Trace
from bitship.device.meters import MeterDriver, PowerTrace
from bitship.errors import DeviceError
from bitship.graph.base import Array

_STRETCHES = 1000
_MOST_RUNS = 10_000_000


class Energy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured: energy per inference, mean power, idle power, and the last window's trace.

    edges  "marker" or "host clock"; runs  inferences in every window
    """

    samples: tuple[Samples, ...]
    trace: Trace
    meter: str
    edges: str
    runs: int


class Windows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long is measured.

    window_s    least length of a burst; baseline_s  idle time before each; settle_s  nothing looked at before a burst
    least, most windows; spread  half of the mean's 95 % interval, relative, at which enough were taken
    """

    window_s: float = 1.0
    baseline_s: float = 0.5
    settle_s: float = 0.1
    least: int = 5
    most: int = 20
    spread: float = 0.01


@dataclass(frozen=True)
class Window:
    """One burst on a trace: edges in seconds of the trace, joules between them, and by how much they may be wrong."""

    start: float
    end: float
    joules: float
    idle_watts: float
    bound_joules: float


def integrate(trace: PowerTrace, start: float, end: float) -> float:
    """Return the joules between two times of a trace by the trapezoidal rule; DeviceError when it does not reach."""
    seconds, watts = trace.seconds, trace.watts
    if not seconds[0] <= start < end <= seconds[-1]:
        raise DeviceError(
            f"energy: the window {start:.6f} to {end:.6f} s is not on the trace, which has {seconds[0]:.6f} to "
            f"{seconds[-1]:.6f} s"
        )
    inside = (seconds > start) & (seconds < end)
    t = np.concatenate(([start], seconds[inside], [end]))
    p = np.concatenate(([np.interp(start, seconds, watts)], watts[inside], [np.interp(end, seconds, watts)]))
    return float(np.sum((p[1:] + p[:-1]) / 2 * np.diff(t)))


def falling_edges(trace: PowerTrace) -> list[tuple[float, float]]:
    """Return (time, half of the step around it) of every falling edge of the marker."""
    assert trace.marker is not None
    at = np.flatnonzero(trace.marker[:-1] & ~trace.marker[1:])
    before, after = trace.seconds[at], trace.seconds[at + 1]
    return [(float(m), float(h)) for m, h in zip((before + after) / 2, (after - before) / 2, strict=True)]


def check(trace: PowerTrace) -> None:
    """Raise DeviceError where a trace is not to be integrated: samples lost, too few, not finite."""
    if trace.lost:
        raise DeviceError(f"energy: the meter lost {trace.lost} samples; nothing was computed; measure again")
    if len(trace.seconds) < 2 or not np.all(np.isfinite(trace.watts)):
        raise DeviceError(f"energy: the meter gave {len(trace.seconds)} samples, or some that are no numbers")


def window(trace: PowerTrace, burst: Burst, idle_end_s: float, baseline_s: float) -> Window:
    """Find a burst on a trace and integrate it.

    idle_end_s  on the host's clock: from the trace's begin to it, ``baseline_s`` at most, the board was idle
    Raises DeviceError when samples were lost or an edge is missing: there is no energy without both edges.
    """
    check(trace)
    idle_end = idle_end_s - trace.start_s - trace.slack_s
    if trace.marker is not None:  # the meter's own clock: how well the host knows its begin does not matter
        edges = falling_edges(trace)
        if len(edges) != 2:
            raise DeviceError(
                f"energy: {len(edges)} edges of the marker in a burst, 2 are expected; check its wire and input"
            )
        (start, a), (end, b) = edges
        slack, idle_end = a + b, min(idle_end, start - a)
    else:
        start, end = burst.start_s - trace.start_s, burst.end_s - trace.start_s
        slack = 2 * (burst.slack_s + trace.slack_s)
    idle = (trace.seconds < idle_end) & (trace.seconds >= idle_end - baseline_s)
    if not idle.any():
        raise DeviceError(f"energy: the trace has no sample of the idle board, {baseline_s:g} s before the burst")
    idle_watts = float(trace.watts[idle].mean())
    joules = integrate(trace, start, end)
    if trace.marker is None and burst.seconds is not None:  # the host's window without the device's is idle
        joules -= idle_watts * max(0.0, end - start - burst.seconds)
    peak = float(trace.watts[(trace.seconds >= start) & (trace.seconds <= end)].max(initial=idle_watts))
    return Window(start, end, joules, idle_watts, slack * max(peak - idle_watts, 0.0))


def measure_energy(
    session: Bursts, meter: MeterDriver, row: tuple[Array, ...], effort: Windows | None = None
) -> Energy:
    """Measure the energy of an inference on one input: several windows of many runs, with the link silent.

    Raises DeviceError on a lost sample or a missing edge; there is no figure from a damaged trace.
    """
    effort = effort or Windows()
    runs = _runs(session, row, effort.window_s)
    found: list[Window] = []
    seconds: list[float] = []
    while True:
        trace, burst, made = _record(session, meter, row, runs, effort)
        found.append(made)
        seconds.append(burst.seconds if trace.marker is None and burst.seconds else made.end - made.start)
        if len(found) >= effort.most or (len(found) >= effort.least and _known([w.joules for w in found], effort)):
            break
    each = 1e6 / runs
    bound = max(w.bound_joules for w in found) * each
    kind = trace.kind
    samples = (
        Samples("energy per inference", "uJ", kind, tuple(w.joules * each for w in found), bound),
        Samples(
            "energy above idle",
            "uJ",
            kind,
            tuple((w.joules - w.idle_watts * s) * each for w, s in zip(found, seconds, strict=True)),
            bound,
        ),
        Samples("mean power", "mW", kind, tuple(w.joules / s * 1e3 for w, s in zip(found, seconds, strict=True))),
        Samples("idle power", "mW", kind, tuple(w.idle_watts * 1e3 for w in found)),
    )
    edges = "host clock" if trace.marker is None else "marker"
    return Energy(samples, small(trace, meter.title(), found[-1]), meter.title(), edges, runs)


def _runs(session: Bursts, row: tuple[Array, ...], window_s: float) -> int:
    """Return how many runs fill a window: a burst is tried, ten times as long each time, until it lasts a tenth."""
    runs = 1
    while True:
        burst = session.burst(row, runs)
        took = burst.seconds if burst.seconds else burst.end_s - burst.start_s
        if took >= window_s / 10 or runs >= _MOST_RUNS:
            return max(1, min(_MOST_RUNS, math.ceil(runs * window_s / max(took, 1e-9))))
        runs *= 10


def _record(
    session: Bursts, meter: MeterDriver, row: tuple[Array, ...], runs: int, effort: Windows
) -> tuple[PowerTrace, Burst, Window]:
    with meter.record() as recording:
        time.sleep(effort.settle_s + effort.baseline_s)
        idle_end = time.monotonic()
        burst = session.burst(row, runs)
        time.sleep(effort.settle_s)
        trace = recording.stop()
    return trace, burst, window(trace, burst, idle_end, effort.baseline_s)


def _known(joules: list[float], effort: Windows) -> bool:
    """Whether half of the mean's 95 % interval is below the spread asked for."""
    mean, deviation = float(np.mean(joules)), float(np.std(joules, ddof=1))
    return mean > 0 and 1.96 * deviation / math.sqrt(len(joules)) <= effort.spread * mean


def small(trace: PowerTrace, name: str, found: Window) -> Trace:
    """Return a trace of at most 1,000 stretches, each with its lowest and highest power in milliwatts."""
    starts = np.unique(np.linspace(0, len(trace.seconds), _STRETCHES, endpoint=False).astype(np.int64))
    return Trace(
        name,
        "mW",
        trace.kind,
        tuple(trace.seconds[starts].tolist()),
        tuple((np.minimum.reduceat(trace.watts, starts) * 1e3).tolist()),
        tuple((np.maximum.reduceat(trace.watts, starts) * 1e3).tolist()),
        ((found.start, found.end),),
    )
