"""Commands that make packages: export, fit."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bitship.cli.models import Calibration, Json, Model, Outputs, RecipeName, read_model
from bitship.cli.output import console, emit_json, table, working
from bitship.targets import Application, ConverterName, TinyModel

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
    app: Annotated[
        Application | None,
        typer.Option(
            help="The program around the model in an image: files (semihosting), serial, energy (MLPerf Tiny's energy "
            "mode); by default files on emulated targets, else serial."
        ),
    ] = None,
    mlperf: Annotated[TinyModel, typer.Option(help="Which model of MLPerf Tiny a serial image is.")] = TinyModel.NONE,
    self_test: Annotated[
        int, typer.Option("--self-test", min=0, help="Golden vectors that go into a serial image's flash.")
    ] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a package that is there.")] = False,
    json: Json = False,
) -> None:
    """Lower a model for a target and write a package: artifacts, graph, golden vectors, manifest."""
    from bitship.converters import placement
    from bitship.exporting import export as run
    from bitship.package import MANIFEST

    with working(f"reading {model}", json):
        graph = read_model(model, calibration, output, recipe)
    with working(f"exporting for {target}", json):
        package = run(
            graph,
            target,
            out,
            converter=converter,
            overwrite=overwrite,
            ram=byte_count(ram),
            streamed=stream,
            application=app,
            tiny=mlperf,
            self_test=self_test,
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
        c.print(f"  {a.role:12} {a.numerics.value:10} {a.path}")
        for line in placement.lines(placement.read(package.path / a.placement)) if a.placement else ():
            c.print(f"    {line}", markup=False)
    for skipped in placement.read_skipped(package.path):
        c.print(f"  without {skipped.delegate}: {skipped.reason}", markup=False)


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
