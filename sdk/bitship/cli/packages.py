"""Commands on packages and reports: export, bench, compare, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from bitship.cli.models import Calibration, Json, Model, Outputs, RecipeName, read_model
from bitship.cli.output import console, emit_json, table, working
from bitship.targets import ConverterName

if TYPE_CHECKING:
    from bitship.report import Report

Converter = Annotated[
    ConverterName | None, typer.Option(help="Which of the target's converters; its first when not given.")
]


def byte_count(text: str | None) -> int | None:
    """Return bytes: 65536, 64k (1,024 each), 1M."""
    if text is None:
        return None
    units = {"k": 1 << 10, "m": 1 << 20}
    number, unit = (text[:-1], units[text[-1].lower()]) if text[-1:].lower() in units else (text, 1)
    if not number.isdigit() or int(number) < 1:
        raise typer.BadParameter(f"'{text}' is no number of bytes; 65536, 64k or 1M are")
    return int(number) * unit


def export(
    model: Model,
    target: Annotated[str, typer.Option("-t", "--target", help="A target's name; 'bitship targets' lists them.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The package folder to create.")],
    converter: Converter = None,
    calibration: Calibration = None,
    recipe: RecipeName = "int8",
    output: Outputs = None,
    ram: Annotated[
        str | None, typer.Option(help="RAM for arena, stack and static data: 64k, 1M, bytes. Firmware only.")
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Whether the image arrives by rows, never whole; by default where that costs least under --ram.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a package that is there.")] = False,
    json: Json = False,
) -> None:
    """Lower a model for a target and write a package: artifacts, graph, golden vectors, manifest."""
    from bitship.exporting import export as run
    from bitship.package import MANIFEST

    with working(f"reading {model}", json):
        graph = read_model(model, calibration, output, recipe)
    with working(f"exporting for {target}", json):
        package = run(
            graph, target, out, converter=converter, overwrite=overwrite, ram=byte_count(ram), streamed=stream
        )
    if json:
        print((package.path / MANIFEST).read_text(), end="")
        return
    m = package.manifest
    c = console()
    c.print(f"{out}: {m.converter.value} package for {m.target}, graph {m.graph_digest[:12]}, {m.macs:,} MACs")
    code = f", code {m.footprint.code_bytes:,} B" if m.footprint.code_bytes is not None else ""
    stack = f", stack {m.footprint.stack_bytes:,} B" if m.footprint.stack_bytes is not None else ""
    c.print(f"  weights {m.footprint.weights_bytes:,} B{code}; arena {m.footprint.arena_bytes:,} B{stack}")
    if m.schedule:
        c.print(f"  {m.schedule}")
    for a in m.artifacts:
        c.print(f"  {a.role:12} {a.numerics.value:9} {a.path}")


def fit(
    model: Model,
    target: Annotated[str, typer.Option("-t", "--target", help="A microcontroller; 'bitship targets' lists them.")],
    ram: Annotated[str | None, typer.Option(help="RAM to count with: 64k, 1M, bytes; the target's by default.")] = None,
    simulate: Annotated[bool, typer.Option(help="Count instructions where the target is emulated.")] = True,
    most: Annotated[int, typer.Option(min=1, help="How many schedules to build.")] = 8,
    calibration: Calibration = None,
    recipe: RecipeName = "int8",
    output: Outputs = None,
    json: Json = False,
) -> None:
    """Show what a model needs under every schedule worth having; exit status 1 when none fits."""
    from bitship.fitting import fit as run
    from bitship.fitting import roomier

    with working(f"reading {model}", json):
        graph = read_model(model, calibration, output, recipe)
    with working(f"fitting {model} to {target}", json):
        found = run(graph, target, byte_count(ram), simulate, most)
    if json:
        emit_json([{**msgspec.structs.asdict(f), "ram": f.ram} for f in found])
    else:
        rows = [
            (f.schedule, f.arena, f.stack, f.ram, f.flash, f.macs, f.instructions, "yes" if f.fits else "no")
            for f in found
        ]
        columns = ["schedule", "arena B", "stack B", "RAM B", "flash B", "MACs", "instructions", "fits"]
        table(f"{graph.name} on {target}: planned RAM and flash, simulated instructions", columns, rows, left=1)
    if not any(f.fits for f in found):
        least = min(found, key=lambda f: f.ram)
        others = ", ".join(roomier(found)) or "no target there is"
        console(stderr=True).print(
            f"no schedule fits: the smallest needs {least.ram:,} B of RAM and {least.flash:,} B of flash; "
            f"enough of both have: {others}; else use a smaller input or model"
        )
        raise typer.Exit(1)


def bench(
    package: Annotated[list[Path], typer.Argument(help="Package folders.")],
    runs: Annotated[int, typer.Option(min=1, help="Recorded executions.")] = 20,
    warmup: Annotated[int, typer.Option(min=0, help="Executions before them.")] = 3,
    artifact: Annotated[str | None, typer.Option(help="Which artifact, by role; the exact one when not given.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads a tvm package runs on, on this machine.")] = 1,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the report as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML page.")] = None,
    json: Json = False,
) -> None:
    """Prove a package's bits on its device, then measure it; wrong bits are an error and nothing is timed."""
    from bitship import report as reports
    from bitship.benchmarking import bench as run

    found = []
    for path in package:
        with working(f"benchmarking {path}", json):
            found.append(run(path, runs=runs, warmup=warmup, role=artifact, threads=threads))
    if out is not None:
        reports.save(found, out)
    if html is not None:
        _write_html(found, html)
    _show(found, json)


def report(
    file: Annotated[list[Path], typer.Argument(help="Report files written by 'bitship bench -o'.")],
    html: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page.")] = None,
    json: Json = False,
) -> None:
    """Show reports as a table, or turn them into one HTML page."""
    from bitship import report as reports

    found = [r for path in file for r in reports.load(path)]
    if html is not None:
        _write_html(found, html)
    _show(found, json)


def compare(
    a: Annotated[Path, typer.Argument(help="A report.")],
    b: Annotated[Path, typer.Argument(help="Another; ratios are b / a.")],
    json: Json = False,
) -> None:
    """Compare two reports figure by figure; a ratio is marked when the medians' intervals do not overlap."""
    from bitship import report as reports

    rows = reports.compare(reports.load(a), reports.load(b))
    if json:
        emit_json(rows)
        return
    table(
        f"{b} against {a}",
        ["figure", "kind", "unit", "a", "b", "b / a", "clear"],
        [(r.what, r.kind.value, r.unit, r.a, r.b, f"{r.ratio:.3f}", r.clear) for r in rows],
        left=3,
    )


def _write_html(found: list["Report"], path: Path) -> None:
    from bitship.report_html import write_html

    write_html(found, path)
    console(stderr=True).print(f"wrote {path}")


def _show(found: list["Report"], json: bool) -> None:
    from bitship.report import number, summarize

    if json:
        emit_json(found)
        return
    rows = []
    for r in found:
        bits = (
            "exact" if r.bits.exact else f"{r.bits.differing} of {r.bits.elements} differ, max {r.bits.max_difference}"
        )
        title: tuple[str, ...] = (r.package, r.target, f"{r.converter}/{r.artifact}", bits)
        for s in map(summarize, r.samples):
            rows.append((*title, s.name, s.kind.value, number(s.median), s.unit, number(s.p90), f"{s.cv * 100:.1f} %"))
            title = ("", "", "", "")
        if not r.samples:
            rows.append((*title, "bits only", "", "-", "", "-", "-"))
    columns = ["package", "target", "artifact", "bits", "figure", "kind", "median", "unit", "p90", "CV"]
    table("", columns, rows, left=6)
    for r in found:
        flash = r.footprint.weights_bytes + (r.footprint.code_bytes or 0)
        console().print(
            f"  {r.package}: {r.bits.vectors} vectors, {r.bits.elements:,} elements compared; "
            f"flash {flash:,} B, arena {r.footprint.arena_bytes:,} B"
        )
