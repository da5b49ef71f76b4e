"""Every real model through every back end: are the bits the specification's?

python -m benchmarks.exactness --data FOLDER [--inputs 100] [--device-inputs 5] [--only NAME] [--json FILE]
python -m benchmarks.exactness --suite transformers
python -m benchmarks.exactness [--suite transformers] --with tosa,tflite,onnx
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.litert import LiteRtReference
from benchmarks.models import MODELS, RealModel, data_folder, inputs
from benchmarks.transformers import NOT_APPLICABLE, Subject, subjects
from bitship.benchmarking import default_device
from bitship.errors import BitshipError, DoesNotFitError, MissingDependencyError
from bitship.exporting import export
from bitship.graph import Graph, spec
from bitship.graph.base import Array
from bitship.loading import load
from bitship.targets import ConverterName

Rows = list[tuple[Array, ...]]
Run = Callable[[Rows], Rows]


class Cell(msgspec.Struct, frozen=True):
    """One model on one back end: how many inputs, how many elements were compared and differed; or why not run."""

    model: str
    backend: str
    inputs: int = 0
    elements: int = 0
    differing: int = 0
    why_not: str = ""

    @property
    def text(self) -> str:
        """The cell of the table."""
        if self.why_not:
            return self.why_not
        return f"exact ({self.inputs})" if not self.differing else f"{self.differing} of {self.elements} DIFFER"


@contextmanager
def open_package(graph: Graph, target: str, converter: ConverterName, rows: Rows) -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as folder:
        package = export(graph, target, Path(folder) / "pkg", converter, rows[:1])
        with default_device(package).open(package, None) as session:
            yield lambda r: session.run(r)


@contextmanager
def open_host_c(graph: Graph) -> Iterator[Run]:
    yield lambda rows: [graph.run(*row) for row in rows]


@contextmanager
def open_litert(path: Path, graph: Graph, names: tuple[str, ...]) -> Iterator[Run]:
    judge = LiteRtReference(path, graph, names)
    yield lambda rows: [judge.run(*row) for row in rows]


# name, target, converter, whether it runs on this machine at full input count
BACKENDS: tuple[tuple[str, str, ConverterName, bool], ...] = (
    ("TVM x86", "host", ConverterName.TVM, True),
    ("ExecuTorch", "host", ConverterName.EXECUTORCH, True),
    ("firmware, host", "host", ConverterName.FIRMWARE, True),
    ("TVM aarch64", "linux-aarch64", ConverterName.TVM, False),
    ("Cortex-M4", "mps2-an386", ConverterName.FIRMWARE, False),
    ("Cortex-M7", "mps2-an500", ConverterName.FIRMWARE, False),
    ("Cortex-M55", "mps3-an547", ConverterName.FIRMWARE, False),
)
COLUMNS = ("LiteRT reference", "host C", *(b[0] for b in BACKENDS))
SUITES = {
    "tflite": [c for c in COLUMNS if c != "Cortex-M7"],
    "transformers": [c for c in COLUMNS if c not in ("LiteRT reference", "Cortex-M4")],
}


class Extra(msgspec.Struct, frozen=True):
    """A column that --with turns on: a converter's package on this machine, and inputs a model at most.

    tflite, transformers  how many inputs a model of that suite gets; a large transformer gets as many as ExecuTorch
    """

    column: str
    converter: ConverterName
    tflite: int
    transformers: int
    target: str = "host"


EXTRAS: dict[str, Extra] = {
    "tosa": Extra("TOSA reference", ConverterName.TOSA, 5, 5),
    "tflite": Extra("LiteRT, exported", ConverterName.TFLITE, 100, 100),
    "onnx": Extra("ONNX", ConverterName.ONNX, 100, 100),
}


def cells(
    model: RealModel, folder: Path, count: int, few: int, only: set[str], extras: Sequence[Extra] = ()
) -> Iterator[Cell]:
    """Yield one cell per back end for a model."""
    path = folder / model.path
    graph = load(path, model.outputs)
    rows = inputs(graph, count, folder)
    wanted = [spec.run(graph, *row) for row in rows]
    opened: dict[str, tuple[Callable[[], object], int]] = {
        "LiteRT reference": (lambda: open_litert(path, graph, model.outputs), count),
        "host C": (lambda: open_host_c(graph), count),
    }
    for name, target, converter, on_host in (b for b in BACKENDS if b[0] in SUITES["tflite"]):
        opened[name] = (
            lambda t=target, c=converter: open_package(graph, t, c, rows),  # type: ignore[misc]
            count if on_host else min(few, count),
        )
    for extra in extras:
        opened[extra.column] = (
            lambda e=extra: open_package(graph, e.target, e.converter, rows),  # type: ignore[misc]
            min(extra.tflite, count),
        )
    for name, (opener, n) in opened.items():
        if only and name not in only:
            continue
        start = time.monotonic()
        cell = _compare(model.name, name, opener, rows[:n], wanted[:n])
        print(f"{model.name:28} {name:18} {cell.text}  ({time.monotonic() - start:.1f} s)", file=sys.stderr, flush=True)
        yield cell


def subject_cells(subject: Subject, only: set[str], extras: Sequence[Extra] = ()) -> Iterator[Cell]:
    """Yield one cell per back end for a transformer."""
    rows = subject.rows()
    wanted = [spec.run(subject.graph, *row) for row in rows]
    counts = subject.counts | {x.column: min(x.transformers, subject.counts["ExecuTorch"]) for x in extras}
    opened: dict[str, Callable[[], object]] = {"host C": lambda: open_host_c(subject.graph)}
    for name, target, converter, _ in BACKENDS:
        opened[name] = lambda t=target, c=converter: open_package(subject.graph, t, c, rows)  # type: ignore[misc]
    for extra in extras:
        opened[extra.column] = lambda e=extra: open_package(subject.graph, e.target, e.converter, rows)  # type: ignore[misc]
    for name in [*SUITES["transformers"], *(x.column for x in extras)]:
        if only and name not in only:
            continue
        n = counts.get(name, 0)
        start = time.monotonic()
        cell = Cell(subject.name, name, why_not=NOT_APPLICABLE)
        if n:
            cell = _compare(subject.name, name, opened[name], rows[:n], wanted[:n])
        print(
            f"{subject.name:18} {name:16} {cell.text}  ({time.monotonic() - start:.1f} s)", file=sys.stderr, flush=True
        )
        yield cell


def _compare(model: str, backend: str, opener: Callable[[], object], rows: Rows, wanted: Rows) -> Cell:
    try:
        with opener() as run:  # type: ignore[attr-defined]
            found = run(rows)
    except (MissingDependencyError, DoesNotFitError) as e:
        return Cell(model, backend, why_not=f"not run: {e}")
    elements = differing = 0
    for mine, reference in zip(found, wanted, strict=True):
        for a, b in zip(mine, reference, strict=True):
            elements += b.size
            same = a.shape == b.shape and a.dtype == b.dtype
            differing += int(np.count_nonzero(a != b)) if same else b.size
    return Cell(model, backend, len(rows), elements, differing)


def main() -> int:
    """Run the table; exit status 1 when any bit differs."""
    from bitship.cli.output import table

    parser = argparse.ArgumentParser(description="Every real model through every back end: are the bits the same?")
    parser.add_argument("--data", type=Path, help="the folder of real models; BITSHIP_DATA when not given")
    parser.add_argument("--inputs", type=int, default=100, help="inputs a model on this machine")
    parser.add_argument("--device-inputs", type=int, default=5, help="inputs a model on emulated devices")
    every = [*COLUMNS, *(x.column for x in EXTRAS.values())]
    parser.add_argument("--only", action="append", default=[], choices=every, help="one back end; may be repeated")
    parser.add_argument("--with", dest="extras", default="", help=f"further columns: {','.join(EXTRAS)}")
    parser.add_argument("--model", action="append", default=[], help="part of a model's name; may be repeated")
    parser.add_argument("--json", type=Path, help="write the cells here")
    parser.add_argument("--suite", choices=list(SUITES), default="tflite")
    args = parser.parse_args()

    asked = [n for n in args.extras.split(",") if n]
    if unknown := [n for n in asked if n not in EXTRAS]:
        parser.error(f"--with {unknown[0]}: allowed: {', '.join(EXTRAS)}")
    extras = [EXTRAS[n] for n in asked]

    def wanted(name: str) -> bool:
        return not args.model or any(part in name for part in args.model)

    if args.suite == "transformers":
        found = [c for s in subjects(wanted) for c in subject_cells(s, set(args.only), extras)]
    else:
        folder = data_folder(args.data)
        models = [m for m in MODELS if wanted(m.name)]
        only = set(args.only)
        found = [c for m in models for c in cells(m, folder, args.inputs, args.device_inputs, only, extras)]
    shown = [*SUITES[args.suite], *(x.column for x in extras)]
    columns = [c for c in shown if not args.only or c in args.only]
    names = list(dict.fromkeys(c.model for c in found))
    rows = [[n, *(next(c.text for c in found if (c.model, c.backend) == (n, b)) for b in columns)] for n in names]
    table("bits equal to the specification (inputs compared)", ["model", *columns], rows, left=9)
    if args.json:
        args.json.write_bytes(msgspec.json.encode(found))
    return int(any(c.differing or c.why_not not in ("", NOT_APPLICABLE) for c in found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.exactness: {e}")
