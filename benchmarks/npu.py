"""Every model through every delegate: what runs there, what falls back, how far the bits are, what it costs.

python -m benchmarks.npu --all [--data FOLDER] [--model NAME ...] [--delegate NAME ...] [--images 500] [--json FILE]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.models import data_folder, jpegs
from benchmarks.transformers import timm_graph
from bitship import models
from bitship.converters import open_session, placement
from bitship.converters.base import Artifact, Numerics
from bitship.converters.measure import Difference, measure, random_inputs
from bitship.errors import BitshipError
from bitship.exporting import export
from bitship.figures import FigureKind
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.loading import load
from bitship.package import Package
from bitship.targets import ConverterName

Rows = list[tuple[Array, ...]]
RUNS, WARMUP = 20, 3
PHOTOGRAPHS, CIFAR10 = "imagenet_samples/samples.npz", "cifar10/test.npz"


@dataclass(frozen=True)
class Subject:
    """A model: how its graph is had, and what its inputs are."""

    name: str
    graph: Callable[[Path], Graph]
    rows: Callable[[Graph, Path, int], Rows]
    source: str


@dataclass(frozen=True)
class Column:
    """A delegate: the target and converter that a package is made with, and its artifact's role, the best first."""

    name: str
    target: str
    converter: ConverterName
    roles: tuple[str, ...]
    runs: bool = False


class Cell(msgspec.Struct, frozen=True):
    """One model on one delegate; ``why_not`` where there is no artifact."""

    model: str
    delegate: str
    numerics: Numerics | None = None
    share: float = 0.0
    parts: int = 0
    fallbacks: int = 0
    reasons: tuple[str, ...] = ()
    difference: Difference | None = None
    untested: str = ""
    figures: tuple[placement.CostFigure, ...] = ()
    why_not: str = ""


def sized(graph: Graph, path: Path, count: int) -> Iterator[Array]:
    """Yield pictures [H, W, 3] uint8 of the size the graph's input has, bilinear."""
    from PIL import Image

    _, height, width, _ = graph.inputs[0].type.shape
    for picture, _ in islice(jpegs(path), count):
        yield np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def pixels(where: str) -> Callable[[Graph, Path, int], Rows]:
    """Return a maker of inputs whose codes are the pixels: as they are, or 128 less."""

    def made(graph: Graph, folder: Path, count: int) -> Rows:
        dtype = graph.inputs[0].type.dtype
        return [
            ((picture.astype(np.int16) + dtype.qmin).astype(dtype.numpy)[None],)
            for picture in sized(graph, folder / where, count)
        ]

    return made


def normalised(graph: Graph, folder: Path, count: int) -> Rows:
    """Return ImageNet photographs less ImageNet's mean, over its deviation, quantized as the graph's input is."""
    port = graph.inputs[0]
    assert port.quant is not None
    mean, deviation = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    rows: Rows = []
    for picture in sized(graph, folder / PHOTOGRAPHS, count):
        values = np.round((picture - mean) / deviation / port.quant.scale) + port.quant.zero_point
        rows.append((np.clip(values, -128, 127).astype(np.int8)[None],))
    return rows


def codes(graph: Graph, _: Path, count: int) -> Rows:
    """Return random codes, for inputs that are no images."""
    return random_inputs(graph, count)


def _file(path: str) -> Callable[[Path], Graph]:
    return lambda folder: load(folder / path)


SUBJECTS = (
    Subject(
        "MobileNetV2-1.0 224", _file("coral/tf2_mobilenet_v2_1.0_224_ptq.tflite"), pixels(PHOTOGRAPHS), "photographs"
    ),
    Subject("DeiT-T", lambda _: timm_graph("deit_tiny_patch16_224", "int8"), normalised, "photos"),
    Subject("vit_micro", lambda _: models.load_graph("vit_micro"), pixels(CIFAR10), "CIFAR-10"),
    Subject("ResNet8 (IC)", _file("mlperf_tiny/ic01_resnet8_int8.tflite"), pixels(CIFAR10), "CIFAR-10"),
    Subject(
        "MobileNetV1-0.25 (VWW)", _file("mlperf_tiny/vww01_mobilenetv1_int8.tflite"), pixels(PHOTOGRAPHS), "photographs"
    ),
    Subject("DS-CNN (KWS)", _file("mlperf_tiny/kws01_dscnn_int8.tflite"), codes, "random"),
    Subject("Autoencoder (AD)", _file("mlperf_tiny/ad01_autoencoder_int8.tflite"), codes, "random"),
)

COLUMNS = (
    Column("xnnpack", "host", ConverterName.EXECUTORCH, ("xnnpack",), runs=True),
    Column("vulkan", "android-arm64", ConverterName.EXECUTORCH, ("vulkan",)),
    Column("coreml", "apple-neural-engine", ConverterName.EXECUTORCH, ("coreml",)),
    Column("openvino-cpu", "openvino-cpu", ConverterName.OPENVINO, ("openvino",), runs=True),
    Column("onnxruntime, qdq", "host", ConverterName.ONNX, ("onnx",), runs=True),
    Column("litert", "coral-edgetpu", ConverterName.TFLITE, ("vendor", "tflite"), runs=True),
    Column("qai-hub", "qualcomm-galaxy-s24", ConverterName.QAI_HUB, ("onnx",)),
    Column("ethos-u55-128", "ethos-u55-128", ConverterName.ETHOS_U, ("npu",)),
    Column("ethos-u85-256", "ethos-u85-256", ConverterName.ETHOS_U, ("npu",)),
)


def cell(subject: Subject, column: Column, graph: Graph, rows: Rows, exact: Rows, out: Path) -> Cell:
    """Export a model for a delegate, run it where it runs, and say what came of it."""
    package = export(graph, column.target, out, column.converter, rows[:1])
    made = {a.role: a for a in package.manifest.artifacts}
    artifact = next((made[r] for r in column.roles if r in made), None)
    if artifact is None:
        return Cell(subject.name, column.name, why_not=_reason(package, column))
    found = placement.read(package.path / artifact.placement)
    figures, difference = found.figures, found.difference
    if column.runs:
        difference, latency = _run(package, artifact, graph, rows, exact, subject.source)
        figures = (*figures, latency)
    return Cell(
        subject.name,
        column.name,
        artifact.numerics,
        found.share,
        found.parts,
        len(found.fallbacks),
        tuple(placement.fallen(found)),
        difference,
        found.untested,
        figures,
    )


def _run(
    package: Package, artifact: Artifact, graph: Graph, rows: Rows, exact: Rows, source: str
) -> tuple[Difference, placement.CostFigure]:
    session = open_session(package.manifest.converter, package.path / artifact.path, graph)
    try:
        difference = measure(graph, session, rows, source, exact)
        for _ in range(WARMUP):
            session.run(*rows[0])
        times = []
        for _ in range(RUNS):
            start = time.perf_counter_ns()
            session.run(*rows[0])
            times.append((time.perf_counter_ns() - start) / 1e6)
    finally:
        session.close()
    return difference, placement.CostFigure("latency", float(np.median(times)), "ms", FigureKind.MEASURED)


def _reason(package: Package, column: Column) -> str:
    reasons = [s.reason for s in placement.read_skipped(package.path) if s.delegate in column.roles]
    return reasons[0] if reasons else f"no artifact of role {' or '.join(column.roles)}"


def cells(data: Path, count: int, wanted: set[str], delegates: set[str]) -> Iterator[Cell]:
    """Yield the table cell by cell."""
    for subject in SUBJECTS:
        if wanted and subject.name not in wanted:
            continue
        graph = subject.graph(data)
        rows = subject.rows(graph, data, count)
        columns = [c for c in COLUMNS if not delegates or c.name in delegates]
        exact = [graph.run(*inputs) for inputs in rows] if any(c.runs for c in columns) else []
        for column in columns:
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    made = cell(subject, column, graph, rows, exact, Path(folder) / "pkg")
                except BitshipError as e:
                    made = Cell(subject.name, column.name, why_not=str(e))
            print(f"{subject.name:24} {column.name:12} {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            yield made


def line(c: Cell) -> list[str]:
    """Return the table's row of a cell."""
    if c.why_not or c.numerics is None:
        return [c.model, c.delegate, *["-"] * 7, c.why_not]
    bits = ["-", "-", "-"]
    if c.difference is not None:
        d = c.difference
        sqnr = "exact" if d.sqnr_db is None else f"{d.sqnr_db:.1f}"
        bits = [f"{d.max_lsb}", sqnr, f"{100 * d.top1_agreement:.1f} ({d.inputs} {d.source})"]
    cost = "; ".join(f"{f.name} {f.value:,.4g} {f.unit} {f.kind.value}" for f in c.figures) or c.untested
    counts = [f"{100 * c.share:.2f}", f"{c.fallbacks}", f"{c.parts}"]
    return [c.model, c.delegate, c.numerics.value, *counts, *bits, cost]


HEAD = ["model", "delegate", "numerics", "MACs %", "fallbacks", "parts", "max LSB", "SQNR dB", "top-1 % agrees", "cost"]


def main() -> int:
    """Print the table, and the fallbacks under it."""
    from bitship.cli.output import table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every model and delegate (also without other choices)")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", action="append", default=[], choices=[s.name for s in SUBJECTS])
    parser.add_argument("--delegate", action="append", default=[], choices=[c.name for c in COLUMNS])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = (set(), set()) if arguments.all else (set(arguments.model), set(arguments.delegate))
    try:
        found = list(cells(data_folder(arguments.data), arguments.images, *chosen))
    except BitshipError as e:
        print(f"npu: {e}", file=sys.stderr)
        return 2
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    table("models on delegates", HEAD, [line(c) for c in found], left=2)
    for c in found:
        for text in c.reasons:
            print(f"{c.model}, {c.delegate}: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
