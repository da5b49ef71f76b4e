"""Accuracy of the shipped models on the 5,000 CIFAR-10 test images: float, quantized after training, and trained so."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.qat_cifar10 import accuracy, calibration_of
from benchmarks.train_cifar10 import load_images
from bitship import models
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.quantization import prepare

PTQ_RECIPES = ("int8", "w8a16", "ivit", "w4a8")


class Row(msgspec.Struct, frozen=True):
    """One way to run one model.

    agreement  part of the images that get the float model's class
    lost       points of accuracy under the float model's
    weights    bytes of constants in the graph
    """

    model: str
    recipe: str
    how: str
    accuracy: float
    lost: float
    agreement: float
    weights: int


def _constants(graph: Graph) -> int:
    return graph.constant_bytes


def _graphs(name: str, train: Any) -> Iterator[tuple[str, str, Graph]]:
    """Yield (recipe, how, graph): every recipe after training, then what ships."""
    entry, module = models.shipped(name), models.load_module(name)
    calibration = [calibration_of(name, train)]
    for recipe in PTQ_RECIPES if "vit" in name else PTQ_RECIPES[:2]:
        yield recipe, "PTQ", prepare(module, calibration, recipe, name).graph()
    for shipped in entry.graphs:
        _, _, recipe = shipped.partition("-")
        yield recipe or "int8", "shipped, " + ("QAT" if recipe else "PTQ"), models.load_graph(shipped)


def rows(folder: Path) -> list[Row]:
    """Measure every row."""
    import torch

    torch.set_num_threads(1)
    train, _ = load_images(folder / "cifar10" / "train.npz")
    images, labels = load_images(folder / "cifar10" / "test.npz")
    found = []
    for name, entry in models.MODELS.items():
        module = models.load_module(name)
        with torch.no_grad():
            scores = torch.cat([module(entry.normalise(part.float())) for part in images.split(500)])
        classes: Array = scores.argmax(1).numpy()
        right = float((classes == labels.numpy()).mean())
        size = sum(p.numel() * 4 for p in module.parameters())
        found.append(Row(name, "float32", "-", right, 0.0, 1.0, size))
        for recipe, how, graph in _graphs(name, train):
            mine, chosen = accuracy(graph, images, labels, name)
            agreement = float((chosen == classes).mean())
            found.append(Row(name, recipe, how, mine, 100 * (right - mine), agreement, _constants(graph)))
            print(f"{name} {recipe} {how}: {mine:.4f}", file=sys.stderr, flush=True)
    return found


def show(found: list[Row]) -> None:
    """Print the table."""
    from bitship.cli.output import table

    head = ["model", "recipe", "how", "top-1", "points lost", "agrees with float", "constants B"]
    lines = [
        (r.model, r.recipe, r.how, f"{r.accuracy:.4f}", f"{r.lost:+.2f}", f"{r.agreement:.4f}", f"{r.weights:,}")
        for r in found
    ]
    table("CIFAR-10, 5,000 test images, integer graphs run exactly (measured)", head, lines)
