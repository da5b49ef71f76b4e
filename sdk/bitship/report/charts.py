"""Drawings of raw samples as SVG: every sample in a row of dots, a bar per op, power over time."""

import io
from collections.abc import Callable, Sequence
from typing import Any

from bitship.device.base import OpSamples, Trace
from bitship.report.base import Report
from bitship.report.summary import summarize

BLUE, RED, GREY = "#2a6fb0", "#c0392b", "#8a97a6"
MOST_BARS = 24  # ops drawn; the cheaper ones are one bar together
LEAST_DOTS = 5  # samples that make a distribution


def _draw(width: float, height: float, paint: Callable[[Any], None]) -> str:
    """Return the SVG of one pair of axes, the same bytes for the same data."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {"svg.hashsalt": "bitship", "font.size": 9, "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "bitship"})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def distributions(reports: Sequence[Report]) -> list[tuple[str, str]]:
    """Return (title, SVG) for every figure sampled often enough: a row of dots per report, a bar at the median."""
    groups: dict[tuple[str, str, str], list[tuple[str, tuple[float, ...]]]] = {}
    for r in reports:
        for s in r.samples:
            if len(s.values) >= LEAST_DOTS:
                groups.setdefault((s.name, s.unit, s.kind.value), []).append((f"{r.package}, {r.target}", s.values))
    return [
        (f"{n if n == u else f'{n} in {u}'}, {k}: every sample", strip(rows, u)) for (n, u, k), rows in groups.items()
    ]


def strip(rows: Sequence[tuple[str, tuple[float, ...]]], unit: str) -> str:
    """Draw one row of dots per name."""

    def paint(axes: Any) -> None:
        for y, (_, values) in enumerate(rows):
            middle = sorted(values)[len(values) // 2]
            axes.plot(values, [y] * len(values), "o", ms=4, alpha=0.45, color=BLUE, mew=0)
            axes.plot([middle, middle], [y - 0.3, y + 0.3], "-", color=RED, lw=2)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1.05 * max(max(values) for _, values in rows) or 1)
        axes.set_xlabel(unit)

    return _draw(7.5, 0.7 + 0.4 * len(rows), paint)


def op_bars(ops: Sequence[OpSamples]) -> str:
    """Draw the median of every op in the order they run, with its part of the whole; the cheapest together."""
    medians = [(op, summarize(op.samples).median) for op in ops]
    whole = sum(m for _, m in medians) or 1.0
    drawn = sorted(sorted(medians, key=lambda x: -x[1])[:MOST_BARS], key=lambda x: x[0].step)
    bars = [(f"{op.step} {op.op}", m) for op, m in drawn]
    rest = whole - sum(m for _, m in bars)
    if len(medians) > len(bars):
        bars.append((f"{len(medians) - len(bars)} others", rest))

    def paint(axes: Any) -> None:
        axes.barh(range(len(bars)), [m for _, m in bars], color=BLUE, height=0.7)
        for y, (_, m) in enumerate(bars):
            axes.text(m, y, f" {m / whole:.1%}", va="center", fontsize=8, color="#1c2430")
        axes.set_yticks(range(len(bars)), [name for name, _ in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.set_xlabel(f"{ops[0].samples.unit} ({ops[0].samples.kind.value})")

    return _draw(7.5, 0.8 + 0.24 * len(bars), paint)


def power(trace: Trace) -> str:
    """Draw lowest and highest power over time, the measured windows shaded."""

    def paint(axes: Any) -> None:
        for start, end in trace.windows:
            axes.axvspan(start, end, color=BLUE, alpha=0.12, lw=0)
        axes.fill_between(trace.seconds, trace.low, trace.high, step="post", color=RED, lw=0.6, alpha=0.8)
        axes.set_xlabel("s")
        axes.set_ylabel(trace.unit)
        axes.set_ylim(bottom=0)

    return _draw(7.5, 2.4, paint)


def stacked(
    names: Sequence[str], rows: Sequence[Sequence[float]], parts: Sequence[str], unit: str, marked: int | None = None
) -> str:
    """Draw one bar per name, its parts side by side; the bar ``marked`` has a dot at its end."""
    colours = (BLUE, GREY, RED, "#7a9e3f", "#b07d2a")

    def paint(axes: Any) -> None:
        left = [0.0] * len(rows)
        for number, part in enumerate(parts):
            widths = [row[number] for row in rows]
            axes.barh(range(len(rows)), widths, left=left, color=colours[number % len(colours)], label=part)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        if marked is not None:
            axes.plot([left[marked]], [marked], "o", ms=6, color="black")
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(unit)
        axes.legend(frameon=False)

    return _draw(7.5, 1.0 + 0.22 * len(rows), paint)


def curves(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]], x: str, y: str, level: tuple[str, float] | None = None
) -> str:
    """Draw a line of dots per name over a logarithmic axis; ``level`` is a named height across all of it."""
    colours = (BLUE, RED, "#7a9e3f", "#b07d2a", GREY)

    def paint(axes: Any) -> None:
        for number, (name, points) in enumerate(series):
            ordered = sorted(points)
            colour = colours[number % len(colours)]
            axes.plot([a for a, _ in ordered], [b for _, b in ordered], "o-", ms=4, color=colour, label=name)
        if level is not None:
            axes.axhline(level[1], ls="--", lw=1, color=GREY, label=level[0])
        axes.set_xscale("log")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend(frameon=False)

    return _draw(7.5, 3.6, paint)
