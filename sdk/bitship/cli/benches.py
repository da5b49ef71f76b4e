"""Commands that measure, and on what was measured: bench, compare, report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitship.cli.models import Json
from bitship.cli.output import console, emit_json, table, working
from bitship.errors import BitsDifferError, FormatError
from bitship.graph.store import write_atomic

if TYPE_CHECKING:
    from bitship.campaign import Record, Watcher
    from bitship.measuring import Effort
    from bitship.report import Report

Html = Annotated[Path | None, typer.Option(help="Write one self-contained HTML page.")]


def bench(
    what: Annotated[list[Path], typer.Argument(help="Package folders, or one suite (a .toml file).")],
    device: Annotated[
        str | None,
        typer.Option("-d", "--device", help="host, emulator, or a unit of devices.toml; what fits when not given."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Recorded executions, at least.")] = 20,
    warmup: Annotated[int, typer.Option(min=0, help="Executions before them.")] = 3,
    spread: Annotated[
        float | None,
        typer.Option(help="Go on until half the median's 95 % interval is this part of it: 0.01 is 1 %."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds that --spread may take.")] = 60.0,
    profile: Annotated[bool, typer.Option(help="Measure every op too, where the device can.")] = True,
    energy: Annotated[bool, typer.Option(help="Measure energy too, where the device has a power meter.")] = True,
    cool_below: Annotated[
        float | None, typer.Option(help="Wait until phones and computers are below this many degrees Celsius.")
    ] = None,
    artifact: Annotated[str | None, typer.Option(help="Which artifact, by role; the exact one when not given.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads a tvm package runs on, on this machine.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Suites: jobs at a time.")] = 2,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the reports as JSON; of a suite: the results folder.")
    ] = None,
    html: Html = None,
    json: Json = False,
) -> None:
    """Prove a package's bits on a device, then measure it; wrong bits are an error and nothing is timed.

    A suite runs models x targets x devices into a results folder. Begun again, it goes on where it was. Its exit status
    is 1 when a job did not pass.
    """
    from bitship.measuring import Effort

    if any(p.suffix == ".toml" for p in what):
        if len(what) != 1:
            raise FormatError("bench: a suite is run alone; packages go without one")
        _suite(what[0], out or Path("results") / what[0].stem, workers, html, json)
        return
    effort = Effort(runs, warmup, spread, max(runs, Effort().most), seconds, profile, energy, cool_below)
    found, wrong = _packages(what, device, effort, artifact, threads, json)
    from bitship import report as reports

    if out is not None:
        reports.save(found, out)
    if html is not None:
        _write_html(found, html)
    _show(found, json)
    if wrong is not None:
        raise wrong


def _packages(
    paths: Sequence[Path], device: str | None, effort: "Effort", artifact: str | None, threads: int, json: bool
) -> "tuple[list[Report], BitsDifferError | None]":
    """Run packages until one gives wrong bits, which is handed back beside its report."""
    from bitship.benchmarking import bench as run

    found: list[Report] = []
    for path in paths:
        with _rounds(path, json) as tick:
            try:
                found.append(run(path, device, role=artifact, threads=threads, effort=effort, tick=tick))
            except BitsDifferError as e:
                return found + ([e.report] if e.report is not None else []), e
    return found, None


@contextmanager
def _rounds(path: Path, quiet: bool) -> Iterator["_Tick"]:
    c = console(stderr=True)
    if quiet or not c.is_terminal:
        yield _ignore
        return
    with c.status(f"benchmarking {path}") as status:
        yield lambda done, spread: status.update(f"benchmarking {path}: {done} runs, median known to {spread:.2%}")


if TYPE_CHECKING:
    from collections.abc import Callable

    _Tick = Callable[[int, float], None]


def _ignore(done: int, spread: float) -> None: ...


def _suite(path: Path, out: Path, workers: int, html: Path | None, json: bool) -> None:
    from bitship import campaign

    suite = campaign.read_suite(path)
    todo = campaign.jobs(suite, path.parent)
    with campaign.open_results(out) as results:
        finished = campaign.read(out) if (out / "runs.jsonl").is_file() else []
        wanted = {job.key for job in todo}
        known = [r for r in finished if r.key in wanted]
        with _watching(len(todo), known, json) as watcher:
            records = campaign.run(todo, results, known, workers, suite.attempts, watcher)
    if html is not None:
        _write_html(campaign.reports(records), html, _failures(records))
    if json:
        emit_json(records)
    else:
        _show(campaign.reports(records), False)
        _say_failures(records)
        console().print(f"  {out}: {_count(records)}")
    if any(r.status is not campaign.Status.PASSED for r in records):
        raise typer.Exit(1)


def _count(records: "Sequence[Record]") -> str:
    from bitship.campaign import Status

    counts = {s: sum(r.status is s for r in records) for s in Status}
    return ", ".join(f"{n} {s.value}" for s, n in counts.items() if n or s is Status.PASSED)


def _failures(records: "Sequence[Record]") -> list[tuple[str, str]]:
    return [(r.job.title, f"{r.status.value}: {r.error}") for r in records if r.error]


def _say_failures(records: "Sequence[Record]") -> None:
    for title, error in _failures(records):
        console(stderr=True).print(f"  {title}: {error}")


@contextmanager
def _watching(total: int, known: "Sequence[Record]", quiet: bool) -> Iterator["Watcher | None"]:
    """Show a bar over all jobs and one line per running job, on a terminal; a line per job otherwise."""
    from bitship.cli.progress import Bars, Lines

    if quiet:
        yield None
        return
    from bitship.campaign import Status

    done = sum(r.status is not Status.FAILED for r in known)
    c = console(stderr=True)
    if c.is_terminal:
        with Bars(c, total, done) as bars:
            yield bars
    else:
        yield Lines(c, total, done)


def report(
    what: Annotated[list[Path], typer.Argument(help="Report files, or results folders of suites.")],
    html: Html = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a table in Markdown.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write every figure as comma-separated values.")] = None,
    json: Json = False,
) -> None:
    """Show reports as a table, or turn them into one HTML page, Markdown or CSV."""
    from bitship.report import tables

    found, failures = _read(what)
    if html is not None:
        _write_html(found, html, failures)
    for path, text in ((markdown, tables.markdown(found)), (csv, tables.comma_separated(found))):
        if path is not None:
            write_atomic(path, text.encode())
            console(stderr=True).print(f"wrote {path}")
    _show(found, json)
    if not json:
        for title, error in failures:
            console(stderr=True).print(f"  {title}: {error}")


def _read(paths: Sequence[Path]) -> "tuple[list[Report], list[tuple[str, str]]]":
    """Return the reports of files and results folders, and what failed in the latter."""
    from bitship import campaign
    from bitship import report as reports

    found: list[Report] = []
    failures: list[tuple[str, str]] = []
    for path in paths:
        if path.is_dir():
            records = campaign.read(path)
            found += campaign.reports(records)
            failures += _failures(records)
        else:
            found += reports.load(path)
    return found, failures


def compare(
    a: Annotated[Path, typer.Argument(help="A report file or results folder.")],
    b: Annotated[Path, typer.Argument(help="Another; ratios are b / a.")],
    tolerance: Annotated[float, typer.Option(help="The part a figure may grow by: 0.02 is 2 %.")] = 0.02,
    json: Json = False,
) -> None:
    """Compare two reports figure by figure; exit status 1 when one of b is worse than a's.

    Worse is: wrong bits, a figure beyond the tolerance whose median's 95 % interval does not meet that of a, or one
    that is gone. Beyond the tolerance with intervals that meet is called unclear, and is no regression.
    """
    from bitship import report as reports

    rows = reports.compare(_read([a])[0], _read([b])[0], tolerance)
    worse = sum(r.verdict.regression for r in rows)
    if json:
        emit_json(rows)
    else:
        columns = ["figure", "kind", "unit", "a", "b", "b / a", "verdict"]
        cells = [(r.what, r.kind.value, r.unit, r.a, r.b, f"{r.ratio:.3f}", r.verdict.value) for r in rows]
        table(f"{b} against {a}, tolerance {tolerance:.1%}", columns, cells, left=3)
        console().print(f"  {len(rows)} figures, {worse} worse")
    if worse:
        raise typer.Exit(1)


def _write_html(found: "Sequence[Report]", path: Path, failures: Sequence[tuple[str, str]] = ()) -> None:
    from bitship.report.html import write_html

    with working(f"drawing {path}", False):
        write_html(found, path, failures=failures)
    console(stderr=True).print(f"wrote {path}")


def _show(found: "Sequence[Report]", json: bool) -> None:
    from bitship.report import tables

    if json:
        emit_json(found)
        return
    table("", tables.COLUMNS, tables.rows(found), left=tables.TEXT_COLUMNS)
    for r in found:
        flash = r.footprint.weights_bytes + (r.footprint.code_bytes or 0)
        console().print(
            f"  {r.package}: {r.bits.vectors} vectors, {r.bits.elements:,} elements compared; "
            f"flash {flash:,} B, arena {r.footprint.arena_bytes:,} B"
        )
