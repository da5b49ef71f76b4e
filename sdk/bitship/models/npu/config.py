"""Sizes of the NPU models: plain data, no torch."""

import enum
from dataclasses import dataclass

from bitship.errors import UnsupportedError


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the vision encoder for square images of three channels.

    image      pixels of one side, a multiple of 4
    stem       channels of the first convolution, which halves the image
    fine       (channels, blocks) of the stage at half the image's side
    coarse     (channels, blocks) of the stage at a quarter of it, which attention blocks follow
    attention  multi-query attention blocks
    heads      query heads; ``head_dim`` channels each, one key and value for all
    expand     width inside an inverted residual in units of its input's channels
    tokens     width of a visual token, the encoder's output; one token for every 4x4 pixels
    """

    image: int = 32
    stem: int = 16
    fine: tuple[int, int] = (24, 2)
    coarse: tuple[int, int] = (72, 4)
    attention: int = 2
    heads: int = 4
    head_dim: int = 16
    expand: int = 4
    tokens: int = 64
    classes: int = 10

    def __post_init__(self) -> None:
        sizes = (self.image, self.stem, *self.fine, *self.coarse, self.heads, self.head_dim, self.expand, self.tokens)
        if min(sizes) < 1 or self.attention < 0 or self.image % 4:
            raise UnsupportedError(f"vision encoder: sizes {sizes}, image {self.image}: positive, image by 4 is needed")


class LayerKind(enum.Enum):
    """CONV: gated short convolution. ATTENTION: grouped-query attention."""

    CONV = "c"
    ATTENTION = "A"


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of the language backbone.

    layers   kinds in order, as a string of ``c`` and ``A``
    window   tokens that an attention layer remembers; older ones fall out
    kernel   taps of the causal depthwise convolution
    theta    base of the rotary embedding
    """

    vocabulary: int = 4096
    dim: int = 256
    layers: str = "ccAccA"
    hidden: int = 768
    heads: int = 8
    kv_heads: int = 2
    kernel: int = 3
    window: int = 256
    theta: float = 1e6
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.dim, self.hidden, self.heads, self.kv_heads, self.kernel, self.window)
        if min(sizes) < 1 or self.kernel < 2:
            raise UnsupportedError(f"language backbone: sizes {sizes}: positive, and a kernel of 2 or more")
        if self.dim % self.heads or self.heads % self.kv_heads or self.dim // self.heads % 2:
            raise UnsupportedError(
                f"language backbone: dim {self.dim} of {self.heads} heads and {self.kv_heads} key heads: each must "
                "divide the one before, and a head be even"
            )
        if not self.layers or set(self.layers) - {kind.value for kind in LayerKind}:
            raise UnsupportedError(f"language backbone: layers '{self.layers}': letters c and A are allowed")

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The layers' kinds in order."""
        return tuple(LayerKind(letter) for letter in self.layers)

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.heads

    @property
    def kv_dim(self) -> int:
        """Channels of all keys of one token."""
        return self.kv_heads * self.head_dim
