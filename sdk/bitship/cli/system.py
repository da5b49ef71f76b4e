"""Commands on this machine and what hangs on it: targets, devices, doctor, demo."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitship.cli.models import Json
from bitship.cli.output import console, emit_json, table, working

if TYPE_CHECKING:
    from bitship.targets import Target


def targets(
    name: Annotated[str | None, typer.Argument(help="One target: all that is known of it.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List the targets packages can be made for, or say what is known of one."""
    from bitship import targets as t

    if name is not None:
        one = t.load(name)
        if json:
            emit_json(one)
        else:
            table(one.title, ["", ""], _about(one), left=2)
        return
    found = [t.load(n) for n in t.names()]
    if json:
        emit_json(found)
        return
    rows = [
        (
            x.name,
            x.title,
            x.cpu,
            ", ".join(c.value for c in x.converters) or None,
            "yes" if x.verified else "no",
            f"{x.clock_hz / 1e6:g}" if x.clock_hz else None,
            x.flash.nbytes if x.flash else None,
            x.ram.nbytes if x.ram else None,
        )
        for x in found
    ]
    table("", ["target", "what", "cpu", "converters", "verified", "MHz", "flash B", "RAM B"], rows, left=5)
    console().print("  verified: packages were run on it, or in its emulator, by those who wrote its description")


def _about(target: "Target") -> list[tuple[str, str]]:
    """Return what a user needs to know of a target, in words."""
    uart, marker, emulator = target.uart, target.marker, target.emulator
    rows = [
        ("kind", f"{target.kind.value}, {target.cpu}{', '.join(['', *target.features])}"),
        ("verified", "yes" if target.verified else "no: nobody here has run a package on one"),
        ("converters", ", ".join(c.value for c in target.converters)),
        ("clock", f"{target.clock_hz / 1e6:g} MHz" if target.clock_hz else ""),
        *((n, f"{m.nbytes:,} B at {m.origin:#010x}") for n, m in (("flash", target.flash), ("RAM", target.ram)) if m),
        *((m.name, f"{m.nbytes:,} B at {m.origin:#010x}") for m in target.memories),
        ("serial port", f"{uart.baud} Bd, {uart.energy_baud} Bd in energy mode" if uart else ""),
        ("marker", marker.pin if marker else ""),
        ("timer", f"{target.timer.driver}, {target.timer.hz / 1e6:g} MHz" if target.timer else ""),
        ("flashers", ", ".join(str(f.__struct_config__.tag) for f in target.flashers)),
        ("emulator", " ".join(x for x in (emulator.program, emulator.machine) if x) if emulator else ""),
        ("hosted as", target.hub_device or ""),
        ("USB ids", ", ".join(target.usb)),
        ("to know", target.notes),
    ]
    return [row for row in rows if row[1]]


def devices(
    scan: Annotated[bool, typer.Option("--scan", help="Look for ports, probes, phones and drives.")] = False,
    toml: Annotated[bool, typer.Option("--toml", help="With --scan: print entries for devices.toml.")] = False,
    mdns: Annotated[bool, typer.Option("--mdns", help="With --scan: also ask the local network.")] = False,
    json: Json = False,
) -> None:
    """List the devices that can run packages from here: the units of devices.toml, this machine, the emulators."""
    if scan or toml or mdns:
        _scan(toml, mdns, json)
        return
    from bitship.device import desk
    from bitship.doctor import emulated_targets

    found = [{"device": u.name, "runs": u.target, "reached by": desk.way(u)} for u in desk.read().device]
    found += [{"device": "host", "runs": "host", "reached by": "this machine"}]
    found += [{"device": program, "runs": name, "reached by": "emulator"} for name, program in emulated_targets()]
    if json:
        emit_json(found)
        return
    table("", ["device", "runs packages for", "reached by"], [tuple(d.values()) for d in found], left=3)


def _scan(toml: bool, mdns: bool, json: bool) -> None:
    from bitship.device.scan import entries, scan

    with working("looking for devices", json):
        found = scan(mdns)
    if json:
        emit_json(found)
        return
    if toml:
        print(entries(found) or "# nothing was found that a target is known for; bitship devices --scan says more")
        return
    rows = [(f.source, f.where or "-", f.problem or f.what, ", ".join(f.targets) or None) for f in found]
    table("", ["source", "where", "what", "could be"], rows, left=4)
    if not found:
        console().print("  nothing was found")
    elif any(f.targets for f in found):
        console().print("  bitship devices --scan --toml prints entries for devices.toml")


def doctor(json: Json = False) -> None:
    """Say what is installed, what is missing, what that disables, and what to install."""
    from bitship.device import desk
    from bitship.device.check import lacks
    from bitship.doctor import Check, examine

    found, units = examine(), desk.read()
    missing_there = lacks(units)
    if json:
        emit_json([*found, *(Check(f"{x.unit}: {x.what}", None, f"device {x.unit}", x.todo) for x in missing_there)])
        return
    rows = [(c.name, c.found or "missing", "" if c.found else c.disables, "" if c.found else c.install) for c in found]
    table("", ["what", "found", "without it", "to install"], rows, left=4)
    missing = sum(not c.found for c in found)
    if missing_there:
        lines = [(x.unit, x.what, x.todo) for x in missing_there]
        table("units of devices.toml", ["unit", "lacks", "to do"], lines, left=3)
    elif units.device:
        console().print(f"  {len(units.device)} units of devices.toml: nothing is missing here")
    console().print("  everything is there" if not missing else f"  {missing} of {len(found)} are missing")


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to create.")] = Path("demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo there.")] = False,
) -> None:
    """Run the main job end to end: train a small CNN on digits, quantize, export, prove the bits, measure, report."""
    from bitship.demo import run

    run(out, overwrite)
