"""INT4 weights: flash, instructions and accuracy of one model at int8 and at four bits.

python -m benchmarks.int4 --data FOLDER [--json FILE] [--images N] [--only vit_micro]

Shipped models are quantized from their float weights by each recipe, after training. MobileNetV2 comes as int8 alone
(`coral/tf2_mobilenet_v2_1.0_224_ptq.tflite`), so its int8 weights are rounded to four bits, with biases
corrected on pictures that are not counted. Instructions are simulated
(QEMU icount) on a Cortex-M4 and a Cortex-M55; every image is checked bit for bit against the graph.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.accuracy import imagenet
from benchmarks.models import data_folder
from bitship import models, targets
from bitship.converters.firmware import FirmwareConverter
from bitship.device.qemu import QemuDevice
from bitship.errors import BitshipError
from bitship.graph import Graph
from bitship.loading import load
from bitship.package import golden_inputs
from bitship.quantization.narrowing import input_means, narrowed

BOARDS = ("mps2-an386", "mps3-an547")
RECIPES = ("int8", "w4a8", "w4a8_g32", "w4a8_g64")
SHIPPED = ("vit_micro", "mobilenet_micro")
HELD = 50  # pictures that no accuracy counts: what the mean inputs come from
MOBILENET = "coral/tf2_mobilenet_v2_1.0_224_ptq.tflite"


class Row(msgspec.Struct, frozen=True):
    """One model by one recipe.

    constants     bytes of the graph's constants as its file stores them
    flash         weights' bytes in the image, by board
    instructions  of one inference, by board
    """

    model: str
    recipe: str
    images: int
    accuracy: float
    constants: int
    flash: dict[str, int]
    instructions: dict[str, int]


def _on_board(graph: Graph, board: str) -> tuple[int, int]:
    """Return the weights' bytes in flash and the instructions of one inference, the bits proven."""
    target = targets.load(board)
    rows = golden_inputs(graph, 1)
    with tempfile.TemporaryDirectory() as folder:
        made = FirmwareConverter().convert(graph, target, Path(folder))
        result = QemuDevice(target, 300).run(Path(folder) / "model.elf", graph, rows)
    for row, found in zip(rows, result.outputs, strict=True):
        for mine, wanted in zip(found, graph.run(*row), strict=True):
            if not np.array_equal(mine, wanted):
                raise BitshipError(f"{graph.name}: {board} gives other bits than the graph")
    assert result.instructions is not None
    return made.footprint.weights_bytes, result.instructions[0]


def _cifar(name: str, folder: Path, images: int) -> Iterator[tuple[str, Graph, Callable[[], tuple[float, int]]]]:
    from benchmarks.qat_cifar10 import accuracy, calibration_of
    from benchmarks.train_cifar10 import load_images
    from bitship.quantization import prepare

    train, _ = load_images(folder / "cifar10" / "train.npz")
    test, labels = load_images(folder / "cifar10" / "test.npz")
    test, labels = test[:images], labels[:images]
    for recipe in RECIPES:
        graph = prepare(models.load_module(name), [calibration_of(name, train)], recipe, name).graph()
        yield recipe, graph, lambda graph=graph: (accuracy(graph, test, labels, name)[0], len(test))  # type: ignore[misc]


def _mobilenet(folder: Path, images: int) -> Iterator[tuple[str, Graph, Callable[[], tuple[float, int]]]]:
    whole = load(folder / MOBILENET)

    pictures = list(imagenet(whole, folder))
    test, calibration = pictures[:-HELD], pictures[-HELD:]
    test = test[:images]

    def accuracy(graph: Graph) -> tuple[float, int]:
        right = sum(int(graph.run(x)[0].argmax()) == label for x, label in test)
        return right / len(test), len(test)

    means = input_means(whole, [(x,) for x, _ in calibration])
    kinds: dict[str, Graph] = {"int8": whole}
    for group in (0, 32, 64):
        name = f"w4a8_g{group}" if group else "w4a8"
        kinds[name] = narrowed(whole, group, means=means)
        kinds[f"{name}, depthwise int8"] = narrowed(whole, group, depthwise=False, means=means)
    for name, graph in kinds.items():
        yield name, graph, lambda graph=graph: accuracy(graph)  # type: ignore[misc]


def measure(model: str, graphs: Any, boards: tuple[str, ...]) -> Iterator[Row]:
    """Yield one row per recipe."""
    for recipe, graph, accuracy in graphs:
        right, images = accuracy()
        found = {board: _on_board(graph, board) for board in boards}
        yield Row(
            model,
            recipe,
            images,
            right,
            graph.constant_bytes,
            {board: flash for board, (flash, _) in found.items()},
            {board: n for board, (_, n) in found.items()},
        )


def show(rows: list[Row]) -> None:
    """Print the table; ratios are to the model's int8."""
    from bitship.cli.output import table

    first = {r.model: r for r in reversed(rows) if r.recipe == "int8"}
    lines = []
    for r in rows:
        base = first.get(r.model, r)
        cells = [r.model, r.recipe, f"{r.accuracy:.4f}", f"{r.constants:,}"]
        for board in BOARDS:
            if board in r.flash:
                cells.append(f"{r.flash[board]:,} ({r.flash[board] / base.flash[board]:.2f})")
                cells.append(f"{r.instructions[board]:,} ({r.instructions[board] / base.instructions[board]:.2f})")
            else:
                cells += ["-", "-"]
        lines.append(tuple(cells))
    head = ["model", "recipe", "top-1", "constants B"]
    head += [f"{board}: {what}" for board in BOARDS for what in ("weights B", "instructions")]
    table("INT4 weights: top-1 measured, instructions simulated, in brackets of int8's", head, lines)


def main() -> int:
    """Measure every model."""
    parser = argparse.ArgumentParser(description="Flash, instructions and accuracy at int8 and at four bits.")
    parser.add_argument("--data", type=Path, help="the folder of real models; BITSHIP_DATA when not given")
    parser.add_argument("--images", type=int, default=5000, help="at most so many test images")
    parser.add_argument("--only", choices=[*SHIPPED, "mobilenet_v2"], help="one model")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    folder, found = data_folder(args.data), []
    for name in (*SHIPPED, "mobilenet_v2"):
        if args.only not in (None, name):
            continue
        shipped = name in SHIPPED
        graphs = _cifar(name, folder, args.images) if shipped else _mobilenet(folder, args.images)
        for row in measure(name, graphs, BOARDS if shipped else ()):
            found.append(row)
            print(f"{row.model} {row.recipe}: {row.accuracy:.4f}", file=sys.stderr, flush=True)
    show(found)
    if args.json:
        args.json.write_bytes(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.int4: {e}")
