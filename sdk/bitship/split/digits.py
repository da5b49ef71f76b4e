"""DigitScenes-64's networks and training, from nothing to a split package; some minutes on one core.

This module imports torch at once, so it is imported inside functions only.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bitship.graph.base import Array
from bitship.split import build, scenes
from bitship.split.bottleneck import Head, block, exit_branch
from bitship.split.package import SplitPackage
from bitship.split.train import Data, Recipe, Report, Split, classifier

AT = "2"  # the full model's third block: what comes in front of it is replaced
CHANNELS = 8
PASSES, TEST_PASSES = 12, 2
HELD_OUT = 130  # digits that nothing is trained on: the exit's confidence
EPOCH = 7780  # scenes
EPOCHS = 30  # of the full model's training
FIT_EPOCHS = 2  # epochs whose codes are made once; stage 3 goes over them again and again


def full() -> Any:
    """Return the full model with fresh weights, 68,346 parameters: six convolutions, global mean, one linear layer."""
    return nn.Sequential(
        block(3, 16, 2),
        block(16, 24, 2),
        block(24, 32, 2),
        block(32, 40),
        block(40, 48, 2),
        block(48, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(64, scenes.CLASSES),
    )


def head(of: Any, channels: int = CHANNELS) -> Head:
    """Return the head; its trunk begins as the full model's first two blocks."""
    trunk = nn.Sequential(block(3, 16, 2), block(16, 24, 2))
    trunk.load_state_dict({k: v for k, v in of.state_dict().items() if k.split(".")[0] in ("0", "1")})
    return Head(trunk, nn.Conv2d(24, channels, 3, 2, 1), exit_branch(24, scenes.CLASSES))


def decoder(channels: int = CHANNELS) -> Any:
    """Return what brings features back to the 32 channels that module ``AT`` gives."""
    return nn.Sequential(block(channels, 48), block(48, 32))


@dataclass(frozen=True)
class DigitData:
    """Training scenes, those of the held-out digits, and test scenes of other writers and photographs."""

    data: Data
    held_out: build.Labelled
    test: build.Labelled
    test_images: Any


def load(seed: int) -> DigitData:
    """Make the scenes; an epoch is 7,780 of them with channels shuffled and, every other one, colours inverted."""
    made, test = scenes.training(PASSES), scenes.held_out(TEST_PASSES)
    kept = np.arange(len(made.images)) % scenes.TRAIN_DIGITS < scenes.TRAIN_DIGITS - HELD_OUT
    images, labels = torch.from_numpy(scenes.normalise(made.images[kept])), torch.from_numpy(made.labels[kept])

    def epoch(number: int) -> tuple[Any, Any]:
        r = np.random.default_rng((seed, number))
        chosen = torch.from_numpy(r.choice(len(images), min(EPOCH, len(images)), replace=False))
        order = torch.from_numpy(np.argsort(r.random((len(chosen), 3)), axis=1))[:, :, None, None]
        x = images[chosen]
        x = torch.gather(x, 1, order.expand_as(x))
        sign = torch.from_numpy(r.integers(0, 2, len(chosen)) * 2 - 1).float()[:, None, None, None]
        return x * sign, labels[chosen]

    held = build.Labelled(scenes.normalise(made.images[~kept]), made.labels[~kept])
    return DigitData(Data(epoch), held, build.Labelled(scenes.normalise(test.images), test.labels), test.images)


@dataclass(frozen=True)
class Trained:
    """A full model and the split model made of it."""

    full: Any
    package: SplitPackage
    data: DigitData


def train(out: Path, seed: int, epochs: int, recipe: Recipe, report: Report) -> Trained:
    """Train the full model, then the split one, and write its package; deterministic for a seed on one machine."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    data = load(seed)
    model = classifier(full(), data.data, recipe, epochs, report)
    example = torch.from_numpy(data.test.images[:1])
    split = Split(model, AT, head(model), decoder(), example, recipe)
    split.distil(data.data, report)
    split.joint(data.data, report)
    built = build.build(split, data.data, data.held_out, FIT_EPOCHS, report)
    return Trained(model, build.save(built, out, "digit-scenes-64"), data)


def accuracy(model: Any, test: build.Labelled) -> float:
    """Return the share of right answers of a float model."""
    with torch.no_grad():
        found = [model(torch.from_numpy(test.images[i : i + 250])).argmax(1) for i in range(0, len(test.images), 250)]
    return float((torch.cat(found).numpy() == test.labels).mean())


def on_files(
    model: Any, images: Array, labels: Array, choices: Iterable[tuple[scenes.Codec, int]]
) -> list[scenes.FilePoint]:
    """Return what a float model makes of images uint8 [N, 64, 64, 3] after each codec at each quality."""
    found = []
    for codec, quality in choices:
        files = list(scenes.files(images, codec, quality))
        seen = build.Labelled(scenes.normalise(np.stack([image for _, image in files])), labels)
        mean = statistics.fmean(size for size, _ in files)
        found.append(scenes.FilePoint(codec.value, quality, mean, accuracy(model, seen)))
    return found
