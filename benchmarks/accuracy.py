"""Accuracy on real images from our own run: imported models beside LiteRT's reference kernels on the same images, and
the shipped models beside their float modules.

python -m benchmarks.accuracy [--suite tflite|cifar10] --data FOLDER [--json FILE]
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.litert import LiteRtReference
from benchmarks.models import data_folder, jpegs
from bitship.errors import BitshipError
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.loading import load


class Accuracy(msgspec.Struct, frozen=True):
    """Correct answers of both on the same images; ``same_bytes``: images on which every output byte agreed."""

    model: str
    images: int
    bitship: float
    litert: float
    same_bytes: int


def cifar(graph: Graph, folder: Path) -> Iterator[tuple[Array, int]]:
    """Yield (input, label): raw pixel minus 128."""
    for image, label in jpegs(folder / "cifar10" / "test.npz"):
        yield (image.astype(np.int16) - 128).astype(np.int8)[None], label


def imagenet(graph: Graph, folder: Path) -> Iterator[tuple[Array, int]]:
    """Yield (input, label): 256 to the model's size, bilinear; class 0 is background."""
    from PIL import Image

    side = graph.inputs[0].type.shape[1]
    for image, label in jpegs(folder / "imagenet_samples" / "samples.npz"):
        sized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
        yield np.asarray(sized, np.uint8)[None], label + 1


JOBS = (
    ("ResNet8, CIFAR-10 test", "mlperf_tiny/ic01_resnet8_int8.tflite", cifar),
    ("MobileNetV2-1.0 224, ImageNet samples", "coral/tf2_mobilenet_v2_1.0_224_ptq.tflite", imagenet),
    ("MobileNetV1-0.25 128 uint8, ImageNet samples", "coral/mobilenet_v1_0.25_128_quant.tflite", imagenet),
)


def main() -> int:
    """Run both on every image; exit status 1 when any byte differs."""
    from bitship.cli.output import table

    parser = argparse.ArgumentParser(description="Accuracy on real images, beside LiteRT's reference kernels.")
    parser.add_argument("--data", type=Path, help="the folder of real models; BITSHIP_DATA when not given")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--suite", choices=("tflite", "cifar10"), default="tflite")
    args = parser.parse_args()
    folder = data_folder(args.data)
    if args.suite == "cifar10":
        from benchmarks import cifar10

        found = cifar10.rows(folder)
        cifar10.show(found)
        if args.json:
            args.json.write_bytes(msgspec.json.encode(found))
        return 0
    results = []
    for name, path, images in JOBS:
        graph = load(folder / path)
        judge = LiteRtReference(folder / path, graph, ())
        right = theirs = same = n = 0
        for x, label in images(graph, folder):
            (mine,), (reference,) = graph.run(x), judge.run(x)
            right, theirs = right + (int(mine.argmax()) == label), theirs + (int(reference.argmax()) == label)
            same, n = same + bool(np.array_equal(mine, reference)), n + 1
        results.append(Accuracy(name, n, right / n, theirs / n, same))
        print(f"{name}: {n} images", file=sys.stderr, flush=True)
    rows = [(r.model, r.images, f"{r.bitship:.4f}", f"{r.litert:.4f}", r.same_bytes) for r in results]
    table("top-1 accuracy (measured)", ["model, images", "images", "bitship", "LiteRT reference", "same bytes"], rows)
    if args.json:
        args.json.write_bytes(msgspec.json.encode(results))
    return int(any(r.same_bytes != r.images for r in results))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.accuracy: {e}")
