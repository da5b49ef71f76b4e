"""Reports as rows: for the terminal, Markdown and CSV."""

import csv
import io
from collections.abc import Sequence

from bitship.report.base import Report
from bitship.report.summary import number, summarize

COLUMNS = ("package", "target", "device", "artifact", "bits", "figure", "kind", "median", "unit", "p90", "p99", "CV")
TEXT_COLUMNS = 7  # from the left; the others are numbers
_EXACT_COLUMNS = (
    *("package", "target", "device", "converter", "artifact", "elements", "differing", "figure", "kind", "unit"),
    *("count", "median", "low", "high", "p90", "p99", "cv", "resolution"),
)


def bits(report: Report) -> str:
    """Return what the proof of bits gave, in words."""
    b = report.bits
    if not b.vectors:
        return "not proven"
    return "exact" if b.exact else f"{b.differing:,} of {b.elements:,} differ, by {b.max_difference} at most"


def rows(reports: Sequence[Report], repeat: bool = False) -> list[tuple[str, ...]]:
    """Return one row per figure; a report's own columns are blank after its first row, unless ``repeat``."""
    found = []
    for r in reports:
        title: tuple[str, ...] = (r.package, r.target, r.device, f"{r.converter}/{r.artifact}", bits(r))
        for s in map(summarize, r.samples):
            figures = (number(s.median), s.unit, number(s.p90), number(s.p99), f"{s.cv * 100:.1f} %")
            found.append((*title, s.name, s.kind.value, *figures))
            title = title if repeat else ("",) * len(title)
        if not r.samples:
            found.append((*title, "bits only", "", "-", "", "-", "-", "-"))
    return found


def markdown(reports: Sequence[Report]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |"]
    numeric = {"median", "p90", "p99", "CV"}
    lines.append("|" + "|".join("--:" if c in numeric else "---" for c in COLUMNS) + "|")
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows(reports)]
    return "\n".join(lines) + "\n"


def comma_separated(reports: Sequence[Report]) -> str:
    """Return one line per figure, numbers unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_EXACT_COLUMNS)
    for r in reports:
        title = (r.package, r.target, r.device, r.converter, r.artifact, r.bits.elements, r.bits.differing)
        for samples in r.samples:
            s = summarize(samples)
            figures = (s.name, s.kind.value, s.unit, s.count, s.median, s.low, s.high, s.p90, s.p99, s.cv)
            writer.writerow((*title, *figures, samples.resolution))
    return out.getvalue()
