"""A hybrid language backbone in the style of LFM2: gated short convolutions with a few attention layers, in torch.

Every layer is an operator and a SwiGLU (arXiv 2002.05202), each behind an RMS norm and beside a residual. The operator
is a gated causal depthwise convolution, ``C * conv(B * x)`` with B, C and x from one projection and no activation, or
grouped-query attention (arXiv 2305.13245) with an RMS norm on every head's query and key and rotary embeddings
(arXiv 2104.09864). The head is the embedding. This module imports torch at once, so it is imported inside functions.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bitship.models.npu.config import BackboneConfig, LayerKind

Record = Callable[[str, Any], None]


def _ignore(name: str, value: Any) -> None:
    """Record nothing."""


def rotary(config: BackboneConfig, positions: int) -> tuple[Any, Any]:
    """Return cosines and sines [positions, head_dim / 2], float64."""
    half = config.head_dim // 2
    rates = config.theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * rates
    return angles.cos(), angles.sin()


class ShortConv(nn.Module):  # type: ignore[misc]
    """``out(C * conv(B * x))`` with a causal depthwise convolution over time."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        d = config.dim
        self.inner = nn.Linear(d, 3 * d, bias=False)
        self.taps = nn.Parameter(torch.empty(d, config.kernel))  # the last one is the present token's
        self.out = nn.Linear(d, d, bias=False)

    def forward(self, x: Any, record: Record) -> Any:
        """x, result  [T, dim]."""
        b, c, y = self.inner(x).chunk(3, -1)
        record("inner", torch.cat((b, c, y), -1))
        gated = b * y
        record("state", gated)
        kernel = self.taps.shape[1]
        padded = functional.pad(gated, (0, 0, kernel - 1, 0))
        mixed = sum(padded[i : i + len(x)] * self.taps[:, i] for i in range(kernel))
        record("mixed", mixed)
        result = c * mixed
        record("gated", result)
        return self.out(result)


class Attention(nn.Module):  # type: ignore[misc]
    """Grouped-query attention over the last ``window`` tokens."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key = nn.Linear(config.dim, config.kv_dim, bias=False)
        self.value = nn.Linear(config.dim, config.kv_dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.query_gain = nn.Parameter(torch.ones(config.head_dim))
        self.key_gain = nn.Parameter(torch.ones(config.head_dim))

    def _heads(self, x: Any, gain: Any, what: str, record: Record) -> Any:
        """Normalise and rotate [T, heads * head_dim]; result [heads, T, head_dim]."""
        record(f"{what}.raw", x)
        size = self.config.head_dim
        y = functional.rms_norm(x.reshape(len(x), -1, size), (size,), gain, self.config.epsilon)
        record(f"{what}.norm", y)
        cos, sin = (t.to(x.dtype)[:, None] for t in rotary(self.config, len(x)))
        a, b = y.chunk(2, -1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1).transpose(0, 1)
        record(what, turned)
        return turned

    def forward(self, x: Any, record: Record) -> Any:
        """x, result  [T, dim]."""
        config, t = self.config, len(x)
        q = self._heads(self.query(x), self.query_gain, "query", record)
        k = self._heads(self.key(x), self.key_gain, "key", record)
        v = self.value(x).reshape(t, config.kv_heads, config.head_dim).transpose(0, 1)
        record("value", v)
        k, v = (s.repeat_interleave(config.heads // config.kv_heads, 0) for s in (k, v))
        logits = q @ k.transpose(1, 2) / config.head_dim**0.5
        record("logits", logits)
        age = torch.arange(t)[:, None] - torch.arange(t)
        seen = (age >= 0) & (age < config.window)
        mixed = (logits.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(0, 1).reshape(t, config.dim)
        record("attended", mixed)
        return self.out(mixed)


class SwiGlu(nn.Module):  # type: ignore[misc]
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.dim, config.hidden, bias=False)
        self.up = nn.Linear(config.dim, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.dim, bias=False)

    def forward(self, x: Any, record: Record) -> Any:
        """x, result  [T, dim]."""
        gate, up = self.gate(x), self.up(x)
        record("gate", gate)
        record("up", up)
        active = functional.silu(gate)
        record("active", active)
        record("product", active * up)
        return self.down(active * up)


class Layer(nn.Module):  # type: ignore[misc]
    """An operator and a SwiGLU, each behind its norm and beside a residual."""

    def __init__(self, config: BackboneConfig, kind: LayerKind) -> None:
        super().__init__()
        self.epsilon = config.epsilon
        self.before = nn.Parameter(torch.ones(config.dim))
        self.operator = ShortConv(config) if kind is LayerKind.CONV else Attention(config)
        self.between = nn.Parameter(torch.ones(config.dim))
        self.mlp = SwiGlu(config)

    def forward(self, x: Any, record: Record) -> Any:
        """x, result  [T, dim]."""
        for name, gain, part in (("operator", self.before, self.operator), ("mlp", self.between, self.mlp)):
            y = functional.rms_norm(x, x.shape[-1:], gain, self.epsilon)
            record(f"{name}.norm", y)
            y = part(y, lambda what, value, name=name: record(f"{name}.{what}", value))
            record(f"{name}.out", y)
            x = x + y
            record(f"{name}.sum", x)
        return x


class Backbone(nn.Module):  # type: ignore[misc]
    """Tokens [T] int64 to logits [T, vocabulary]."""

    def __init__(self, config: BackboneConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocabulary, config.dim))
        self.layers = nn.ModuleList(Layer(config, kind) for kind in config.kinds)
        self.last = nn.Parameter(torch.ones(config.dim))
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """Fill with random weights of a seed: branches weigh more than the embedding, so tokens do not repeat."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in self.named_parameters():
                if value.dim() == 2:
                    scale = 0.3 if name == "embedding" else value.shape[1] ** -0.5
                    value.normal_(0.0, scale, generator=generator)

    def forward(self, tokens: Any, record: Record = _ignore) -> Any:
        """Return logits; ``record`` sees every tensor that the integer step has, by name."""
        x = self.embedding[tokens]
        record("embedding", x)
        for i, layer in enumerate(self.layers):
            x = layer(x, lambda what, value, i=i: record(f"layers.{i}.{what}", value))
        y = functional.rms_norm(x, x.shape[-1:], self.last, self.config.epsilon)
        record("last", y)
        return y @ self.embedding.T


def largest(module: Backbone, prompts: list[Any]) -> dict[str, float]:
    """Return the largest magnitude of every recorded tensor over prompts [T] int64: what scales come from."""
    found: dict[str, float] = {}

    def record(name: str, value: Any) -> None:
        found[name] = max(found.get(name, 0.0), float(value.abs().max()))

    with torch.no_grad():
        for prompt in prompts:
            module(prompt, record)
    return found
