"""A small vision transformer, written from the papers: ViT (arXiv 2010.11929) with DeiT's sizes (arXiv 2012.12877).

This module imports torch at once, so it is imported inside functions only.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bitship.errors import UnsupportedError


@dataclass(frozen=True)
class VitConfig:
    """Sizes of a vision transformer for square images of three channels.

    image      pixels of one side
    patch      pixels of a patch's side; it divides ``image``
    dim        width of a token; ``heads`` divides it
    mlp_ratio  width of the hidden layer of each MLP, in units of ``dim``
    """

    image: int = 32
    patch: int = 4
    dim: int = 64
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    classes: int = 10

    def __post_init__(self) -> None:
        for name in ("image", "patch", "dim", "depth", "heads", "mlp_ratio", "classes"):
            if getattr(self, name) < 1:
                raise UnsupportedError(f"vision transformer: {name} {getattr(self, name)}; 1 or more is needed")
        if self.image % self.patch or self.dim % self.heads:
            raise UnsupportedError(
                f"vision transformer: image {self.image} of patches {self.patch}, dim {self.dim} of {self.heads} "
                "heads; the second must divide the first"
            )

    @property
    def tokens(self) -> int:
        """Tokens of one image: its patches and the class token."""
        return (self.image // self.patch) ** 2 + 1


class Attention(nn.Module):  # type: ignore[misc]
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Any) -> Any:
        """x, result  [N, tokens, dim]."""
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, dim))


class Mlp(nn.Module):  # type: ignore[misc]
    """Two linear layers with an exact (error-function) GELU between them."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.mlp_ratio * config.dim)
        self.fc2 = nn.Linear(config.mlp_ratio * config.dim, config.dim)

    def forward(self, x: Any) -> Any:
        """x, result  [N, tokens, dim]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):  # type: ignore[misc]
    """One pre-norm encoder block: attention and MLP, each beside a residual."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim)
        self.mlp = Mlp(config)

    def forward(self, x: Any) -> Any:
        """x, result  [N, tokens, dim]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):  # type: ignore[misc]
    """Images [N, 3, image, image] float32, normalised, to logits [N, classes]."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(3, config.dim, config.patch, config.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.classes)
        self._initialise()

    def _initialise(self) -> None:
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Any) -> Any:
        """x  [N, 3, image, image]; result [N, classes]."""
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), patches), 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def vit(config: VitConfig) -> VisionTransformer:
    """Return a vision transformer with fresh random weights from torch's global generator."""
    return VisionTransformer(config)
