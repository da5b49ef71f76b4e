"""Train a split model in stages: distil the bottleneck, train end to end with a rate term, fit the tail to integers.

Stage 1 is generalized head network distillation (arXiv 2011.10302 with the bottleneck of BottleFit, arXiv 2201.02693):
the decoder's result is brought to the teacher's features. Stage 2 trains head, decoder, backbone, prior and exit on

    CE + w * KL(teacher || student) + beta * ramp * bits        (KL at temperature 2)

with the step of a random rung in every batch, so that one head serves them all. Stage 3 keeps the head, by then a graph
of integers, and trains the tail on the very codes it gives. This module imports torch at once, so it is imported
inside functions only.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bitship.split.bottleneck import Head, Prior, Tail, rounded, stage_of

Batch = tuple[Any, ...]
Report = Callable[[str, int, int, float], None]
TEMPERATURE = 2.0
JOINT_FIRST = 1000  # the number of stage 2's first epoch: other draws than stage 1's
FIT_RATE = 0.3  # of the learning rate, in stage 3
MOMENTUM = 0.95  # of Muon


@dataclass(frozen=True)
class Recipe:
    """How a split model is trained.

    distil, joint, fit  epochs of the three stages
    batch               images a step
    rate                of AdamW, half its cycle's top
    muon                top of the cycle of Muon in stage 2, for the linear layers of the backbone; 0: AdamW
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
    muon: float = 0.0
    weight_decay: float = 1e-4
    beta: float = 4e-4
    ramp: tuple[int, int] = (3, 8)
    distillation: float = 2.0
    exit_weight: float = 0.5
    steps: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Data:
    """Training data: ``epoch(number)`` gives (images float32 [N, C, H, W], labels int64 [N]), augmented.

    A third part, logits float32 [N, classes], stands in for the teacher's answers: those of several teachers, or
    answers kept from an epoch that comes again.
    """

    epoch: Callable[[int], Batch]


@dataclass(frozen=True)
class Stage:
    """One stretch of training: AdamW, one cycle whose top is twice ``rate``; ``first`` is its first epoch's number.

    muon  top of the cycle of Muon (torch.optim.Muon), which takes the matrices it is given; 0: AdamW takes them
    """

    name: str
    epochs: int
    batch: int
    rate: float
    weight_decay: float
    first: int = 0
    muon: float = 0.0

    def optimizers(self, parameters: Iterable[Any], matrices: Iterable[Any]) -> list[tuple[Any, float]]:
        """Return optimizers, each with its cycle's top."""
        rest, inner = list(parameters), list(matrices)
        if not (self.muon and inner):
            return [(torch.optim.AdamW([*rest, *inner], self.rate, weight_decay=self.weight_decay), 2 * self.rate)]
        return [
            (torch.optim.AdamW(rest, self.rate, weight_decay=self.weight_decay), 2 * self.rate),
            (torch.optim.Muon(inner, self.muon, weight_decay=self.weight_decay, momentum=MOMENTUM), self.muon),
        ]


def optimise(
    stage: Stage,
    parameters: Iterable[Any],
    epoch: Callable[[int], tuple[Any, ...]],
    loss_of: Callable[..., Any],
    report: Report,
    matrices: Iterable[Any] = (),
) -> None:
    """Run a stage.

    epoch     gives the tensors of an epoch by its number; every epoch has as many rows
    loss_of   the loss of (epochs done, a batch of each tensor). Rows are shuffled by the epoch's number alone; a last
              partial batch is left out
    matrices  further parameters, those that Muon may take
    """
    optimizers = stage.optimizers(parameters, matrices)
    schedules: list[Any] = []
    for done in range(stage.epochs):
        tensors = epoch(stage.first + done)
        rows, losses = len(tensors[0]), []
        if not schedules:
            steps = max(stage.epochs * (rows // stage.batch), 1)
            schedules = [cycle(optimizer, top, steps) for optimizer, top in optimizers]
        order = torch.from_numpy(np.random.default_rng(stage.first + done).permutation(rows))
        for i in range(0, rows - stage.batch + 1, stage.batch):
            chosen = order[i : i + stage.batch]
            loss = loss_of(done, *(t[chosen] for t in tensors))
            for optimizer, _ in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer, _ in optimizers:
                optimizer.step()
            for schedule in schedules:
                schedule.step()
            losses.append(float(loss.detach()))
        report(stage.name, done + 1, stage.epochs, float(np.mean(losses)))


def matrices_of(network: Any) -> tuple[list[Any], list[Any]]:
    """Return a network's parameters in two parts: all others, and the weights of its linear layers but the last."""
    inner = [m.weight for m in network.modules() if isinstance(m, torch.nn.Linear)][:-1]
    taken = {id(p) for p in inner}
    return [p for p in network.parameters() if id(p) not in taken], inner


def cycle(optimizer: Any, top: float, steps: int) -> Any:
    """Return one cycle's schedule; the momentum of Muon, which is no Adam, stays as it is."""
    adam = isinstance(optimizer, torch.optim.AdamW)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, top, total_steps=steps, cycle_momentum=adam)


def divergence(teacher: Any, student: Any) -> Any:
    """Return KL(teacher || student) of logits at temperature 2, mean over the batch, times 4 as is usual."""
    log = torch.nn.functional.log_softmax
    a, b = log(teacher / TEMPERATURE, 1), log(student / TEMPERATURE, 1)
    return torch.nn.functional.kl_div(b, a, reduction="batchmean", log_target=True) * TEMPERATURE**2


def classifier(network: Any, data: Data, recipe: Recipe, epochs: int, report: Report) -> Any:
    """Train a network of its own on labels alone: the full model, or one that never sends anything."""
    network.train()

    def loss_of(_: int, x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(network(x), y, label_smoothing=0.05)

    stage = Stage("full model", epochs, recipe.batch, recipe.rate, recipe.weight_decay, muon=recipe.muon)
    rest, inner = matrices_of(network) if recipe.muon else (network.parameters(), ())
    optimise(stage, rest, data.epoch, loss_of, report, inner)
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
        self.head.train()
        self.tail.decoder.train()
        parameters = [*self.head.parameters(), *self.tail.decoder.parameters()]
        optimise(self._stage("distillation", self.recipe.distil), parameters, data.epoch, self._distilled, report)

    def _distilled(self, _: int, x: Any, y: Any, given: Any = None) -> Any:
        with torch.no_grad():
            wanted, answer = stage_of(self.teacher, self.at, x)
        answer = answer if given is None else given
        features, logits = self.head(x)
        found = self.tail.decoder(rounded(features, self.recipe.steps[0]))
        error = ((found - wanted) ** 2).mean() / wanted.var()
        return error + self.recipe.exit_weight * self._left(logits, y, answer)

    def _asked(self, x: Any) -> Any:
        """Return the teacher's answers."""
        with torch.no_grad():
            return self.teacher(x)

    def _left(self, logits: Any, y: Any, answer: Any) -> Any:
        """Return the exit's own loss."""
        return torch.nn.functional.cross_entropy(logits, y) + divergence(answer, logits)

    def _answered(self, student: Any, y: Any, answer: Any) -> Any:
        """Return the tail's loss: labels, and the teacher's answers."""
        return torch.nn.functional.cross_entropy(student, y) + self.recipe.distillation * divergence(answer, student)

    def _stage(self, name: str, epochs: int, first: int = 0, factor: float = 1.0) -> Stage:
        recipe = self.recipe
        return Stage(name, epochs, recipe.batch, recipe.rate * factor, recipe.weight_decay, first)

    def joint(self, data: Data, report: Report) -> None:
        """Stage 2: everything but the teacher learns, with the rate term."""
        recipe, draw = self.recipe, np.random.default_rng(0)
        trained = (self.head, self.tail, self.prior)
        for module in trained:
            module.train()

        def loss_of(done: int, x: Any, y: Any, given: Any = None) -> Any:
            quiet, full = recipe.ramp
            ramp = min(max((done - quiet) / max(full - quiet, 1), 0.0), 1.0)
            step = float(draw.choice(recipe.steps))
            answer = self._asked(x) if given is None else given
            features, logits = self.head(x)
            student = self.tail(rounded(features, step))
            bits = self.prior.bits(features + (torch.rand_like(features) - 0.5) * step, step)
            loss = self._answered(student, y, answer) + recipe.exit_weight * self._left(logits, y, answer)
            return loss + recipe.beta * ramp * bits

        rest, inner = matrices_of(self.tail.backbone)
        parameters = [p for m in (self.head, self.tail.decoder, self.prior) for p in m.parameters()]
        stage = replace(self._stage("end to end", recipe.joint, JOINT_FIRST), muon=recipe.muon)
        optimise(stage, [*parameters, *rest], data.epoch, loss_of, report, inner)

    def fit(self, sent: Callable[[int], Batch], report: Report) -> None:
        """Stage 3: the tail learns from the integer head's codes.

        sent  gives (dequantized codes [N, C, H, W], images, labels) of an epoch, and answers where ``Data`` has them;
              the rung differs from image to image
        """
        self.tail.train()

        def loss_of(_: int, values: Any, images: Any, labels: Any, given: Any = None) -> Any:
            answer = self._asked(images) if given is None else given
            return self._answered(self.tail(values), labels, answer)

        stage = self._stage("tail on integers", self.recipe.fit, factor=FIT_RATE)
        optimise(stage, self.tail.parameters(), sent, loss_of, report)
        self.tail.eval()
