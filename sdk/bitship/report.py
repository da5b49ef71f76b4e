"""A report: what was run where, whether the bits were the reference's, and every raw sample."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from bitship.converters.base import Footprint, Numerics
from bitship.device.base import FigureKind, Samples
from bitship.errors import FormatError
from bitship.graph.store import write_atomic

SCHEMA = 1


class Bits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of the proof: how many vectors ran, how many elements differed, by how much at most."""

    vectors: int
    elements: int
    differing: int
    max_difference: int

    @property
    def exact(self) -> bool:
        """Whether every element of every output was the reference's."""
        return self.differing == 0


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One benchmark of one package on one device. ``environment`` says what decides the figures.

    plan  the memory plan as SVG, where the package has one
    """

    schema: int
    package: str
    target: str
    device: str
    converter: str
    artifact: str
    numerics: Numerics
    graph_digest: str
    macs: int
    footprint: Footprint
    bits: Bits
    samples: tuple[Samples, ...]
    environment: dict[str, str]
    tools: dict[str, str]
    when: str
    plan: str = ""


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


def save(reports: Sequence[Report], path: Path) -> None:
    """Write reports as JSON, all samples kept."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(list(reports)), indent=1) + b"\n")


def load(path: Path) -> list[Report]:
    """Read reports; FormatError when the file is damaged."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise FormatError(f"{path}: cannot be read: {e.strerror}") from None
    try:
        reports = msgspec.json.decode(data, type=list[Report])
    except msgspec.MsgspecError as e:
        raise FormatError(f"{path}: not a bitship report: {e}") from None
    if any(r.schema != SCHEMA for r in reports):
        raise FormatError(f"{path}: report schema {reports[0].schema}, this bitship reads schema {SCHEMA}")
    return reports


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure of two reports: medians and their ratio b / a; ``clear`` when the median intervals do not meet."""

    what: str
    unit: str
    kind: FigureKind
    a: float
    b: float
    ratio: float
    clear: bool


def compare(a: Sequence[Report], b: Sequence[Report]) -> list[Comparison]:
    """Pair reports by target, converter and artifact, and figures by name and kind; FormatError when nothing pairs."""
    rows: list[Comparison] = []
    theirs = {(r.target, r.converter, r.artifact): r for r in b}
    for mine in a:
        other = theirs.get((mine.target, mine.converter, mine.artifact))
        if other is None:
            continue
        title = f"{mine.target} {mine.converter} {mine.artifact}"
        figures = {(s.name, s.unit, s.kind): summarize(s) for s in other.samples}
        for samples in mine.samples:
            p, q = summarize(samples), figures.get((samples.name, samples.unit, samples.kind))
            if q is None:
                continue
            clear = q.low > p.high or q.high < p.low
            ratio = q.median / p.median if p.median else float("inf")
            rows.append(Comparison(f"{title} {p.name}", p.unit, p.kind, p.median, q.median, ratio, clear))
        for name in ("arena_bytes", "weights_bytes"):
            p_bytes, q_bytes = getattr(mine.footprint, name), getattr(other.footprint, name)
            ratio = q_bytes / p_bytes if p_bytes else float("inf")
            what = f"{title} {name.removesuffix('_bytes')}"
            rows.append(Comparison(what, "B", FigureKind.MEASURED, p_bytes, q_bytes, ratio, p_bytes != q_bytes))
    if not rows:
        raise FormatError("compare: the two files share no target, converter and artifact")
    return rows
