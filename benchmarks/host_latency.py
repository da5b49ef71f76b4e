"""MobileNetV2 1.0 at 224 on this machine, one thread: bitship against other runtimes, interleaved in one process.

python -m benchmarks.host_latency [--data FOLDER] [--rounds 60] [--only NAME] [--json FILE]

Every runtime runs once per round, in turn, so that a busy moment of the machine hits all of them; a run that was
preempted is repeated. The figures are medians and quantiles over the rounds, the ratio is the median of the per-round
ratios to bitship's first row. bitship and LiteRT
run the .tflite file below FOLDER (random weights without it, and no LiteRT); the others run the same architecture
with random weights, quantized by their own tools. A runtime that is not installed says so in its row.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from benchmarks import rivals
from benchmarks.mobilenet import integer_graph
from bitship import kernels
from bitship.converters.tvm import TvmConverter, open_session
from bitship.converters.tvm.isa import host_levels
from bitship.errors import BitshipError, MissingDependencyError
from bitship.graph import Graph, host, spec
from bitship.graph.base import Array
from bitship.targets import ConverterName, Target, TargetKind

MODEL = Path("coral/tf2_mobilenet_v2_1.0_224_ptq.tflite")
REFERENCE_ROUNDS = 3
C_LEVELS = ("plain", "avx2", "avx512vnni")


class Row(msgspec.Struct, frozen=True):
    """One runtime: milliseconds over the rounds, and how many times bitship's latency that is; or why not."""

    name: str
    arithmetic: str
    runs: int = 0
    p10_ms: float = 0.0
    median_ms: float = 0.0
    p90_ms: float = 0.0
    ratio: float = 0.0
    why_not: str = ""


Opener = Callable[[], rivals.Run]


def load_graph(path: Path | None) -> Graph:
    """Return the imported model, or the same architecture with random weights."""
    if path is None:
        return integer_graph()
    from bitship.importers.tflite import load

    return load(path)


def sample(graph: Graph) -> tuple[Array, ...]:
    """Return one random input."""
    rng = np.random.default_rng(0)
    return tuple(
        rng.integers(p.type.dtype.qmin, p.type.dtype.qmax, p.type.shape, np.int64, endpoint=True).astype(
            p.type.dtype.numpy
        )
        for p in graph.inputs
    )


def bitship_tvm(graph: Graph, level: str, x: tuple[Array, ...], wanted: tuple[Array, ...], folder: Path) -> rivals.Run:
    """Convert for one instruction set level and refuse to time other bits than the specification's."""
    target = Target("bench", "this machine", TargetKind.HOST, level, (ConverterName.TVM,), (level,))
    out = folder / level
    TvmConverter().convert(graph, target, out)
    session = open_session(out, graph)
    if not all(np.array_equal(a, b) for a, b in zip(session.run(*x), wanted, strict=True)):
        raise BitshipError(f"{level}: the bits differ from the specification's")
    return lambda: session.run(*x)


def host_kernels(graph: Graph, level: int, x: tuple[Array, ...], wanted: tuple[Array, ...]) -> rivals.Run:
    """The C kernels of this host at one level of instructions; ``graph.run`` uses the highest."""
    program = host.prepare(graph, level)
    if not all(np.array_equal(a, b) for a, b in zip(host.execute(program, *x), wanted, strict=True)):
        raise BitshipError(f"C kernels, level {level}: the bits differ from the specification's")
    return lambda: host.execute(program, *x)


def c_level() -> int:
    """Return the highest level of the C kernels here; 0 also without the library, which its row then says."""
    try:
        return int(kernels.load().lib.bitship_host_level())
    except MissingDependencyError:
        return 0


def openers(data: Path | None, folder: Path) -> dict[str, tuple[str, Opener]]:
    """Return every runtime by name: its arithmetic and what opens it."""
    path = data / MODEL if data is not None else None
    graph = load_graph(path)
    x = sample(graph)
    wanted = spec.run(graph, *x)

    def litert(resolver: str) -> Opener:
        def open_it() -> rivals.Run:
            if path is None:
                raise MissingDependencyError("no data folder; give --data or set BITSHIP_DATA")
            return rivals.litert(path, resolver)

        return open_it

    def onnx(activations: str, layout: str) -> Opener:
        return lambda: rivals.onnx_int8(folder, activations, layout)

    def ours(level: str) -> Opener:
        return lambda: bitship_tvm(graph, level, x, wanted, folder)

    levels = [i.name for i in host_levels() if i.k_step]
    table: dict[str, tuple[str, Opener]] = {f"bitship TVM, {n}": ("int8 exact", ours(n)) for n in levels}
    for level in reversed(range(c_level() + 1)):
        table[f"bitship C kernels, {C_LEVELS[level]}"] = ("int8 exact", partial(host_kernels, graph, level, x, wanted))
    table["onnxruntime u8s8 QDQ"] = ("int8", onnx("QUInt8", "QDQ"))
    table["onnxruntime u8s8 QOperator"] = ("int8", onnx("QUInt8", "QOperator"))
    table["onnxruntime s8s8 QDQ"] = ("int8", onnx("QInt8", "QDQ"))
    table["onnxruntime float32"] = ("float32", lambda: rivals.onnx_float(folder))
    table["ExecuTorch XNNPACK"] = ("int8", rivals.executorch_xnnpack)
    table["LiteRT XNNPACK"] = ("int8", litert("AUTO"))
    table["LiteRT built-in"] = ("int8", litert("BUILTIN_WITHOUT_DEFAULT_DELEGATES"))
    table["LiteRT reference"] = ("int8", litert("BUILTIN_REF"))
    table["torch eager"] = ("float32", rivals.torch_eager)
    return table


def measure(runs: Mapping[str, rivals.Run], rounds: int, warmup: int = 3) -> dict[str, list[float]]:
    """Return milliseconds per round; the reference kernels take part in the first few rounds only."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(-warmup, rounds):
        for name, run in runs.items():
            if "reference" in name and not 0 <= i < REFERENCE_ROUNDS:
                continue
            milliseconds = undisturbed(run)
            if i >= 0:
                times[name].append(milliseconds)
    return times


def undisturbed(run: rivals.Run) -> float:
    """Return the milliseconds of one run that the kernel did not preempt; of the last of ten tries if it always did."""
    elapsed = 0
    for _ in range(10):
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        start = time.perf_counter_ns()
        run()
        elapsed = time.perf_counter_ns() - start
        if resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == switches:
            break
    return elapsed / 1e6


def rows(data: Path | None, rounds: int, only: list[str]) -> list[Row]:
    """Open every runtime, measure those that open, and return all rows."""
    opened: dict[str, rivals.Run] = {}
    found: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        table = openers(data, Path(folder))
        for name, (arithmetic, opener) in table.items():
            if only and not any(part in name for part in only):
                continue
            print(f"opening {name}", file=sys.stderr, flush=True)
            try:
                opened[name] = opener()
            except (ImportError, MissingDependencyError) as e:
                found[name] = Row(name, arithmetic, why_not=f"not run: {str(e).splitlines()[0]}")
        times = measure(opened, rounds)
    base = next(iter(times.values()))
    for name, values in times.items():
        ratios = [t / b for t, b in zip(values, base, strict=False)]
        p10, median, p90 = (float(np.quantile(values, q)) for q in (0.1, 0.5, 0.9))
        found[name] = Row(name, table[name][0], len(values), p10, median, p90, float(np.median(ratios)))
    return [found[name] for name in table if name in found]


def show(found: list[Row]) -> None:
    """Print the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="MobileNetV2 1.0 224, one thread, interleaved; milliseconds")
    for column in ("runtime", "arithmetic", "p10", "median", "p90", "ratio", "runs"):
        table.add_column(column, justify="left" if column in ("runtime", "arithmetic") else "right")
    for r in found:
        figures = (f"{r.p10_ms:.2f}", f"{r.median_ms:.2f}", f"{r.p90_ms:.2f}", f"{r.ratio:.2f}", str(r.runs))
        table.add_row(r.name, r.arithmetic, *(figures if r.runs else (r.why_not,)))
    Console().print(table)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="MobileNetV2 on this machine against other runtimes, one thread.")
    parser.add_argument("--data", type=Path, help="the folder of real models; BITSHIP_DATA when not given")
    parser.add_argument("--rounds", type=int, default=60, help="runs of every runtime")
    parser.add_argument("--only", action="append", default=[], help="part of a runtime's name; may be repeated")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()
    given = args.data or (Path(os.environ["BITSHIP_DATA"]) if os.environ.get("BITSHIP_DATA") else None)
    if given is not None and not (given / MODEL).is_file():
        raise BitshipError(f"data: no {MODEL} below {given}")
    rivals.pin_to_one_core()
    found = rows(given, args.rounds, args.only)
    show(found)
    if args.json:
        args.json.write_bytes(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.host_latency: {e}")
