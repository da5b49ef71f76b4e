"""Every real model on the emulated Cortex-M: instructions, arena, stack, flash; refused unless the bits are exact.

python -m benchmarks.cortex_m --data FOLDER [--target mps2-an386 --target mps3-an547] [--json FILE]
"""

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.models import MODELS, data_folder, inputs
from bitship.benchmarking import bench
from bitship.errors import BitshipError
from bitship.exporting import export
from bitship.loading import load
from bitship.package import Package
from bitship.passes.plan import plan
from bitship.report import Report, summarize


class Row(msgspec.Struct, frozen=True):
    """One model on one board: instructions of one inference (simulated), bytes of RAM and flash."""

    model: str
    target: str
    macs: int
    instructions: int | None = None
    arena: int | None = None
    bound: int | None = None
    stack: int | None = None
    flash: int | None = None
    why_not: str = ""


def measure(model: str, path: Path, outputs: tuple[str, ...], target: str, folder: Path) -> Row:
    """Export, prove on two inputs, count one run."""
    graph = load(path, outputs)
    rows = inputs(graph, 3, folder)
    with tempfile.TemporaryDirectory() as name:
        try:
            package: Package = export(graph, target, Path(name) / "pkg", inputs=rows)
            report: Report = bench(package, runs=1, warmup=0)
        except BitshipError as e:
            return Row(model, target, graph.macs, why_not=str(e))
    figures = {s.name: int(summarize(s).median) for s in report.samples}
    f = report.footprint
    return Row(
        model,
        target,
        graph.macs,
        figures.get("instructions"),
        f.arena_bytes,
        plan(graph).bound,
        figures.get("stack"),
        f.weights_bytes + (f.code_bytes or 0),
    )


def main() -> int:
    """Print the table; exit status 1 when a model did not run exactly."""
    from bitship.cli.output import table

    parser = argparse.ArgumentParser(description="Every real model on the emulated Cortex-M.")
    parser.add_argument("--data", type=Path, help="the folder of real models; BITSHIP_DATA when not given")
    parser.add_argument("--target", action="append", help="an emulated target; may be repeated")
    parser.add_argument("--model", action="append", default=[], help="part of a model's name; may be repeated")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()
    folder = data_folder(args.data)
    found = []
    for m in MODELS:
        if args.model and not any(part in m.name for part in args.model):
            continue
        for target in args.target or ["mps2-an386", "mps3-an547"]:
            row = measure(m.name, folder / m.path, m.outputs, target, folder)
            print(f"{m.name} on {target}: {row.why_not or row.instructions}", file=sys.stderr, flush=True)
            found.append(row)
    shown = [
        (
            r.model,
            r.target,
            r.macs,
            r.instructions,
            None if r.instructions is None else f"{r.instructions / r.macs:.2f}",
            r.arena,
            r.bound,
            r.stack,
            r.flash,
        )
        for r in found
    ]
    columns = ["model", "target", "MACs", "instructions", "per MAC", "arena B", "live bound B", "stack B", "flash B"]
    table("one inference, simulated by QEMU icount; bits exact", columns, shown, left=2)
    if args.json:
        args.json.write_bytes(msgspec.json.encode(found))
    return int(any(r.why_not for r in found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.cortex_m: {e}")
