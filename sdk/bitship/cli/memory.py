"""The command that shows a model's memory plan."""

from pathlib import Path
from typing import Annotated

import typer

from bitship.cli.models import Calibration, Json, Model, Outputs, RecipeName, read_model
from bitship.cli.output import console, emit_json, short, table, working


def plan(
    model: Model,
    target: Annotated[str, typer.Option("-t", "--target", help="A target's name; 'bitship targets' lists them.")],
    calibration: Calibration = None,
    recipe: RecipeName = "int8",
    output: Outputs = None,
    svg: Annotated[Path | None, typer.Option(help="Write a picture: lifetimes against addresses.")] = None,
    json: Json = False,
) -> None:
    """Show where every tensor of a model lies in a firmware target's arena, and when. Nothing is compiled."""
    from bitship.converters.firmware import FirmwareConverter
    from bitship.converters.firmware.convert import draw_plan, plan_rows
    from bitship.graph.store import write_atomic
    from bitship.passes.picture import summary
    from bitship.targets import load

    with working(f"reading {model}", json):
        graph = read_model(model, calibration, output, recipe)
    with working(f"planning for {target}", json):
        program = FirmwareConverter().lower(graph, load(target))
    found, rows = program.plan, plan_rows(program)
    if svg is not None:
        write_atomic(svg, draw_plan(program).encode())
    if json:
        emit_json({"arena_bytes": found.total, "live_bytes": found.bound, "optimal": found.optimal, "buffers": rows})
        return
    ops = ["fill", *(node.op.name for node, _ in program.calls), "read"]
    table(
        f"{graph.name} on {target}",
        ["buffer", "kind", "from", "to", "shares bytes with", "memory", "offset", "bytes"],
        [
            (
                short(r.name),
                r.kind,
                f"{r.first} {ops[r.first]}",
                f"{r.last} {ops[r.last]}",
                ", ".join(short(n, 24) for n in r.shares),
                r.memory or "ram",
                r.offset,
                r.size,
            )
            for r in rows
        ],
        left=6,
    )
    console().print(f"  {summary(found)}")
    if svg is not None:
        console().print(f"  wrote  {svg}")
