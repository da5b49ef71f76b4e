"""Every model on every emulated core: bits proven, instructions, arena, stack, flash, beside other engines.

python -m benchmarks.mcu --data FOLDER [--all] [--core mps2-an386] [--model ResNet8] [--json FILE] [--results FILE]

Without --all: every model whole on Cortex-M4 and Cortex-M55. With it: patched schedules, a transformer, the other cores
and the cost of a call too. Every image is started twice and must give the same counts.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.mcu_rivals import PATCHED, RIVALS
from benchmarks.models import MODELS, data_folder, inputs
from bitship import converters, targets
from bitship.converters.firmware import FirmwareConverter
from bitship.device.qemu import QemuDevice
from bitship.errors import BitshipError, DoesNotFitError
from bitship.graph import Graph, GraphBuilder, spec
from bitship.graph.base import Array
from bitship.graph.dtypes import DType
from bitship.graph.ops import Conv2D, Rescale
from bitship.graph.ops import Table as TableOp
from bitship.graph.store import write_atomic
from bitship.loading import load
from bitship.models.untrained import mobilenet_v2
from bitship.package import golden_inputs
from bitship.passes.plan import plan
from bitship.targets import ConverterName

M4, M55 = "mps2-an386", "mps3-an547"
OTHER_CORES = ("microbit", "mps2-an385", "mps2-an500", "qemu-rv32imc")
FEW = ("Autoencoder (AD)", "DS-CNN (KWS)", "ResNet8 (IC)", "MobileNetV1-0.25 (VWW)")


@dataclass(frozen=True)
class Job:
    """One image to build and run. ram, streamed: as of ``bitship export``; by: whose kernels."""

    model: str
    target: str
    graph: Graph
    rows: list[tuple[Array, ...]]
    ram: int | None = None
    streamed: bool | None = None
    by: ConverterName = ConverterName.FIRMWARE


class Row(msgspec.Struct, frozen=True):
    """What one image needs: instructions of one inference (simulated), bytes of RAM and flash."""

    model: str
    target: str
    macs: int
    schedule: str = ""
    instructions: int | None = None
    arena: int | None = None
    used: int | None = None
    live: int | None = None
    stack: int | None = None
    stack_bound: int | None = None
    flash: int | None = None
    why_not: str = ""


_EXPECTED: dict[tuple[str, bytes], list[tuple[Array, ...]]] = {}


def expected(job: Job) -> list[tuple[Array, ...]]:
    """Return the specification's outputs, computed once for all cores."""
    key = job.graph.digest, b"".join(a.tobytes() for row in job.rows for a in row)
    if key not in _EXPECTED:
        _EXPECTED[key] = [spec.run(job.graph, *row) for row in job.rows]
    return _EXPECTED[key]


def measure(job: Job) -> Row:
    """Build, prove every row, count; twice. A board it does not fit is a row that says so."""
    target = targets.load(job.target)
    with tempfile.TemporaryDirectory(prefix="bitship-") as name:
        folder = Path(name)
        try:
            if job.by is ConverterName.FIRMWARE:
                made = FirmwareConverter(ram=job.ram, streamed=job.streamed).convert(job.graph, target, folder)
            else:
                made = converters.get(job.by).convert(job.graph, target, folder)
        except DoesNotFitError as e:
            return Row(job.model, job.target, job.graph.macs, why_not=str(e))
        device = QemuDevice(target, 900)
        results = [device.run(folder / "model.elf", job.graph, job.rows) for _ in range(2)]
    wanted = expected(job)
    for result in results:
        for found, right in zip(result.outputs, wanted, strict=True):
            if not all(np.array_equal(a, b) for a, b in zip(found, right, strict=True)):
                raise BitshipError(f"{job.model} on {job.target}: the bits differ from the specification's")
    first, second = results
    if first.instructions != second.instructions:
        raise BitshipError(
            f"{job.model} on {job.target}: {first.instructions} the first time, then {second.instructions}"
        )
    return Row(
        job.model,
        job.target,
        job.graph.macs,
        made.schedule,
        None if first.instructions is None else first.instructions[-1],
        first.arena_bytes,
        first.arena_used,
        plan(job.graph, exact=False).bound,
        first.stack_bytes,
        made.footprint.stack_bytes,
        made.footprint.weights_bytes + (made.footprint.code_bytes or 0),
    )


def whole(folder: Path, only: list[str], cores: list[str]) -> Iterator[Job]:
    """Yield every model with nothing patched."""
    for m in MODELS:
        if not only or any(part in m.name for part in only):
            graph = load(folder / m.path, m.outputs)
            for core in cores:
                yield Job(m.name, core, graph, rows(graph, folder))


def rows(graph: Graph, folder: Path) -> list[tuple[Array, ...]]:
    """Return three inputs, of which large networks get the photograph alone."""
    found = inputs(graph, 4, folder)
    return found[2:3] if graph.macs > 100_000_000 else found[:3]


def patched(folder: Path, cores: list[str]) -> Iterator[Job]:
    """Yield the models that run under a RAM budget."""
    known = {m.name: m for m in MODELS}
    budgets = (
        ("MobileNetV2-0.35 144", 64 << 10),
        ("MobileNetV2-0.35 144", 42 << 10),
        ("MCUNet VWW", 48 << 10),
        ("ResNet8 (IC)", 22 << 10),
        ("MobileNetV1-0.25 (VWW)", 20 << 10),
        ("MobileNetV2-1.0 224", 512 << 10),
        ("MobileNetV2-1.0 224", 192 << 10),
    )
    for name, ram in budgets:
        graph = load(folder / known[name].path)
        for core in cores:
            yield Job(name, core, graph, rows(graph, folder), ram)
    own = mobilenet_v2(144, 0.35, 448)
    for core in cores:
        yield Job("MobileNetV2-0.35 144, random", core, own, golden_inputs(own, 3), 64 << 10)


def others(folder: Path) -> Iterator[Job]:
    """Yield small models on the other cores, and the shipped transformer on those with the room."""
    known = {m.name: m for m in MODELS}
    for name in FEW:
        graph = load(folder / known[name].path)
        for core in (c for c in OTHER_CORES if c in targets.names()):
            yield Job(name, core, graph, rows(graph, folder))
    transformer = load("vit_micro")
    for core in (M4, M55):
        yield Job("vit_micro", core, transformer, golden_inputs(transformer, 3))


def _lookup(b: GraphBuilder, x: str) -> str:
    return b.node("y", TableOp(), x, b.constant("t", np.arange(-128, 128)[::-1].astype(np.int8)))


def _pixel(b: GraphBuilder, x: str) -> str:
    w, bias = b.constant("w", np.eye(4, dtype=np.int8).reshape(4, 1, 1, 4)), b.constant("b", np.zeros(4, np.int32))
    return b.node("y", Conv2D(requant=Rescale((1 << 30,), (1,))), x, w, bias)


def compiled(folder: Path, cores: list[str]) -> Iterator[Job]:
    """Yield small models whose kernels TVM compiles, in the same arena and image."""
    known = {m.name: m for m in MODELS}
    for name in FEW:
        graph = load(folder / known[name].path)
        for core in (c for c in cores if ConverterName.TVM in targets.load(c).converters):
            yield Job(f"{name}, TVM", core, graph, rows(graph, folder), by=ConverterName.TVM)


def call_cost(target: str, add: Callable[[GraphBuilder, str], str]) -> float:
    """Return the instructions that one more call costs, its op's own work on four elements included."""

    def repeated(count: int) -> Graph:
        b = GraphBuilder(f"calls{count}")
        x = b.input("x", (1, 1, 1, 4), DType.INT8)
        for _ in range(count):
            x = add(b, x)
        return b.finish([(x, None)])

    counts = []
    for n in (10, 50):
        graph = repeated(n)
        found = measure(Job(f"{n} calls", target, graph, golden_inputs(graph, 3))).instructions
        counts.append(found or 0)
    return (counts[1] - counts[0]) / 40


@dataclass(frozen=True)
class Table:
    """A table to print or to write: the first ``left`` columns are text."""

    title: str
    columns: list[str]
    rows: list[tuple[object, ...]]
    left: int

    def show(self) -> None:
        """Print it."""
        from bitship.cli.output import table

        table(self.title, self.columns, self.rows, self.left)

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("|" + "|".join("---" if i < self.left else "--:" for i in range(len(self.columns))) + "|")
        for row in self.rows:
            cells = [f"{v:,}" if isinstance(v, int) else "-" if v is None else str(v) for v in row]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def kept(r: Row) -> bool | None:
    """Whether the limits on instructions and arena are kept; None where there are none."""
    rival = RIVALS.get(r.model)
    if rival is None or r.instructions is None or r.arena is None or r.target not in (M4, M55):
        return None
    return r.instructions <= rival.wanted[(M4, M55).index(r.target)] and r.arena <= rival.wanted[2]


def whole_table(rows: list[Row]) -> Table:
    """Every model, nothing patched, beside the best figures of other engines."""
    shown: list[tuple[object, ...]] = []
    for r in rows:
        rival, ratio, count = RIVALS.get(r.model), "-", None
        if rival and r.instructions and r.target in (M4, M55):
            count = (rival.m4, rival.m55)[(M4, M55).index(r.target)]
            ratio = f"{r.instructions / count:.2f}"
        per = f"{r.instructions / r.macs:.2f}" if r.instructions else "-"
        arena = rival.arena if rival else None
        limit = {True: "kept", False: "missed", None: "-"}[kept(r)]
        shown.append(
            (r.model, r.target, r.instructions, per, count, ratio, r.arena, r.live, arena, r.stack, r.flash, limit)
        )
    columns = ["model", "target", "instructions", "per MAC", "rival", "ratio", "arena B", "live B", "rival B"]
    columns += ["stack B", "flash B", "limit"]
    return Table("One inference, nothing patched", columns, shown, 2)


def patched_table(rows: list[Row]) -> Table:
    """What runs under a RAM budget."""
    shown: list[tuple[object, ...]] = []
    for r in rows:
        rival = PATCHED.get(r.model)
        ram = None if r.arena is None else r.arena + (r.stack or 0)
        other = f"{rival.sram:,} (+{rival.extra:.1%} MACs)" if rival else "-"
        what = r.schedule or r.why_not.split("; ")[0]
        shown.append((r.model, r.target, what, r.arena, r.used, r.stack, r.stack_bound, ram, r.instructions, other))
    columns = ["model", "target", "schedule", "arena B", "used B", "stack B", "bound B", "RAM B", "instructions"]
    return Table("Under a RAM budget", [*columns, "rival RAM B"], shown, 3)


def others_table(rows: list[Row]) -> Table:
    """Small models on small cores, a transformer, TVM's kernels."""
    columns = ["model", "target", "instructions", "arena B", "stack B", "flash B", "why not"]
    shown: list[tuple[object, ...]] = [
        (r.model, r.target, r.instructions, r.arena, r.stack, r.flash, r.why_not.split(";")[0]) for r in rows
    ]
    return Table("Other cores, a transformer, and kernels by TVM", columns, shown, 2)


def write_results(path: Path, parts: list[str]) -> None:
    """Replace what lies between the two marks of a Markdown file."""
    text = path.read_text()
    begin, end = "<!-- mcu: begin -->\n", "<!-- mcu: end -->\n"
    if begin not in text or end not in text:
        raise BitshipError(f"{path}: lacks the lines '{begin.strip()}' and '{end.strip()}', between which tables go")
    head, tail = text.split(begin)[0], text.split(end)[1]
    write_atomic(path, (head + begin + "\n" + "\n".join(parts) + "\n" + end + tail).encode())


def main() -> int:
    """Print the tables; exit status 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description="Every model on every emulated core.")
    parser.add_argument("--data", type=Path, help="the folder of real models; BITSHIP_DATA when not given")
    parser.add_argument("--all", action="store_true", help="RAM budgets, other cores and the cost of a call too")
    parser.add_argument("--core", action="append", help=f"an emulated target; {M4} and {M55} when not given")
    parser.add_argument("--model", action="append", default=[], help="part of a model's name; may be repeated")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--results", type=Path, help="a Markdown file whose tables to replace: benchmarks/RESULTS.md")
    args = parser.parse_args()
    folder, cores = data_folder(args.data), args.core or [M4, M55]

    def run(jobs: Iterator[Job]) -> list[Row]:
        def one(job: Job) -> Row:
            row = measure(job)
            print(f"{job.model} on {job.target}: {row.why_not or row.instructions}", file=sys.stderr, flush=True)
            return row

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, jobs))

    found = run(whole(folder, args.model, cores))
    tables = [whole_table(found)]
    tables[0].show()
    costs = []
    if args.all:
        tiled = run(patched(folder, cores))
        rest = run(chain(others(folder), compiled(folder, cores)))
        tables += [patched_table(tiled), others_table(rest)]
        for shown in tables[1:]:
            shown.show()
        for core in cores:
            table, conv = call_cost(core, _lookup), call_cost(core, _pixel)
            costs.append(
                f"One more call on {core}: {table:.0f} instructions with a table of 4 elements, {conv:.0f} with a "
                "convolution of one pixel, 4 to 4 channels.\n"
            )
        print("".join(costs))
        found += [*tiled, *rest]
    if args.json:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    if args.results:
        write_results(args.results, [*(t.markdown() for t in tables), *costs])
    return int(any(kept(r) is False for r in found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.mcu: {e}")
