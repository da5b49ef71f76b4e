"""Latencies of many runtimes in one process: every one runs once per round, in turn, and ratios are taken per round."""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from bitship.errors import BitshipError, MissingDependencyError

Run = Callable[[], object]


class Row(msgspec.Struct, frozen=True):
    """One runtime: milliseconds over the rounds, and how many times the first row's latency that is; or why not."""

    name: str
    arithmetic: str
    runs: int = 0
    p10_ms: float = 0.0
    median_ms: float = 0.0
    p90_ms: float = 0.0
    ratio: float = 0.0
    why_not: str = ""


@dataclass(frozen=True)
class Runtime:
    """One row to be: what it computes in, what opens it, and whether it is too slow for more than a few rounds."""

    name: str
    arithmetic: str
    opener: Callable[[], Run]
    slow: bool = False


SLOW_ROUNDS = 3


def measure(runs: Mapping[str, Run], slow: Sequence[str], rounds: int, warmup: int = 3) -> dict[str, list[float]]:
    """Return milliseconds per round; slow ones take part in the first few rounds only."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(-warmup, rounds):
        for name, run in runs.items():
            if name in slow and not 0 <= i < SLOW_ROUNDS:
                continue
            milliseconds = undisturbed(run)
            if i >= 0:
                times[name].append(milliseconds)
    return times


def undisturbed(run: Run) -> float:
    """Return the milliseconds of one run that the kernel did not preempt; of the last of ten tries if it always did."""
    elapsed = 0
    for _ in range(10):
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        start = time.perf_counter_ns()
        run()
        elapsed = time.perf_counter_ns() - start
        if resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == switches:
            break
    return elapsed / 1e6


def rows(
    table: Sequence[Runtime], rounds: int, only: Sequence[str], settle: Callable[[], None] = lambda: None
) -> list[Row]:
    """Open every runtime, call ``settle``, measure those that opened, and return all rows."""
    wanted = [r for r in table if not only or any(part in r.name for part in only)]
    opened: dict[str, Run] = {}
    found: dict[str, Row] = {}
    for r in wanted:
        print(f"opening {r.name}", file=sys.stderr, flush=True)
        try:
            opened[r.name] = r.opener()
        except (ImportError, MissingDependencyError) as e:
            found[r.name] = Row(r.name, r.arithmetic, why_not=f"not run: {str(e).splitlines()[0]}")
    if not opened:
        raise BitshipError(f"latency: none of {', '.join(r.name for r in wanted) or 'the runtimes'} runs here")
    settle()
    times = measure(opened, [r.name for r in wanted if r.slow], rounds)
    base = next(iter(times.values()))
    arithmetic = {r.name: r.arithmetic for r in wanted}
    for name, values in times.items():
        ratios = [t / b for t, b in zip(values, base, strict=False)]
        p10, median, p90 = (float(np.quantile(values, q)) for q in (0.1, 0.5, 0.9))
        found[name] = Row(name, arithmetic[name], len(values), p10, median, p90, float(np.median(ratios)))
    return [found[r.name] for r in wanted]


def show(title: str, found: Sequence[Row]) -> None:
    """Print the rows as a table."""
    from bitship.cli.output import table

    rows = []
    for r in found:
        figures = (f"{r.p10_ms:.2f}", f"{r.median_ms:.2f}", f"{r.p90_ms:.2f}", f"{r.ratio:.2f}", str(r.runs))
        rows.append((r.name, r.arithmetic, *(figures if r.runs else (r.why_not, "", "", "", ""))))
    table(title, ["runtime", "arithmetic", "p10", "median", "p90", "ratio", "runs"], rows, left=2)
