"""A small network of inverted residuals with depthwise convolutions, written from the paper (arXiv 1801.04381).

This module imports torch at once, so it is imported inside functions only.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bitship.errors import UnsupportedError


@dataclass(frozen=True)
class MobileNetConfig:
    """Sizes of the network.

    stem    channels of the first convolution, which keeps the image's size
    stages  (channels, blocks, stride of the first block) of each stage
    expand  width inside a block in units of its input's channels
    last    channels of the 1x1 convolution before the mean
    """

    stem: int = 16
    stages: tuple[tuple[int, int, int], ...] = ((24, 2, 2), (40, 3, 2), (80, 3, 2))
    expand: int = 4
    last: int = 256
    classes: int = 10

    def __post_init__(self) -> None:
        sizes = [self.stem, self.expand, self.last, self.classes, *(n for stage in self.stages for n in stage)]
        if min(sizes) < 1 or not self.stages:
            raise UnsupportedError(f"mobile network: sizes {sizes} of {len(self.stages)} stages; 1 or more are needed")


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> "OrderedDict[str, Any]":
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return OrderedDict(conv=convolution, norm=nn.BatchNorm2d(outputs))


def _conv_relu6(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Any:
    return nn.Sequential(OrderedDict(**_conv(inputs, outputs, kernel, stride, groups), act=nn.ReLU6()))


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """1x1 to a wider tensor, 3x3 depthwise, 1x1 back without activation; beside a residual where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.residual = stride == 1 and inputs == outputs
        self.expand = _conv_relu6(inputs, wide, 1)
        self.depthwise = _conv_relu6(wide, wide, 3, stride, groups=wide)
        self.project = nn.Sequential(_conv(wide, outputs, 1))

    def forward(self, x: Any) -> Any:
        """x  [N, inputs, H, W]; result [N, outputs, H / stride, W / stride]."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNet(nn.Module):  # type: ignore[misc]
    """Images [N, 3, H, W] float32, normalised, to logits [N, classes]."""

    def __init__(self, config: MobileNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = _conv_relu6(3, config.stem, 3)
        blocks, channels = [], config.stem
        for outputs, count, stride in config.stages:
            for i in range(count):
                blocks.append(InvertedResidual(channels, outputs, stride if i == 0 else 1, config.expand))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = _conv_relu6(channels, config.last, 1)
        self.head = nn.Linear(config.last, config.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Any) -> Any:
        """x  [N, 3, H, W]; result [N, classes]."""
        y = self.last(self.blocks(self.stem(x)))
        return self.head(torch.mean(y, (2, 3)))


def mobilenet(config: MobileNetConfig) -> MobileNet:
    """Return a network with fresh random weights from torch's global generator."""
    return MobileNet(config)
