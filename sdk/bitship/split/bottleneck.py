"""The float side of a split model: head with bottleneck and exit, decoder, and any torch backbone cut at a module.

Encoder and decoder in the place of a backbone's first stages: BottleFit, arXiv 2201.02693. A learned factorised prior
over what is sent: Entropic Student, arXiv 2108.11898, here a mixture of logistics per channel. A classifier on the
head: LGViT, arXiv 2308.00255. This module imports torch at once, so it is imported inside functions only.
"""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bitship.errors import QuantizationError

MIXTURE = 3
LEAST_PROBABILITY = 1e-6


def block(i: int, o: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> Any:
    """Return a convolution without bias, batch norm and ReLU; padding keeps the size at stride 1."""
    conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), nn.ReLU())


class Residual(nn.Module):  # type: ignore[misc]
    """Two convolutions beside a shortcut, for a decoder; channels and size stay."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = block(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.relu = nn.ReLU()

    def forward(self, x: Any) -> Any:
        """x, result  [N, width, H, W]."""
        return self.relu(x + self.second(self.first(x)))


class Head(nn.Module):  # type: ignore[misc]
    """What runs on the device: trunk, bottleneck and exit.

    trunk    images to ``width`` channels
    encode   the trunk's result to the features that are sent
    leave    the trunk's result to logits
    apart    the exit's loss trains the exit alone: a small trunk is kept for what is sent

    forward returns (features [N, C, H, W], logits [N, classes]).
    """

    def __init__(self, trunk: Any, encode: Any, leave: Any, apart: bool = False) -> None:
        super().__init__()
        self.trunk, self.encode, self.leave, self.apart = trunk, encode, leave, apart

    def forward(self, x: Any) -> tuple[Any, Any]:
        seen = self.trunk(x)
        return self.encode(seen), self.leave(seen.detach() if self.apart and self.training else seen)


def exit_branch(width: int, classes: int, channels: tuple[int, int] = (32, 48)) -> Any:
    """Return a small classifier: two separable convolutions of stride 2, global mean, one linear layer."""
    a, b = channels
    return nn.Sequential(
        block(width, width, 2, groups=width),
        block(width, a, kernel=1),
        block(a, a, 2, groups=a),
        block(a, b, kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(b, classes),
    )


class Tail(nn.Module):  # type: ignore[misc]
    """What runs on the server: a decoder, then a backbone from behind one of its modules on.

    backbone  any module of images
    at        the path of a module in it; ``decoder`` gives what that module gave
    example   an image of the backbone's input shape [1, C, H, W]; what is in front of ``at`` sees only this, once where
              the backbone asks no tensor for its batch, else (``wide``) as often as there are features

    Raises QuantizationError where the backbone has no such module, or where its answer depends on the image past it (a
    shortcut around the cut).
    """

    def __init__(self, backbone: Any, at: str, decoder: Any, example: Any) -> None:
        super().__init__()
        if at not in dict(backbone.named_modules()):
            raise QuantizationError(f"split: '{at}': the backbone has no such module")
        self.backbone, self.at, self.decoder = backbone, at, decoder
        self.register_buffer("example", torch.zeros_like(example[:1]), persistent=False)
        self.wide = _check_cut(backbone, at, example[:1])

    def forward(self, features: Any) -> Any:
        return self.from_stage(self.decoder(features))

    def from_stage(self, value: Any) -> Any:
        """Return the backbone's answer where module ``at`` gave this value."""
        seen = self.example.expand(len(value), -1, -1, -1) if self.wide else self.example
        with replaced(self.backbone, self.at, lambda _: value):
            return self.backbone(seen)


@contextmanager
def replaced(backbone: Any, at: str, by: Callable[[Any], Any]) -> Any:
    """While open, what module ``at`` gives goes through a function first."""
    handle = backbone.get_submodule(at).register_forward_hook(lambda _module, _inputs, output: by(output))
    try:
        yield
    finally:
        handle.remove()


def stage_of(backbone: Any, at: str, x: Any) -> tuple[Any, Any]:
    """Return (what module ``at`` gives for x, the backbone's answer)."""
    seen = []

    def keep(value: Any) -> Any:
        seen.append(value)
        return value

    with replaced(backbone, at, keep):
        answer = backbone(x)
    return seen[0], answer


def _check_cut(backbone: Any, at: str, example: Any) -> bool:
    """Return whether the example must be as wide as the features."""
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            value, answer = stage_of(backbone, at, example)
            with replaced(backbone, at, lambda _: value):
                other = backbone(example + 1)
            with replaced(backbone, at, lambda _: torch.cat([value, value])):
                try:
                    wide = len(backbone(example)) != 2
                except RuntimeError:
                    wide = True
    finally:
        backbone.train(training)
    if not torch.equal(answer, other):
        raise QuantizationError(f"split: '{at}': the answer depends on the image past this module; cut elsewhere")
    return wide


class Prior(nn.Module):  # type: ignore[misc]
    """A factorised prior: a mixture of logistics per channel, integrated over bins, so that one serves every step."""

    def __init__(self, channels: int, spread: float = 4.0) -> None:
        super().__init__()
        start = torch.linspace(-spread, spread, MIXTURE).repeat(channels, 1)
        self.mean = nn.Parameter(start)
        self.log_scale = nn.Parameter(torch.full((channels, MIXTURE), 0.7))
        self.weight = nn.Parameter(torch.zeros(channels, MIXTURE))

    def bits(self, values: Any, step: float) -> Any:
        """Return the bits of an image's features [N, C, H, W], mean over N, coded in bins of a width."""
        x = values.permute(0, 2, 3, 1).unsqueeze(-1)
        scale = self.log_scale.clamp(-4, 6).exp()
        upper = torch.sigmoid((x + step / 2 - self.mean) / scale)
        lower = torch.sigmoid((x - step / 2 - self.mean) / scale)
        probability = ((upper - lower) * torch.softmax(self.weight, -1)).sum(-1)
        return -torch.log2(probability.clamp_min(LEAST_PROBABILITY)).sum() / len(values)


def rounded(values: Any, step: float) -> Any:
    """Return values rounded to multiples of a step; the gradient is the identity's."""
    return values + (torch.round(values / step) * step - values).detach()
