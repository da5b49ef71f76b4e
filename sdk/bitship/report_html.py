"""One self-contained HTML page from reports: a table, every raw sample drawn, and what decides the figures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitship.graph.store import write_atomic
from bitship.report import Report, Summary, number, summarize
from bitship.version import VERSION


@dataclass(frozen=True)
class _Row:
    report: Report
    summaries: list[Summary]
    bits: str
    flash: int


def write_html(
    reports: Sequence[Report], path: Path, title: str = "bitship report", notes: Sequence[tuple[str, str]] = ()
) -> None:
    """Write the page under a temporary name, then rename it.

    notes  (name, text) pairs shown above the table, such as accuracies
    """
    import jinja2

    env = jinja2.Environment(loader=jinja2.PackageLoader("bitship", "templates"), autoescape=True)
    rows = [_row(r) for r in reports]
    plans = {r.plan: r for r in reports if r.plan}  # once for reports of one package
    page = env.get_template("report.html").render(
        title=title,
        reports=rows,
        plans=list(plans.values()),
        charts=_charts(reports),
        notes=list(notes),
        number=number,
        version=VERSION,
    )
    write_atomic(path, page.encode())


def _row(report: Report) -> _Row:
    b = report.bits
    bits = "exact" if b.exact else f"{b.differing:,} of {b.elements:,} differ, by {b.max_difference} at most"
    flash = report.footprint.weights_bytes + (report.footprint.code_bytes or 0)
    return _Row(report, [summarize(s) for s in report.samples], bits, flash)


def _charts(reports: Sequence[Report]) -> list[tuple[str, str]]:
    """Return (title, SVG) for every figure name and unit: one row of dots per package, a bar at the median."""
    groups: dict[tuple[str, str, str], list[tuple[str, tuple[float, ...]]]] = {}
    for r in reports:
        for s in r.samples:
            groups.setdefault((s.name, s.unit, s.kind.value), []).append((f"{r.package} ({r.artifact})", s.values))
    return [
        (f"{n if n == u else f'{n} in {u}'}, {k}: every sample", _strip(rows, u)) for (n, u, k), rows in groups.items()
    ]


def _strip(rows: list[tuple[str, tuple[float, ...]]], unit: str) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(
        {"svg.hashsalt": "bitship", "font.size": 9, "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        figure = Figure(figsize=(8.5, 0.7 + 0.45 * len(rows)), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for y, (_, values) in enumerate(rows):
            middle = sorted(values)[len(values) // 2]
            axes.plot(values, [y] * len(values), "o", ms=4, alpha=0.45, color="#2a6fb0", mew=0)
            axes.plot([middle, middle], [y - 0.3, y + 0.3], "-", color="#c0392b", lw=2)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel(unit)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "bitship"})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
