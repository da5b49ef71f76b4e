"""The main job end to end, without downloads: a digit classifier from training to proven bits on emulated boards."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitship.cli.output import console, table
from bitship.errors import DeviceError, MissingDependencyError, PackageError
from bitship.extras import require
from bitship.graph import Graph, save
from bitship.graph.base import Array
from bitship.targets import ConverterName

TRAIN, EPOCHS, BATCH, SEED = 1297, 40, 32, 0
EMULATED_VECTORS = 24


@dataclass(frozen=True)
class Digits:
    """Scikit-learn's 8x8 digits: the first 1,297 train, the last 500 (other writers) test; values in [0, 1]."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


def load_digits() -> Digits:
    """Return the digits as [N, 1, 8, 8] float32; MissingDependencyError without scikit-learn."""
    datasets = require("sklearn.datasets", "demo", "demo")
    data = datasets.load_digits()
    x = (data.images / 16).astype(np.float32)[:, None]
    return Digits(x[:TRAIN], data.target[:TRAIN], x[TRAIN:], data.target[TRAIN:])


def network() -> Any:
    """Return the network: one convolution, two depthwise-separable blocks, global mean, one linear layer."""
    from torch import nn

    def conv(i: int, o: int, k: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), nn.ReLU6()]

    return nn.Sequential(
        *conv(1, 16, 3),
        *conv(16, 16, 3, groups=16),
        *conv(16, 32, 1),
        *conv(32, 32, 3, stride=2, groups=32),
        *conv(32, 64, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def train(digits: Digits) -> Any:
    """Train the network on the CPU with fixed seeds and random shifts by one pixel; some seconds on one core."""
    torch = require("torch", "torch", "demo")
    from rich.progress import track

    torch.set_num_threads(1)  # the network is so small that more threads only wait for each other
    torch.manual_seed(SEED)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-3)
    steps = EPOCHS * -(-TRAIN // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    x, y = torch.from_numpy(digits.train_x), torch.from_numpy(digits.train_y)
    order = np.random.default_rng(SEED)
    for _ in track(range(EPOCHS), "training", console=console(stderr=True), transient=True):
        for batch in np.array_split(order.permutation(TRAIN), -(-TRAIN // BATCH)):
            dy, dx = order.integers(0, 3, 2)
            moved = torch.nn.functional.pad(x[batch], (1, 1, 1, 1))[:, :, dy : dy + 8, dx : dx + 8]
            loss = torch.nn.functional.cross_entropy(model(moved), y[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def float_accuracy(model: Any, digits: Digits) -> float:
    """Return the float network's accuracy on the test digits."""
    import torch

    with torch.no_grad():
        scores = model(torch.from_numpy(digits.test_x)).numpy()
    return float((scores.argmax(1) == digits.test_y).mean())


def codes(graph: Graph, images: Array) -> list[tuple[Array, ...]]:
    """Quantize [N, 1, 8, 8] float images to the graph's input: one tuple per image."""
    port = graph.inputs[0]
    if port.quant is None:
        raise PackageError("demo: the graph's input has no scale")
    q = np.rint(images / port.quant.scale) + port.quant.zero_point
    q = np.clip(q, port.type.dtype.qmin, port.type.dtype.qmax).astype(port.type.dtype.numpy)
    return [(image.reshape(port.type.shape),) for image in q]


JOBS: tuple[tuple[str, str, ConverterName, bool], ...] = (
    ("host-tvm", "host", ConverterName.TVM, True),
    ("host-executorch", "host", ConverterName.EXECUTORCH, True),
    ("host-firmware", "host", ConverterName.FIRMWARE, True),
    ("cortex-m4", "mps2-an386", ConverterName.FIRMWARE, False),
    ("cortex-m55", "mps3-an547", ConverterName.FIRMWARE, False),
)


def run(out: Path, overwrite: bool) -> None:
    """Train, quantize, export for five destinations, prove the bits on each, measure, and write report.html."""
    _prepare(out, overwrite)
    digits = load_digits()
    model = train(digits)
    graph, rows = _quantize(model, digits)
    save(graph, out / "digits.bitship")
    integer = np.array([graph.run(*row)[0].argmax() for row in rows])
    accuracy = float((integer == digits.test_y).mean())
    in_float = float_accuracy(model, digits)
    c = console()
    c.print(f"accuracy on {len(rows)} test digits: float {in_float:.4f}, integer {accuracy:.4f}")
    reports, skipped = _export_and_bench(graph, rows, out)
    _show(reports)
    for line in skipped:
        c.print(f"left out: {line}")
    notes = [
        ("network", f"{graph.macs:,} MACs, {graph.constant_bytes:,} B of constants, {len(graph.nodes)} nodes"),
        ("float accuracy", f"{in_float:.4f} on {len(rows)} test digits (measured)"),
        ("integer accuracy", f"{accuracy:.4f} on the same digits, the same on every device (measured)"),
        *(("left out", line) for line in skipped),
    ]
    from bitship import report
    from bitship.report.html import write_html

    report.save(reports, out / "report.json")
    write_html(reports, out / "report.html", "One model, the same bits everywhere", notes)
    c.print(f"wrote {out / 'report.html'}")


def _prepare(out: Path, overwrite: bool) -> None:
    if out.exists():
        if not (overwrite or (out / "digits.bitship").is_file()):
            raise PackageError(f"{out}: already exists and is not a demo; give another folder with -o")
        shutil.rmtree(out)
    out.mkdir(parents=True)


def _quantize(model: Any, digits: Digits) -> tuple[Graph, list[tuple[Array, ...]]]:
    import torch

    from bitship.quantization import quantize

    batches = [(torch.from_numpy(digits.train_x[i : i + 1]),) for i in range(256)]
    graph = quantize(model, batches)
    return graph, codes(graph, digits.test_x)


def _export_and_bench(graph: Graph, rows: list[tuple[Array, ...]], out: Path) -> tuple[list[Any], list[str]]:
    from rich.progress import track

    from bitship.benchmarking import bench
    from bitship.exporting import export

    reports, skipped = [], []
    for name, target, converter, on_host in track(
        JOBS, "exporting, proving, measuring", console=console(stderr=True), transient=True
    ):
        inputs = rows if on_host else rows[:EMULATED_VECTORS]
        try:
            package = export(graph, target, out / name, converter, inputs)
            reports.append(bench(package, runs=200 if on_host else 3))
        except (MissingDependencyError, DeviceError) as e:
            if isinstance(e, DeviceError):
                raise
            skipped.append(f"{name}: {e}")
    return reports, skipped


def _show(reports: list[Any]) -> None:
    from bitship.report import number, summarize

    rows = []
    for r in reports:
        s = summarize(r.samples[0])
        bits = "exact" if r.bits.exact else f"{r.bits.differing} differ"
        flash = r.footprint.weights_bytes + (r.footprint.code_bytes or 0)
        rows.append(
            (
                r.package,
                r.target,
                r.converter,
                bits,
                r.bits.vectors,
                f"{number(s.median)} {s.unit}",
                f"{s.name} ({s.kind.value})",
                flash,
                r.footprint.arena_bytes,
            )
        )
    table("", ["package", "target", "converter", "bits", "images", "median", "of", "flash B", "arena B"], rows, left=4)
