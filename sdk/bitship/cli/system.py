"""Commands on this machine and what hangs on it: targets, devices, doctor, demo."""

from pathlib import Path
from typing import Annotated

import typer

from bitship.cli.models import Json
from bitship.cli.output import console, emit_json, table


def targets(json: Json = False) -> None:
    """List the targets packages can be made for."""
    from bitship import targets as t

    found = [t.load(name) for name in t.names()]
    if json:
        emit_json(found)
        return
    rows = [
        (
            x.name,
            x.title,
            x.cpu,
            ", ".join(c.value for c in x.converters),
            x.flash.nbytes if x.flash else None,
            x.ram.nbytes if x.ram else None,
        )
        for x in found
    ]
    table("", ["target", "what", "cpu", "converters", "flash B", "RAM B"], rows, left=4)


def devices(json: Json = False) -> None:
    """List the devices that can run packages from here: this machine and the emulators that are installed."""
    from bitship.doctor import emulated_targets

    found = [{"device": "host", "runs": "host"}] + [
        {"device": program, "runs": name} for name, program in emulated_targets()
    ]
    if json:
        emit_json(found)
        return
    table("", ["device", "runs packages for"], [(d["device"], d["runs"]) for d in found], left=2)


def doctor(json: Json = False) -> None:
    """Say what is installed, what is missing, what that disables, and what to install."""
    from bitship.doctor import examine

    found = examine()
    if json:
        emit_json(found)
        return
    rows = [(c.name, c.found or "missing", "" if c.found else c.disables, "" if c.found else c.install) for c in found]
    table("", ["what", "found", "without it", "to install"], rows, left=4)
    missing = sum(not c.found for c in found)
    console().print("  everything is there" if not missing else f"  {missing} of {len(found)} are missing")


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to create.")] = Path("demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo there.")] = False,
) -> None:
    """Run the main job end to end: train a small CNN on digits, quantize, export, prove the bits, measure, report."""
    from bitship.demo import run

    run(out, overwrite)
