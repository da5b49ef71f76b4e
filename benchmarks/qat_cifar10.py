"""Quantization-aware training of a shipped model on CIFAR-10: float weights become a better integer graph.

python -m benchmarks.qat_cifar10 --data FOLDER --model vit_micro --recipe ivit --epochs 2 --out DIR [--minutes 30]

Starts from the shipped float weights, which are also the teacher. DIR/MODEL-RECIPE.qat.safetensors holds weights and
ranges after every epoch, DIR/MODEL-RECIPE.bitship the integer graph; with --epochs 0 that of calibration alone.
"""

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import data_folder
from benchmarks.train_cifar10 import augment, load_images
from bitship import models
from bitship.errors import BitshipError
from bitship.graph import Graph, store
from bitship.quantization.qat import Trainer
from bitship.quantization.recipe import RECIPES
from bitship.quantization.sensitivity import feed

CALIBRATION = 256
BATCH = 128
TEMPERATURE = 2.0


def accuracy(graph: Graph, images: Any, labels: Any, name: str) -> tuple[float, Any]:
    """Return the accuracy of a graph's own run, and the class it gives every image."""
    x = models.shipped(name).normalise(images.float())
    classes = np.array([int(graph.run(*feed(graph, (x[i : i + 1],)))[0].argmax()) for i in range(len(x))])
    return float((classes == labels.numpy()).mean()), classes


def calibration_of(name: str, images: Any, seed: int = 0) -> Any:
    """Return the normalised training images that a model's ranges come from."""
    order = np.random.default_rng(seed).permutation(len(images))[:CALIBRATION]
    return models.shipped(name).normalise(images[order].float())


class Distillation:
    """One training: the integer module, its float teacher, one optimizer, a cosine without warm-up."""

    def __init__(self, name: str, recipe: str, images: Any, epochs: int, rate: float, seed: int) -> None:
        import torch

        self.shipped, self.teacher = models.shipped(name), models.load_module(name)
        self.epochs, self.seed, self.done = epochs, seed, 0
        self.trainer = Trainer(self.teacher, [calibration_of(name, images, seed)], recipe, BATCH, name)
        self.steps = len(images) // BATCH
        self.rate = rate
        self.optimizer = torch.optim.AdamW(self.trainer.parameters(), rate, weight_decay=0.0)

    def step(self, x: Any, labels: Any, number: int) -> float:
        """Train on one batch; returns the loss."""
        import torch

        functional = torch.nn.functional
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * 0.5 * (1 + math.cos(math.pi * number / max(self.epochs * self.steps, 1)))
        with torch.no_grad():
            wanted = functional.log_softmax(self.teacher(x) / TEMPERATURE, -1)
        scores = self.trainer.forward(x)
        soft = functional.kl_div(
            functional.log_softmax(scores / TEMPERATURE, -1), wanted, log_target=True, reduction="batchmean"
        )
        loss = functional.cross_entropy(scores, labels, label_smoothing=0.1) + TEMPERATURE**2 * soft
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trainer.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def epoch(self, images: Any, labels: Any, advance: Any) -> float:
        """Train one epoch and return its mean loss."""
        order = np.random.default_rng((self.seed, self.done))
        if self.done:
            self.trainer.recalibrate()
        losses = []
        picked = order.permutation(len(images))
        for i in range(self.steps):
            batch = picked[i * BATCH : (i + 1) * BATCH]
            x = self.shipped.normalise(augment(images[batch], order))
            losses.append(self.step(x, labels[batch], self.done * self.steps + i))
            advance()
        self.done += 1
        return float(np.mean(losses))


def main() -> int:
    """Train; exit status 3 when the time ran out before the last epoch."""
    import torch
    from rich.progress import Progress

    from bitship.cli.output import console

    parser = argparse.ArgumentParser(description="Quantization-aware training on CIFAR-10.")
    parser.add_argument("--data", type=Path, help="the folder with cifar10/; BITSHIP_DATA when not given")
    parser.add_argument("--model", choices=list(models.MODELS), default="vit_micro")
    parser.add_argument("--recipe", choices=list(RECIPES), default="ivit")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-4, help="first learning rate of AdamW")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop before an epoch that would overrun this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = data_folder(args.data) / "cifar10"
    train_set, test_set = load_images(folder / "train.npz"), load_images(folder / "test.npz")
    args.out.mkdir(parents=True, exist_ok=True)
    work = Distillation(args.model, args.recipe, train_set[0], args.epochs, args.rate, args.seed)
    stem = args.out / f"{args.model}-{args.recipe}"
    store.save(work.trainer.graph(), stem.with_suffix(".bitship"))
    start, longest = time.monotonic(), 0.0
    with Progress(console=console(stderr=True)) as progress:
        task = progress.add_task(stem.name, total=args.epochs * work.steps)
        while work.done < args.epochs:
            begun = time.monotonic()
            if begun - start + longest > args.minutes * 60:
                return 3
            loss = work.epoch(*train_set, lambda: progress.advance(task))
            longest = max(longest, time.monotonic() - begun)
            work.trainer.save(stem.with_suffix(".qat.safetensors"))
            graph = work.trainer.graph()
            store.save(graph, stem.with_suffix(".bitship"))
            right, _ = accuracy(graph, *test_set, args.model)
            console(stderr=True).print(
                f"epoch {work.done}/{args.epochs}  loss {loss:.4f}  test accuracy {right:.4f}  "
                f"{time.monotonic() - begun:.0f} s"
            )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.qat_cifar10: {e}")
