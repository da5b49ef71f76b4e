"""Several devices: a ViT's classes dealt to pruned sub-models, one a device, and a head that fuses what they send.

ED-ViT, arXiv 2410.11650. What a sub-model keeps of the full one is chosen for its own classes by a first-order Taylor
term, arXiv 1906.10771. The fusion head is trained with devices missing, so that it answers without one.

This module imports torch at once, so it is imported inside functions only.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from bitship.errors import UnsupportedError
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.models.vit import VisionTransformer, VitConfig, vit
from bitship.quantization import quantize
from bitship.split.train import Data, Report, Stage, divergence, matrices_of, optimise

GIVEN_UP = 2  # classes of a missing device that pay for the others
SPARE = 0.01  # recall above that with all devices that the others are brought to, on the images of calibration
ASKED = 500  # images a sub-model is given at once
ASCENT, FIRST_STEP = 300, 4.0  # steps, and logits a unit of recall in the first


def groups(confusion: Array, devices: int) -> tuple[tuple[int, ...], ...]:
    """Deal classes to devices, as evenly as can be: those that are taken for one another go to one device.

    confusion  [classes, classes] counts or shares, rows true, columns answered; UnsupportedError for too many devices
    """
    classes = len(confusion)
    if not 1 <= devices <= classes:
        raise UnsupportedError(f"{devices} devices for {classes} classes: 1 to {classes} are possible")
    alike = (confusion + confusion.T).astype(np.float64)
    np.fill_diagonal(alike, -1.0)
    left, dealt = set(range(classes)), []
    for device in range(devices):
        size = -(-len(left) // (devices - device))
        first = max(left, key=lambda c: (max((alike[c, o] for o in left), default=0.0), -c))
        own = [first]
        left.remove(first)
        while len(own) < size:
            best = max(left, key=lambda c: (float(sum(alike[c, o] for o in own)), -c))
            own.append(best)
            left.remove(best)
        dealt.append(tuple(sorted(own)))
    return tuple(dealt)


def importance(full: VisionTransformer, images: Any, labels: Any) -> dict[str, Any]:
    """Return (weight * gradient)^2 of every parameter for these images: what removing it would do, to first order."""
    model = copy.deepcopy(full).train(False).requires_grad_(True)
    nn.functional.cross_entropy(model(images), labels).backward()
    return {name: (p * p.grad).detach() ** 2 for name, p in model.named_parameters() if p.grad is not None}


def prune(full: VisionTransformer, config: VitConfig, features: int, images: Any, labels: Any) -> VisionTransformer:
    """Return a smaller ViT with the parts of the full one that matter most for these images; its head is fresh.

    config    the smaller sizes: image, patch and the size of a head as in the full one's config
    features  how many numbers it gives, in the place of logits
    """
    of = full.config
    size = of.dim // of.heads
    if (config.image, config.patch, config.mlp_ratio) != (of.image, of.patch, of.mlp_ratio) or config.dim > of.dim:
        raise UnsupportedError(f"prune: {config} of {of}: image, patch and mlp_ratio must be equal, dim not larger")
    if config.heads > of.heads or config.dim // config.heads > size or config.depth > of.depth:
        raise UnsupportedError(f"prune: {config} of {of}: heads, their size and depth must not be larger")
    worth = importance(full, images, labels)
    small = vit(VitConfig(**{**vars(config), "classes": features}))
    channels = _channels(worth, of, config.dim)
    source, target = full.state_dict(), {}
    target["patch_embed.weight"] = source["patch_embed.weight"][channels]
    target["patch_embed.bias"] = source["patch_embed.bias"][channels]
    target["cls_token"], target["pos_embed"] = source["cls_token"][..., channels], source["pos_embed"][..., channels]
    target["norm.weight"], target["norm.bias"] = source["norm.weight"][channels], source["norm.bias"][channels]
    kept = np.unique(np.round(np.linspace(0, of.depth - 1, config.depth)).astype(int))
    for to, block in enumerate(kept):
        rows, units = _heads(worth, of, config, int(block)), _units(worth, int(block), config)
        a, b = f"blocks.{block}.", f"blocks.{to}."
        wide = torch.cat([rows + i * of.dim for i in range(3)])
        for norm in ("norm1", "norm2"):
            for part in ("weight", "bias"):
                target[f"{b}{norm}.{part}"] = source[f"{a}{norm}.{part}"][channels]
        target[b + "attn.qkv.weight"] = source[a + "attn.qkv.weight"][wide][:, channels]
        target[b + "attn.qkv.bias"] = source[a + "attn.qkv.bias"][wide]
        target[b + "attn.proj.weight"] = source[a + "attn.proj.weight"][channels][:, rows]
        target[b + "attn.proj.bias"] = source[a + "attn.proj.bias"][channels]
        target[b + "mlp.fc1.weight"] = source[a + "mlp.fc1.weight"][units][:, channels]
        target[b + "mlp.fc1.bias"] = source[a + "mlp.fc1.bias"][units]
        target[b + "mlp.fc2.weight"] = source[a + "mlp.fc2.weight"][channels][:, units]
        target[b + "mlp.fc2.bias"] = source[a + "mlp.fc2.bias"][channels]
    small.load_state_dict(target, strict=False)
    return small


def _best(score: Any, count: int) -> Any:
    return torch.sort(torch.topk(score, count).indices).values


def _channels(worth: dict[str, Any], of: VitConfig, count: int) -> Any:
    score = torch.zeros(of.dim)
    for name, value in worth.items():
        if name.endswith(("qkv.weight", "fc1.weight")):
            score += value.sum(0)
        elif name.endswith(("proj.weight", "fc2.weight")):
            score += value.sum(1)
    return _best(score, count)


def _heads(worth: dict[str, Any], of: VitConfig, config: VitConfig, block: int) -> Any:
    """Return the rows, of one of q, k, v, of the heads and their dimensions that stay."""
    size, own = of.dim // of.heads, config.dim // config.heads
    qkv = worth[f"blocks.{block}.attn.qkv.weight"].sum(1).reshape(3, of.heads, size).sum(0)
    heads = _best(qkv.sum(1), config.heads)
    return torch.cat([h * size + _best(qkv[h], own) for h in heads])


def _units(worth: dict[str, Any], block: int, config: VitConfig) -> Any:
    score = worth[f"blocks.{block}.mlp.fc1.weight"].sum(1) + worth[f"blocks.{block}.mlp.fc2.weight"].sum(0)
    return _best(score, config.mlp_ratio * config.dim)


class Fusion(nn.Module):  # type: ignore[misc]
    """Features of all devices to logits; a device that is missing gives zeros."""

    def __init__(self, devices: int, features: int, classes: int, hidden: int = 64) -> None:
        super().__init__()
        self.devices = devices
        self.hidden = nn.Linear(devices * features, hidden)
        self.out = nn.Linear(hidden, classes)

    def forward(self, *features: Any) -> Any:
        return self.out(torch.relu(self.hidden(torch.cat(features, 1))))


@dataclass(frozen=True)
class SeveralRecipe:
    """How the sub-models are trained.

    alone, together  epochs of each for itself, and of all with the fusion head
    rate             of AdamW, half its cycle's top; ``muon`` is the top of Muon, which takes the blocks' matrices
    missing          for how many images of training one device, any of them, gives nothing
    """

    alone: int = 2
    together: int = 12
    batch: int = 128
    rate: float = 1e-3
    muon: float = 0.02
    weight_decay: float = 0.05
    distillation: float = 2.0
    missing: float = 0.3


class Several:
    """Sub-models and a fusion head in training; ``teacher`` is the full ViT, frozen."""

    def __init__(
        self, teacher: VisionTransformer, subs: Sequence[Any], fusion: Fusion, own: Sequence[Sequence[int]]
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.subs, self.fusion, self.own = nn.ModuleList(subs), fusion, tuple(tuple(g) for g in own)

    def forward(self, x: Any, present: Sequence[bool] | Any) -> Any:
        """Return logits where some devices are missing: ``present`` is [devices] or [devices, N]."""
        masks = torch.as_tensor(np.asarray(present, np.float32))
        found = [sub(x) * masks[i].reshape(-1, 1) for i, sub in enumerate(self.subs)]
        return self.fusion(*found)

    def train(self, data: Data, recipe: SeveralRecipe, report: Report) -> None:
        """Each sub-model learns its own classes against all others, then all of them with the fusion head."""
        self.subs.train()
        self.fusion.train()

        def stage(name: str, epochs: int) -> Stage:
            return Stage(name, epochs, recipe.batch, recipe.rate, recipe.weight_decay, muon=recipe.muon)

        for number, sub in enumerate(self.subs):
            probe = nn.Linear(sub.head.out_features, len(self.own[number]) + 1)
            rest, inner = matrices_of(sub)
            loss_of = partial(self._alone, self.own[number], sub, probe)
            one = stage(f"device {number}", recipe.alone)
            optimise(one, [*rest, *probe.parameters()], data.epoch, loss_of, report, inner)
        together = partial(self._together, np.random.default_rng(0), recipe)
        parts = [matrices_of(sub) for sub in self.subs]
        rest = [p for others, _ in parts for p in others]
        inner = [p for _, matrices in parts for p in matrices]
        optimise(
            stage("together", recipe.together),
            [*rest, *self.fusion.parameters()],
            data.epoch,
            together,
            report,
            inner,
        )
        self.subs.eval()
        self.fusion.eval()

    def _alone(self, own: Sequence[int], sub: Any, probe: Any, _: int, x: Any, y: Any, *__: Any) -> Any:
        wanted = torch.full_like(y, len(own))
        for i, c in enumerate(own):
            wanted[y == c] = i
        return nn.functional.cross_entropy(probe(torch.relu(sub(x))), wanted)

    def _together(
        self, draw: np.random.Generator, recipe: SeveralRecipe, _: int, x: Any, y: Any, given: Any = None
    ) -> Any:
        lost = np.where(draw.random(len(x)) < recipe.missing, draw.integers(0, len(self.subs), len(x)), -1)
        present = (np.arange(len(self.subs))[:, None] != lost).astype(np.float32)
        if given is None:
            with torch.no_grad():
                given = self.teacher(x)
        student = self.forward(x, present)
        return nn.functional.cross_entropy(student, y) + recipe.distillation * divergence(given, student)


def offsets(whole: Array, without: Array, labels: Array, own: Sequence[Sequence[int]]) -> Array:
    """Return what to add to the logits where a device is missing, so that most classes stay as right as they were.

    whole    logits float [N, classes] of all devices; ``without`` [devices, N, classes]: with one missing
    result   float [devices, classes]

    Of a missing device's own classes the two that lose most are given up; every other class is raised or lowered until
    its recall is ``SPARE`` above that with all devices (a dual ascent with falling steps).
    """
    classes = whole.shape[1]

    def recall(logits: Array) -> Array:
        right = logits.argmax(1) == labels
        found: Array = np.bincount(labels, right, classes) / np.maximum(np.bincount(labels, minlength=classes), 1)
        return found

    full, found = recall(whole), np.zeros((len(without), classes))
    for device, logits in enumerate(without):
        before = recall(logits)
        lost = sorted(own[device], key=lambda c: before[c] - full[c])[:GIVEN_UP]
        kept = np.setdiff1d(np.arange(classes), lost)
        for step in range(ASCENT):
            short = np.minimum(full + SPARE, 1.0) - recall(logits + found[device])
            found[device, kept] += FIRST_STEP * (1 - step / ASCENT) * short[kept]
        found[device] -= found[device].min()
    return found


def integer_offsets(several: Several, fusion: Graph, images: Any, labels: Any) -> tuple[tuple[int, ...], ...]:
    """Return ``offsets`` in codes of the fusion graph's logits; images are such as the devices were trained on."""
    quant = fusion.outputs[0].quant
    assert quant is not None
    count = len(several.subs)
    with torch.no_grad():
        features = [torch.cat([s(part) for part in images.split(ASKED)]) for s in several.subs]
        answers = [
            several.fusion(*(f * float(i != missing) for i, f in enumerate(features))).numpy()
            for missing in range(-1, count)
        ]
    found = offsets(answers[0], np.stack(answers[1:]), labels.numpy(), several.own)
    return tuple(tuple(round(float(v) / quant.scale) for v in row) for row in found)


def integer_parts(several: Several, images: Any) -> tuple[tuple[Graph, ...], Graph]:
    """Quantize the sub-models and the fusion head; its inputs have the sub-models' own scales and zero points."""
    subs = tuple(quantize(s.eval(), [images], "int8", f"device{i}") for i, s in enumerate(several.subs))
    rows = []
    with torch.no_grad():
        real = [s(images) for s in several.subs]
    for values, graph in zip(real, subs, strict=True):
        quant = graph.outputs[0].quant
        assert quant is not None
        wide = torch.cat([values, torch.zeros_like(values[:1]), torch.zeros_like(values[:1])])
        wide[-2], wide[-1] = ((end - quant.zero_point) * quant.scale for end in (-128, 127))
        rows.append(torch.clamp(wide, float(wide[-2, 0]), float(wide[-1, 0])))
    fusion = quantize(several.fusion.eval(), [tuple(rows)], "int8", "fusion")
    for port, graph in zip(fusion.inputs, subs, strict=True):
        found, wanted = port.quant, graph.outputs[0].quant
        assert found is not None
        assert wanted is not None
        if found.zero_point != wanted.zero_point or not np.isclose(found.scale, wanted.scale, rtol=1e-5):
            raise UnsupportedError(f"fusion: its input is {found}, the device gives {wanted}")
    return subs, fusion
