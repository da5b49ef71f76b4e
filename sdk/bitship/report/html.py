"""One self-contained HTML page from reports: tables, every raw sample drawn, and what decides the figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitship.graph.store import write_atomic
from bitship.report import charts
from bitship.report.base import Report
from bitship.report.summary import Summary, number, summarize
from bitship.report.tables import bits
from bitship.version import VERSION


@dataclass(frozen=True)
class _Row:
    """A report and what is drawn of it."""

    report: Report
    summaries: list[Summary]
    bits: str
    flash: int
    ops: str
    power: str
    plan: str

    @property
    def state(self) -> str:
        """The style's class of its proof of bits."""
        if self.report.difference:
            return "wrong"
        return "exact" if self.report.bits.exact else "tolerant"

    @property
    def ram(self) -> int | None:
        """Arena and stack."""
        f = self.report.footprint
        return None if f.stack_bytes is None else f.arena_bytes + f.stack_bytes


def write_html(
    reports: Sequence[Report],
    path: Path,
    title: str = "bitship report",
    notes: Sequence[tuple[str, str]] = (),
    failures: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the page under a temporary name, then rename it.

    notes     (name, text) pairs shown above the table, such as accuracies
    failures  (job, error) pairs of what gave no report
    """
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.PackageLoader("bitship", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    drawn: set[str] = set()
    page = env.get_template("report.html").render(
        title=title,
        rows=[_row(r, drawn) for r in reports],
        charts=charts.distributions(reports),
        notes=list(notes),
        failures=list(failures),
        number=number,
        version=VERSION,
    )
    write_atomic(path, page.encode())


def _row(report: Report, drawn: set[str]) -> _Row:
    """Draw a report; a memory plan is drawn once for all reports of one package."""
    plan = "" if report.plan in drawn else report.plan
    drawn.add(report.plan)
    return _Row(
        report,
        [summarize(s) for s in report.samples],
        bits(report),
        report.footprint.weights_bytes + (report.footprint.code_bytes or 0),
        charts.op_bars(report.ops) if report.ops else "",
        charts.power(report.trace) if report.trace is not None else "",
        plan,
    )
