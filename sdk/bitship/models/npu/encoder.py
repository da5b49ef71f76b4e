"""A depthwise vision encoder in the style of MobileNetV5, written from the papers.

Inverted residuals (arXiv 1801.04381) with RMS norms (arXiv 1910.07467), multi-query attention in the late stage
(arXiv 1911.02150, as MobileNetV4 has it, arXiv 2404.10518), and a fusion of the last two stages: upsample, concat, one
inverted residual, norm, average pool. This module imports torch at once, so it is imported inside functions only.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bitship.models.npu.config import EncoderConfig

_EPSILON = 1e-6


class RmsNorm2d(nn.Module):  # type: ignore[misc]
    """RMS norm over the channels of every pixel, with a gain by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Any) -> Any:
        """x, result  [N, C, H, W]."""
        y = functional.rms_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, _EPSILON)
        return y.permute(0, 3, 1, 2)


class ConvNorm(nn.Module):  # type: ignore[misc]
    """A convolution without bias, its norm, and a tanh GELU unless told otherwise."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__()
        self.act = act
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = RmsNorm2d(outputs)

    def forward(self, x: Any) -> Any:
        """x  [N, inputs, H, W]; result [N, outputs, H / stride, W / stride]."""
        y = self.norm(self.conv(x))
        return functional.gelu(y, approximate="tanh") if self.act else y


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """1x1 to a wider tensor, 3x3 depthwise, 1x1 back; beside a residual where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.residual = stride == 1 and inputs == outputs
        self.expand = ConvNorm(inputs, wide, 1)
        self.depthwise = ConvNorm(wide, wide, 3, stride, wide)
        self.project = ConvNorm(wide, outputs, 1, act=False)

    def forward(self, x: Any) -> Any:
        """x  [N, inputs, H, W]; result [N, outputs, H / stride, W / stride]."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MultiQueryAttention(nn.Module):  # type: ignore[misc]
    """All heads' queries against one key and value: one attention of ``heads * H * W`` queries, beside a residual."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.norm = RmsNorm2d(channels)
        self.query = nn.Conv2d(channels, heads * head_dim, 1, bias=False)
        self.key = nn.Conv2d(channels, head_dim, 1, bias=False)
        self.value = nn.Conv2d(channels, head_dim, 1, bias=False)
        self.proj = nn.Conv2d(heads * head_dim, channels, 1, bias=False)

    def forward(self, x: Any) -> Any:
        """x, result  [N, channels, H, W]."""
        n, _, h, w = x.shape
        y = self.norm(x)
        q = self.query(y).reshape(n, self.heads, self.head_dim, h * w).transpose(2, 3)
        k, v = (f(y).reshape(n, self.head_dim, h * w).transpose(1, 2) for f in (self.key, self.value))
        mixed = functional.scaled_dot_product_attention(q.reshape(n, self.heads * h * w, self.head_dim), k, v)
        back = mixed.reshape(n, self.heads, h * w, self.head_dim).transpose(2, 3)
        return x + self.proj(back.reshape(n, self.heads * self.head_dim, h, w))


class Fusion(nn.Module):  # type: ignore[misc]
    """The last two stages as one grid of tokens: upsample, concat, inverted residual, norm, average pool."""

    def __init__(self, fine: int, coarse: int, tokens: int, expand: int) -> None:
        super().__init__()
        self.mix = InvertedResidual(fine + coarse, tokens, 1, max(expand // 2, 1))
        self.norm = RmsNorm2d(tokens)

    def forward(self, fine: Any, coarse: Any) -> Any:
        """fine  [N, C, 2H, 2W], coarse [N, D, H, W]; result [N, tokens, H, W]."""
        up = functional.interpolate(coarse, scale_factor=2, mode="nearest")
        return functional.avg_pool2d(self.norm(self.mix(torch.cat((fine, up), 1))), 2)


class DepthwiseEncoder(nn.Module):  # type: ignore[misc]
    """Images [N, 3, image, image], normalised, to visual tokens [N, tokens, image / 4, image / 4]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        (fine, many), (coarse, more) = config.fine, config.coarse
        self.stem = ConvNorm(3, config.stem, 3, 2)
        first = [InvertedResidual(config.stem if i == 0 else fine, fine, 1, config.expand) for i in range(many)]
        second = [
            InvertedResidual(fine if i == 0 else coarse, coarse, 2 if i == 0 else 1, config.expand) for i in range(more)
        ]
        late = [MultiQueryAttention(coarse, config.heads, config.head_dim) for _ in range(config.attention)]
        self.fine = nn.Sequential(*first)
        self.coarse = nn.Sequential(*second, *late)
        self.fusion = Fusion(fine, coarse, config.tokens, config.expand)

    def forward(self, x: Any) -> Any:
        """x  [N, 3, image, image]; result [N, tokens, image / 4, image / 4]."""
        fine = self.fine(self.stem(x))
        return self.fusion(fine, self.coarse(fine))


class EncoderClassifier(nn.Module):  # type: ignore[misc]
    """The encoder with a linear head on the mean token: what trains it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = DepthwiseEncoder(config)
        self.head = nn.Linear(config.tokens, config.classes)

    def forward(self, x: Any) -> Any:
        """x  [N, 3, image, image]; result [N, classes]."""
        return self.head(self.encoder(x).mean((2, 3)))
