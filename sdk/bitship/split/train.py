"""Train a split model in stages: distil the bottleneck, train end to end with a rate term, fit the tail to integers.

Stage 1 is generalized head network distillation (arXiv 2011.10302 with the bottleneck of BottleFit, arXiv 2201.02693):
the decoder's result is brought to the teacher's features. Stage 2 trains head, decoder, backbone, prior and exit on

    CE + w * KL(teacher || student) + beta * ramp * bits        (KL at temperature 2)

with the step of a random rung in every batch, so that one head serves them all. Stage 3 keeps the head, by then a graph
of integers, and trains the tail on the very codes it gives. This module imports torch at once, so it is imported
inside functions only.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bitship.split.bottleneck import Head, Prior, Tail, rounded, stage_of

Batch = tuple[Any, Any]
Report = Callable[[str, int, int, float], None]
TEMPERATURE = 2.0


@dataclass(frozen=True)
class Recipe:
    """How a split model is trained.

    distil, joint, fit  epochs of the three stages
    batch               images a step
    rate, peak          learning rates of AdamW and of the one cycle's top
    beta                weight of a bit in the loss; 0: no rate term
    ramp                epochs of stage 2 without and until the full rate term
    distillation        w: the weight of the teacher's answers
    exit_weight         of the exit's own loss
    steps               of the rungs, in units of the features: powers of two, the finest first
    """

    distil: int = 6
    joint: int = 24
    fit: int = 8
    batch: int = 64
    rate: float = 2e-3
    weight_decay: float = 1e-4
    beta: float = 4e-4
    ramp: tuple[int, int] = (3, 8)
    distillation: float = 2.0
    exit_weight: float = 0.5
    steps: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Data:
    """Training data: ``epoch(number)`` gives (images float32 [N, C, H, W], labels int64 [N]), augmented."""

    epoch: Callable[[int], Batch]

    def batches(self, number: int, size: int) -> Iterator[Batch]:
        """Yield an epoch's batches in an order that depends on its number alone; a last partial one is left out."""
        x, y = self.epoch(number)
        order = torch.from_numpy(np.random.default_rng(number).permutation(len(x)))
        for i in range(0, len(x) - size + 1, size):
            chosen = order[i : i + size]
            yield x[chosen], y[chosen]

    def steps(self, size: int) -> int:
        """Return the batches of an epoch."""
        return len(self.epoch(0)[0]) // size


def _cycle(parameters: Iterable[Any], recipe: Recipe, epochs: int, steps: int, factor: float = 1.0) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(parameters, recipe.rate * factor, weight_decay=recipe.weight_decay)
    peak = 2 * recipe.rate * factor
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=max(epochs * steps, 1))


def _step(optimizer: Any, schedule: Any, loss: Any) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()
    return float(loss.detach())


def divergence(teacher: Any, student: Any) -> Any:
    """Return KL(teacher || student) of logits at temperature 2, mean over the batch, times 4 as is usual."""
    log = torch.nn.functional.log_softmax
    a, b = log(teacher / TEMPERATURE, 1), log(student / TEMPERATURE, 1)
    return torch.nn.functional.kl_div(b, a, reduction="batchmean", log_target=True) * TEMPERATURE**2


def classifier(network: Any, data: Data, recipe: Recipe, epochs: int, report: Report) -> Any:
    """Train a network of its own on labels alone: the full model, or one that never sends anything."""
    optimizer, schedule = _cycle(network.parameters(), recipe, epochs, data.steps(recipe.batch))
    network.train()
    for epoch in range(epochs):
        losses = []
        for x, y in data.batches(epoch, recipe.batch):
            loss = torch.nn.functional.cross_entropy(network(x), y, label_smoothing=0.05)
            losses.append(_step(optimizer, schedule, loss))
        report("full model", epoch + 1, epochs, float(np.mean(losses)))
    return network.eval()


class Split:
    """A split model in training: ``teacher`` is the full model, frozen; ``tail`` holds a copy of it.

    head     trunk, bottleneck, exit
    decoder  what brings the features back to what module ``at`` of the teacher gives
    """

    def __init__(self, teacher: Any, at: str, head: Head, decoder: Any, example: Any, recipe: Recipe) -> None:
        self.teacher, self.at, self.head, self.recipe = teacher.eval().requires_grad_(False), at, head, recipe
        backbone = copy.deepcopy(teacher).requires_grad_(True)
        self.tail = Tail(backbone, at, decoder, example)
        with torch.no_grad():
            self.channels = int(head.eval()(example[:1])[0].shape[1])
        self.prior = Prior(self.channels)

    def distil(self, data: Data, report: Report) -> None:
        """Stage 1: encoder and decoder learn the teacher's features; no rate term, the finest rung's step."""
        parameters = [*self.head.parameters(), *self.tail.decoder.parameters()]
        optimizer, schedule = _cycle(parameters, self.recipe, self.recipe.distil, data.steps(self.recipe.batch))
        self.head.train()
        self.tail.decoder.train()
        for epoch in range(self.recipe.distil):
            losses = []
            for x, y in data.batches(epoch, self.recipe.batch):
                with torch.no_grad():
                    wanted, answer = stage_of(self.teacher, self.at, x)
                features, logits = self.head(x)
                found = self.tail.decoder(rounded(features, self.recipe.steps[0]))
                error = ((found - wanted) ** 2).mean() / wanted.var()
                left = torch.nn.functional.cross_entropy(logits, y) + divergence(answer, logits)
                losses.append(_step(optimizer, schedule, error + self.recipe.exit_weight * left))
            report("distillation", epoch + 1, self.recipe.distil, float(np.mean(losses)))

    def joint(self, data: Data, report: Report) -> None:
        """Stage 2: everything but the teacher learns, with the rate term."""
        recipe = self.recipe
        parameters = [p for m in (self.head, self.tail, self.prior) for p in m.parameters()]
        optimizer, schedule = _cycle(parameters, recipe, recipe.joint, data.steps(recipe.batch))
        draw = np.random.default_rng(0)
        for module in (self.head, self.tail, self.prior):
            module.train()
        for epoch in range(recipe.joint):
            quiet, full = recipe.ramp
            ramp = min(max((epoch - quiet) / max(full - quiet, 1), 0.0), 1.0)
            losses = []
            for x, y in data.batches(1000 + epoch, recipe.batch):
                step = float(draw.choice(recipe.steps))
                with torch.no_grad():
                    answer = self.teacher(x)
                features, logits = self.head(x)
                student = self.tail(rounded(features, step))
                bits = self.prior.bits(features + (torch.rand_like(features) - 0.5) * step, step)
                loss = torch.nn.functional.cross_entropy(student, y) + recipe.distillation * divergence(answer, student)
                left = torch.nn.functional.cross_entropy(logits, y) + divergence(answer, logits)
                losses.append(_step(optimizer, schedule, loss + recipe.exit_weight * left + recipe.beta * ramp * bits))
            report("end to end", epoch + 1, recipe.joint, float(np.mean(losses)))

    def fit(self, sent: Callable[[int], tuple[Any, Any, Any]], report: Report) -> None:
        """Stage 3: the tail learns from the integer head's codes.

        sent  gives an epoch's (dequantized codes [N, C, H, W], images, labels); the rung differs from image to image
        """
        recipe, size = self.recipe, self.recipe.batch
        values, _, _ = sent(0)
        optimizer, schedule = _cycle(self.tail.parameters(), recipe, recipe.fit, len(values) // size, 0.3)
        self.tail.train()
        for epoch in range(recipe.fit):
            values, images, labels = sent(epoch)
            order, losses = torch.from_numpy(np.random.default_rng(epoch).permutation(len(values))), []
            for i in range(0, len(values) - size + 1, size):
                chosen = order[i : i + size]
                with torch.no_grad():
                    answer = self.teacher(images[chosen])
                student = self.tail(values[chosen])
                loss = torch.nn.functional.cross_entropy(student, labels[chosen])
                loss = loss + recipe.distillation * divergence(answer, student)
                losses.append(_step(optimizer, schedule, loss))
            report("tail on integers", epoch + 1, recipe.fit, float(np.mean(losses)))
        self.tail.eval()
