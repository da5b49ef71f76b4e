"""One graph on six cores: the same inputs on Cortex-M0, M3, M4, M7, M55 and RV32IMC, and the digests of the outputs.

python -m benchmarks.six_cores --data FOLDER [--model MODEL] [--count N]
"""

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.models import data_folder
from bitship import targets
from bitship.converters.firmware import FirmwareConverter
from bitship.device.qemu import QemuDevice
from bitship.errors import BitshipError
from bitship.graph import Graph, spec
from bitship.graph.base import Array, as_bytes
from bitship.loading import load
from bitship.package import golden_inputs

CORES = ("microbit", "mps2-an385", "mps2-an386", "mps2-an500", "mps3-an547", "qemu-rv32imc")
MODEL = "mlperf_tiny/kws01_dscnn_int8.tflite"


class Row(msgspec.Struct, frozen=True):
    """One core: the outputs' sha256, instructions of one inference (simulated), bytes of RAM and flash."""

    target: str
    cpu: str
    digest: str
    instructions: int | None = None
    arena: int | None = None
    stack: int | None = None
    flash: int | None = None


def digest(outputs: list[tuple[Array, ...]]) -> str:
    """Return the sha256 of all outputs in order."""
    return hashlib.sha256(b"".join(as_bytes(a) for row in outputs for a in row)).hexdigest()


def measure(graph: Graph, name: str, rows: list[tuple[Array, ...]]) -> Row:
    """Build the graph for one board and run it on every row."""
    target = targets.load(name)
    with tempfile.TemporaryDirectory() as folder:
        made = FirmwareConverter().convert(graph, target, Path(folder))
        found = QemuDevice(target).run(Path(folder) / "model.elf", graph, rows)
    flash = made.footprint.weights_bytes + (made.footprint.code_bytes or 0)
    count = found.instructions[-1] if found.instructions else None
    return Row(name, target.cpu, digest(found.outputs), count, made.footprint.arena_bytes, found.stack_bytes, flash)


def main() -> int:
    """Print the table; exit status 1 when two digests differ."""
    from bitship.cli.output import table

    parser = argparse.ArgumentParser(description="One graph, six cores, six equal digests.")
    parser.add_argument("--data", type=Path, help="the folder of real models; BITSHIP_DATA when not given")
    parser.add_argument("--model", help=f"a model file, instead of {MODEL} in that folder")
    parser.add_argument("--count", type=int, default=8, help="inputs: all lowest, all highest, then random ones")
    args = parser.parse_args()
    graph = load(args.model or str(data_folder(args.data) / MODEL))
    rows = golden_inputs(graph, args.count)
    wanted = digest([spec.run(graph, *row) for row in rows])
    found = [Row("specification", "exact integers", wanted), *(measure(graph, name, rows) for name in CORES)]
    table(
        f"{graph.name}, {args.count} inputs; instructions are simulated by QEMU icount",
        ["target", "core", "sha256 of the outputs", "instructions", "per MAC", "arena B", "stack B", "flash B"],
        [
            (
                r.target,
                r.cpu,
                r.digest[:24],
                r.instructions,
                None if r.instructions is None else f"{r.instructions / graph.macs:.2f}",
                r.arena,
                r.stack,
                r.flash,
            )
            for r in found
        ],
        left=3,
    )
    return int(any(r.digest != wanted for r in found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.six_cores: {e}")
