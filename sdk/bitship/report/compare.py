"""Two sets of reports beside each other: every figure is a cost, and more of it is worse."""

import enum
from collections.abc import Callable, Iterator, Sequence

import msgspec

from bitship.errors import FormatError
from bitship.figures import FigureKind
from bitship.report.base import Report
from bitship.report.summary import Summary, summarize


class Verdict(enum.Enum):
    """What a comparison says.

    SAME within the tolerance; BETTER or WORSE beyond it with median intervals that do not meet; UNCLEAR beyond it with
    intervals that do; GONE where the second has no such figure.
    """

    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "unclear"
    GONE = "gone"

    @property
    def regression(self) -> bool:
        """Whether it fails a comparison."""
        return self in (Verdict.WORSE, Verdict.GONE)


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure of two reports: medians and their ratio b / a; ``clear`` when the median intervals do not meet."""

    what: str
    unit: str
    kind: FigureKind
    a: float
    b: float
    ratio: float
    clear: bool
    verdict: Verdict


def compare(a: Sequence[Report], b: Sequence[Report], tolerance: float = 0.0) -> list[Comparison]:
    """Pair reports, and figures by name, unit and kind; FormatError when nothing pairs.

    tolerance  the part of a figure that a change may have without being called one

    Reports are paired by package, target, device, converter and artifact; what is left over, by target, converter and
    artifact where that leaves one of each.
    """
    if not 0 <= tolerance < 1:
        raise FormatError(f"compare: tolerance {tolerance:g}; a part from 0 to 1 is allowed, 0.05 for 5 %")
    pairs, alone = _pair(a, b)
    if not pairs:
        raise FormatError("compare: the two share no target, converter and artifact")
    rows = [row for mine, other in pairs for row in _figures(mine, other, tolerance)]
    for report in alone:
        for s in map(summarize, report.samples):
            rows.append(_row(f"{_title(report)} {s.name}", s, None, tolerance))
    return rows


def _full(r: Report) -> tuple[str, ...]:
    return (r.package, r.target, r.device, r.converter, r.artifact)


def _short(r: Report) -> tuple[str, ...]:
    return (r.target, r.converter, r.artifact)


def _pair(a: Sequence[Report], b: Sequence[Report]) -> tuple[list[tuple[Report, Report]], list[Report]]:
    """Return pairs, and the reports of ``a`` that have none."""
    pairs: list[tuple[Report, Report]] = []
    mine, theirs = list(a), list(b)
    for key in (_full, _short):
        for report in list(mine):
            other = _only(report, mine, theirs, key)
            if other is not None:
                pairs.append((report, other))
                mine.remove(report)
                theirs.remove(other)
    return pairs, mine


def _only(
    report: Report, mine: list[Report], theirs: list[Report], key: Callable[[Report], tuple[str, ...]]
) -> Report | None:
    """Return the one report of ``theirs`` with this key, where ``mine`` has one too."""
    same = [r for r in theirs if key(r) == key(report)]
    if key is _full:
        return same[-1] if same else None
    return same[0] if len(same) == 1 and sum(key(r) == key(report) for r in mine) == 1 else None


def _title(r: Report) -> str:
    return f"{r.package} {r.target} {r.converter}/{r.artifact}"


def _figures(mine: Report, other: Report, tolerance: float) -> Iterator[Comparison]:
    title = _title(mine)
    wrong = Summary.exactly("differing elements", "elements", mine.bits.differing)
    yield _row(f"{title} bits", wrong, Summary.exactly(wrong.name, wrong.unit, other.bits.differing), 0.0)
    known = {(s.name, s.unit, s.kind): summarize(s) for s in other.samples}
    for samples in mine.samples:
        found = known.get((samples.name, samples.unit, samples.kind))
        yield _row(f"{title} {samples.name}", summarize(samples), found, tolerance)
    for name in ("arena_bytes", "weights_bytes", "code_bytes", "stack_bytes"):
        p, q = getattr(mine.footprint, name), getattr(other.footprint, name)
        if p is not None and q is not None:
            figure = name.removesuffix("_bytes")
            yield _row(
                f"{title} package {figure}", Summary.exactly(figure, "B", p), Summary.exactly(figure, "B", q), tolerance
            )


def _row(what: str, p: Summary, q: Summary | None, tolerance: float) -> Comparison:
    if q is None:
        return Comparison(what, p.unit, p.kind, p.median, float("nan"), float("nan"), True, Verdict.GONE)
    ratio = q.median / p.median if p.median else (1.0 if q.median == 0 else float("inf"))
    clear = q.low > p.high or q.high < p.low
    verdict = Verdict.SAME
    if abs(ratio - 1) > tolerance:
        verdict = (Verdict.WORSE if ratio > 1 else Verdict.BETTER) if clear else Verdict.UNCLEAR
    return Comparison(what, p.unit, p.kind, p.median, q.median, ratio, clear, verdict)
