"""CIFAR-10: a bottleneck in the shipped MobileNet, in the place of its stem and first three blocks.

python -m benchmarks.split_cifar --data FOLDER [--seeds 3] [--out FOLDER]

The full model is the shipped mobilenet_micro; the test images are the 5,000 of the folder. An epoch is 10,000 training
images, shifted and mirrored. --out keeps every seed's package and figures; a seed whose figures are there is not
trained again.
"""

import argparse
import io
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.models import data_folder
from benchmarks.train_cifar10 import augment, load_images
from bitship import models
from bitship.errors import BitshipError
from bitship.graph.base import Array
from bitship.graph.store import write_atomic
from bitship.split.evaluate import Result, evaluate, measured

EPOCH = 10_000
HELD_OUT = 2_000  # of the training images: the exit's confidence
MODEL, AT = "mobilenet_micro", "blocks.2"
TRUNK, CHANNELS = 16, 12
LIMIT = 127.5 / 16  # of the features: sixteen codes are one step of the rung
TEACHERS = ("vit_micro", MODEL)  # both shipped, both with the same normalisation
DISTINCT, ASKED = 12, 250  # epochs before their images come again; images a teacher is given at once
CODED = 6  # epochs whose codes the tail is fitted to
CLAIM_BYTES, CLAIM_POINTS, CLAIM_SMALLER = 0.771, 0.6, 83


BOTTLENECK_HEAD = [
    *("seed", "rung", "full %", "split %", "points", "mean B", "p99 B", "fewer %", "head smaller x", "claim"),
    "with exit % at B",
]


class CifarResult(msgspec.Struct, frozen=True):
    """One seed of the bottleneck."""

    seed: int
    full_accuracy: float
    full_parameters: int
    head_parameters: int
    exit_parameters: int
    jpeg_bytes: float
    split: Result


@dataclass(frozen=True)
class Cifar:
    """Images as the networks take them, in epochs, and what is kept from training."""

    train: Any
    labels: Any
    held: Any
    held_labels: Any
    test: Array
    test_labels: Array
    jpeg_bytes: float

    def epoch(self, number: int) -> tuple[Any, Any]:
        """Return an epoch's images, normalised, and labels."""
        import torch

        r = np.random.default_rng(number)
        chosen = torch.from_numpy(r.choice(len(self.train), min(EPOCH, len(self.train)), replace=False))
        return models.shipped(MODEL).normalise(augment(self.train[chosen], r)), self.labels[chosen]

    def taught(self, seed: int, kept: Path) -> Callable[[int], tuple[Any, ...]]:
        """Return what gives a seed's epochs, in an order of its own, with the mean of the teachers' logits.

        There are ``DISTINCT`` epochs, the same for every seed; their answers are kept in a folder.
        """
        import torch

        teachers = [models.load_module(name) for name in TEACHERS]

        def given(number: int) -> tuple[Any, ...]:
            one = number % DISTINCT
            images, labels = self.epoch(one)
            path = kept / f"answers{one}.npy"
            if not path.exists():
                with torch.no_grad():
                    answers = sum(torch.cat([t(part) for part in images.split(ASKED)]) for t in teachers)
                made = io.BytesIO()
                np.save(made, (answers / len(teachers)).numpy(), allow_pickle=False)
                write_atomic(path, made.getvalue())
            order = torch.from_numpy(np.random.default_rng((seed, number)).permutation(len(images)))
            answers = torch.from_numpy(np.load(path, allow_pickle=False))
            return images[order], labels[order], answers[order]

        return given


def load(folder: Path) -> Cifar:
    """Read the data; the mean JPEG is that of the test file."""
    normalise = models.shipped(MODEL).normalise
    images, labels = load_images(folder / "cifar10" / "train.npz")
    test, test_labels = load_images(folder / "cifar10" / "test.npz")
    with np.load(folder / "cifar10" / "test.npz", allow_pickle=False) as data:
        mean = float(np.diff(data["offsets"]).mean())
    return Cifar(
        images[HELD_OUT:],
        labels[HELD_OUT:],
        normalise(images[:HELD_OUT].float()),
        labels[:HELD_OUT],
        normalise(test.float()).numpy(),
        test_labels.numpy(),
        mean,
    )


def parameters(module: Any) -> int:
    """Return how many parameters a module has."""
    return sum(p.numel() for p in module.parameters())


def float_accuracy(module: Any, data: Cifar) -> float:
    """Return the share of right answers of the float model."""
    import torch

    with torch.no_grad():
        found = [module(torch.from_numpy(data.test[i : i + 250])).argmax(1) for i in range(0, len(data.test), 250)]
    return float((torch.cat(found).numpy() == data.test_labels).mean())


def report(seed: int) -> Any:
    """Return what prints an epoch."""

    def say(stage: str, epoch: int, of: int, loss: float) -> None:
        print(f"seed {seed}: {stage} {epoch}/{of}, loss {loss:.4f}", file=sys.stderr, flush=True)

    return say


def bottleneck(seed: int, data: Cifar, out: Path, epochs: int) -> CifarResult:
    """Train a head in the place of the first stages, and measure it."""
    import torch
    from torch import nn

    from bitship.split import build
    from bitship.split.bottleneck import Head, Residual, block, exit_branch
    from bitship.split.train import Data, Recipe, Split

    torch.manual_seed(seed)
    teacher = models.load_module(MODEL)
    encode = nn.Sequential(nn.Conv2d(TRUNK, CHANNELS, 3, 2, 1), nn.Hardtanh(-LIMIT, LIMIT))
    head = Head(block(3, TRUNK, 2), encode, exit_branch(TRUNK, 10, (16, 24)), apart=True)
    decoder = nn.Sequential(block(CHANNELS, 64), Residual(64), Residual(64), nn.Conv2d(64, 40, 1))
    recipe = Recipe(
        distil=max(epochs // 10, 1),
        joint=epochs,
        fit=max(epochs // 5, 1),
        batch=128,
        rate=1e-3,
        beta=1.4e-4,
        ramp=(epochs // 6, epochs // 3),
        steps=(1.0,),
    )
    split = Split(teacher, AT, head, decoder, torch.from_numpy(data.test[:1]), recipe)
    feed = Data(data.taught(seed, out))
    split.distil(feed, report(seed))
    split.joint(feed, report(seed))
    held = build.Labelled(data.held.numpy(), data.held_labels.numpy())
    package = build.save(build.build(split, feed, held, CODED, report(seed)), out / f"cifar{seed}", "cifar10")
    result = evaluate(package, build.inputs_of(package.head, data.test), data.test_labels)
    build.save_measured(package, measured(package, result), result.exit_accuracy)
    full = parameters(teacher)
    return CifarResult(
        seed=seed,
        full_accuracy=float_accuracy(teacher, data),
        full_parameters=full,
        head_parameters=parameters(head) - parameters(head.leave),
        exit_parameters=parameters(head.leave),
        jpeg_bytes=data.jpeg_bytes,
        split=result,
    )


def show(results: list[CifarResult]) -> None:
    """Print the table, and whether the claim is reached."""
    from bitship.cli.output import table

    rows = []
    for s in results:
        for r in s.split.rungs:
            fewer, points = 1 - r.mean_bytes / s.jpeg_bytes, 100 * (s.full_accuracy - r.accuracy)
            smaller = s.full_parameters / s.head_parameters
            reached = fewer >= CLAIM_BYTES and points <= CLAIM_POINTS and smaller >= CLAIM_SMALLER
            rows.append(
                (
                    s.seed,
                    r.rung,
                    f"{100 * s.full_accuracy:.2f}",
                    f"{100 * r.accuracy:.2f}",
                    f"{-points:+.2f}",
                    f"{r.mean_bytes:.1f}",
                    f"{r.p99_bytes:.0f}",
                    f"{100 * fewer:.1f}",
                    f"{smaller:.0f}",
                    "yes" if reached else "no",
                    f"{100 * r.mixed_accuracy:.2f} at {r.mixed_bytes:.1f}",
                )
            )
    jpeg = statistics.fmean(s.jpeg_bytes for s in results)
    table(
        f"CIFAR-10, {results[0].split.images} images, frames against the data's mean JPEG of {jpeg:.1f} B (measured)",
        BOTTLENECK_HEAD,
        rows,
        left=2,
    )


def main(words: Sequence[str] | None = None) -> int:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100, help="of 10,000 images, of the longest stage")
    parser.add_argument("--out", type=Path, default=Path("build/split"))
    arguments = parser.parse_args(words)
    out, epochs = arguments.out, arguments.epochs
    out.mkdir(parents=True, exist_ok=True)
    data = load(data_folder(arguments.data))
    show(kept(out, arguments.seeds, "cifar", CifarResult, lambda seed: bottleneck(seed, data, out, epochs)))
    return 0


def kept(out: Path, seeds: int, name: str, kind: Any, make: Any) -> list[Any]:
    """Return every seed's figures: read where they are there, made and written where not."""
    found = []
    for seed in range(seeds):
        path = out / f"{name}{seed}.json"
        if not path.exists():
            write_atomic(path, msgspec.json.encode(make(seed)))
        found.append(msgspec.json.decode(path.read_bytes(), type=kind))
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.split_cifar: {e}")
