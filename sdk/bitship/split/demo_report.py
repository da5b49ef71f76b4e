"""What the split demo shows: the terminal's view while it runs, and one self-contained page at its end."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitship.graph.store import write_atomic
from bitship.split import scenes
from bitship.split.evaluate import Result
from bitship.version import VERSION

if TYPE_CHECKING:
    from bitship.split.demo import Seen

LAST = 14
CODECS = (
    *((scenes.Codec.JPEG, q) for q in (75, 30, 15, 10, 5)),
    *((scenes.Codec.WEBP, q) for q in (75, 30, 10, 5, 0)),
)


@dataclass(frozen=True)
class Found:
    """Everything that the page shows. ``full``: the full model's accuracy."""

    name: str
    full: float
    result: Result
    files: Sequence[scenes.FilePoint]
    seen: Sequence["Seen"]
    facts: Sequence[tuple[str, str]]


def screen(seen: Sequence["Seen"], facts: Sequence[tuple[str, str]]) -> Any:
    """Return what the terminal shows: the last images, and under them what was found so far."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    t = Table(title="image by image", title_justify="left")
    for name in ("device", "link", "bytes", "ms", "rung", "answer", "by", "sure"):
        t.add_column(name, justify="right" if name in ("bytes", "ms", "rung", "sure") else "left")
    for s in seen[-LAST:]:
        mark = f"{s.answer}" if s.right else f"{s.answer} (it is {s.label})"
        ms = f"{1e3 * s.seconds:.0f}" if s.seconds else "-"
        rung = "-" if s.rung is None else str(s.rung)
        t.add_row(s.device, s.link, str(s.nbytes), ms, rung, mark, _who(s.source), f"{100 * s.confidence:.0f} %")
    return Group(t, *(Text(f"{name}: {text}") for name, text in facts))


def write(path: Path, found: Found) -> None:
    """Write the page under a temporary name, then rename it."""
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.PackageLoader("bitship", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = env.get_template("split.html").render(
        found=found,
        rungs=found.result.rungs,
        links=[_link_row(name, found.seen) for name in dict.fromkeys(s.link for s in found.seen)],
        charts=_charts(found),
        who=_who,
        version=VERSION,
    )
    write_atomic(path, page.encode())


def _who(source: str) -> str:
    return source.lower().replace("_", " ")


def _link_row(name: str, seen: Sequence["Seen"]) -> dict[str, Any]:
    own = [s for s in seen if s.link == name]
    sent = [s for s in own if s.nbytes]
    return {
        "name": name,
        "images": len(own),
        "right": sum(s.right for s in own),
        "sent": len(sent),
        "bytes": statistics.fmean(s.nbytes for s in own),
        "median": statistics.median(s.seconds for s in sent) if sent else None,
        "worst": max(s.seconds for s in own),
        "joules": statistics.fmean(s.joules for s in own),
    }


def _charts(found: Found) -> list[tuple[str, str]]:
    from bitship.report.charts import curves, strip

    series = [("split, integer", [(r.mean_bytes, 100 * r.accuracy) for r in found.result.rungs])]
    series += [
        (f"full model on {codec}", [(p.mean_bytes, 100 * p.accuracy) for p in found.files if p.codec == codec])
        for codec in dict.fromkeys(p.codec for p in found.files)
    ]
    level = ("full model, no codec", 100 * found.full)
    charts = [("accuracy against bytes (measured)", curves(series, "bytes an image", "right answers, %", level))]
    rows = {s.link: tuple(1e3 * t.seconds for t in found.seen if t.link == s.link and t.nbytes) for s in found.seen}
    sent = [(name, values) for name, values in rows.items() if values]
    if sent:
        charts.append(("time to the tail's answer, every image (measured)", strip(sent, "ms")))
    return charts
