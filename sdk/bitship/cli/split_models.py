"""bitship split: split models themselves - where to cut one, its head on a board, the demo."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitship.cli.models import Json, Model, read_model
from bitship.cli.output import console, emit_json, short, table
from bitship.errors import BitshipError

if TYPE_CHECKING:
    from bitship.graph.base import Array
    from bitship.split.package import Rung

PackageFolder = Annotated[Path, typer.Argument(help="A split package's folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at OUT.")]


def search(
    model: Model,
    link: Annotated[str, typer.Option(help="RATE/RTT: bits a second over milliseconds, as 37.5k/100.")],
    report: Annotated[
        Path | None, typer.Option(help="A report of the model on the device, with figures per op (bench --report).")
    ] = None,
    hz: Annotated[float, typer.Option(min=0, help="The device's clock, where the report counts instructions.")] = 0.0,
    device_macs: Annotated[float, typer.Option(min=0, help="Without a report: MACs a second of the device.")] = 0.0,
    server_macs: Annotated[float, typer.Option(min=0, help="MACs a second of the server; 0: this machine's.")] = 0.0,
    svg: Annotated[Path | None, typer.Option(help="Draw every cut into this file.")] = None,
    json: Json = False,
) -> None:
    """Say where to cut a model between a device and a server: every cut, its bytes, and what each side takes."""
    from bitship import report as reports
    from bitship.graph.store import write_atomic
    from bitship.split import search as searching

    graph, way = read_model(model), searching.parse_link(link)
    if report is not None:
        found = [r for r in reports.load(report) if r.graph_digest == graph.digest and r.ops]
        if not found:
            raise BitshipError(f"{report}: no report of {graph.name} with figures per op")
        device = searching.from_report(graph, found[0], hz)
    elif device_macs:
        device = searching.from_rate(graph, device_macs)
    else:
        raise BitshipError("search: what does the device take? give --report, or --device-macs for an estimate")
    server = searching.from_rate(graph, server_macs) if server_macs else searching.from_host(graph)
    cuts = searching.cuts(graph, device, server, way)
    best = searching.best(cuts)
    if svg is not None:
        write_atomic(svg, searching.draw(cuts).encode())
    if json:
        emit_json({"best": best.nodes, "device": device.kind.value, "server": server.kind.value, "cuts": cuts})
        return
    rows = [
        (
            "best" if c is best else "",
            short(c.after, 32) or "(the image is sent)",
            c.payload,
            f"{100 * c.macs / max(graph.macs, 1):.1f}",
            *(f"{1e3 * t:.2f}" for t in (c.device, c.link, c.server, c.total)),
        )
        for c in cuts
    ]
    title = f"{graph.name}: device {device.kind.value}, server {server.kind.value}, link {link}"
    table(title, ["", "cut after", "bytes", "MACs %", "device ms", "link ms", "server ms", "total ms"], rows, left=2)
    if svg is not None:
        console().print(f"  wrote  {svg}")


def cut(
    model: Model,
    after: Annotated[str, typer.Option(help="The last node of the head, as 'bitship split search' names it.")],
    head: Annotated[Path, typer.Option(help="Where the head goes, .bitship.")],
    tail: Annotated[Path, typer.Option(help="Where the tail goes, .bitship.")],
) -> None:
    """Cut a model behind a node: head and tail are graphs, and one after the other gives the model's bits."""
    from bitship.graph import store
    from bitship.split.search import halves
    from bitship.split.search import node_count as count

    graph = read_model(model)
    first, second = halves(graph, count(graph, after))
    store.save(first, head)
    store.save(second, tail)
    crossing = sum(p.type.nbytes for p in first.outputs)
    console().print(f"{head}: {first.macs:,} MACs; {tail}: {second.macs:,} MACs; {crossing:,} B cross")


def export(
    package: PackageFolder,
    target: Annotated[str, typer.Option("--target", "-t", help="A microcontroller; 'bitship targets' lists them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to create.")],
    overwrite: Overwrite = False,
) -> None:
    """Build the image of a split package's head, exit and coder; it speaks frames on the board's serial port."""
    from bitship.split import device
    from bitship.split import package as packages

    made = device.export_head(packages.read(package), target, out, overwrite)
    f = made.manifest.footprint
    console().print(
        f"{out}: head {made.manifest.graph_digest[:12]} for {target}; weights {f.weights_bytes:,} B, "
        f"code {f.code_bytes or 0:,} B, arena {f.arena_bytes:,} B"
    )


def show(package: PackageFolder, json: Json = False) -> None:
    """Print what a split package holds: rungs, bytes, accuracy, the exit."""
    from bitship.split import package as packages

    made = packages.read(package)
    m = made.manifest
    if json:
        emit_json(m)
        return
    rows = [(i, r.shift, r.table_hash, *_measured(r)) for i, r in enumerate(m.rungs)]
    macs = f"head {made.head.macs:,} MACs, tail {made.tail.macs:,}"
    title = f"{m.name} {m.model_hash}: {macs}, features {list(m.features)}"
    table(title, ["rung", "shift", "tables", "mean B", "p99 B", "right %"], rows)


def _measured(rung: "Rung") -> tuple[float | None, float | None, str | None]:
    if not rung.measured_on:
        return None, None, None
    return rung.mean_bytes, rung.p99_bytes, f"{100 * rung.accuracy:.1f}"


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to create.")] = Path("split-demo"),
    overwrite: Overwrite = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few epochs: faster, and some points less accurate.")
    ] = False,
) -> None:
    """Train a split model, run its head on emulated devices and its tail behind shaped links, and write a report."""
    from bitship.split import demo as story

    story.run(out, overwrite, quick)


def deploy(
    folder: Annotated[Path, typer.Argument(help="The folder of a model of several devices.")],
    inputs: Annotated[Path, typer.Option(help="A .npy file: int8 codes [N, H, W, C] of the sub-models' input.")],
    labels: Annotated[Path | None, typer.Option(help="A .npy file: the class of each.")] = None,
    target: Annotated[str, typer.Option("--target", "-t", help="An emulated microcontroller.")] = "mps2-an500",
    lose: Annotated[list[int] | None, typer.Option(help="A device that fails on the way; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Run a model's sub-models on emulated devices, one each, fuse what comes back, and live with a lost one."""
    import tempfile

    import numpy as np

    from bitship.split import deploy as deploying

    package = deploying.read(folder)
    every = _numbers(inputs)
    wanted = package.devices[0].inputs[0].type.shape[1:]
    if every.dtype != np.int8 or every.shape[1:] != wanted:
        raise BitshipError(f"{inputs}: {every.dtype} {list(every.shape)}: int8 [N, *{list(wanted)}] is needed")
    right = _numbers(labels) if labels is not None else None
    if right is not None and right.shape != every.shape[:1]:
        raise BitshipError(f"{labels}: {list(right.shape)}: one class for each of {len(every)} inputs is needed")
    with tempfile.TemporaryDirectory(prefix="bitship-deploy-") as scratch:
        found = deploying.run(package, target, [x[None] for x in every], Path(scratch), tuple(lose or ()))
    if json:
        emit_json(found)
        return
    rows = []
    for number, (own, graph) in enumerate(zip(package.manifest.own, package.devices, strict=True)):
        state = found.lost.get(number, "answered")
        rows.append((number, ", ".join(map(str, own)), f"{graph.constant_bytes:,}", f"{graph.macs:,}", state))
    title = f"{package.manifest.name} on {len(rows)} x {target}, {found.feature_bytes} B of features an image"
    table(title, ["device", "classes", "constants B", "MACs", "state"], rows, left=2)
    answers = [a.label for a in found.answers]
    degraded = f"degraded: without device {', '.join(map(str, found.lost))}; " if found.lost else ""
    score = "" if right is None else f"{int((np.array(answers) == right).sum())} of {len(answers)} right; "
    console().print(f"  {degraded}{score}answers {answers[:20]}{'...' if len(answers) > 20 else ''}")


def _numbers(path: Path) -> "Array":
    import numpy as np

    try:
        found: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise BitshipError(f"{path}: no .npy file of numbers: {e}") from None
    return found


COMMANDS: tuple[Callable[..., None], ...] = (search, cut, export, show, demo, deploy)
