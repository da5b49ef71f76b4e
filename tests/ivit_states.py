"""Checkpoints in I-ViT's format of tiny random networks, and the float networks they stand for.

The forward pass below is the plain float transformer; ``seen`` gives every QuantAct of the release its range.
"""

import math
from typing import Any

import numpy as np

from bitship.graph.base import Array

State = dict[str, Array]
ERF = np.vectorize(math.erf)


class Net:
    """Random parameters by name, and the scale of every QuantAct from the largest magnitude it sees."""

    def __init__(self, seed: int) -> None:
        self.r = np.random.default_rng(seed)
        self.state: State = {}

    def parameter(self, name: str, *shape: int, spread: float = 1.0, centre: float = 0.0) -> Array:
        if name not in self.state:
            self.state[name] = (centre + spread * self.r.standard_normal(shape)).astype(np.float32)
        return np.asarray(self.state[name].astype(np.float64))

    def seen(self, name: str, x: Array, bits: int = 8) -> Array:
        """What QuantAct saves of a tensor; the tensor stays float."""
        scale = np.abs(x).max() / ((1 << (bits - 1)) - 1)
        known = self.state.get(f"{name}.act_scaling_factor", np.zeros(1, np.float32))
        self.state[f"{name}.act_scaling_factor"] = np.maximum(known, np.float32(scale)).reshape(1)
        return x

    def linear(self, name: str, x: Array, out: int, bias: bool = True) -> Array:
        y = x @ self.parameter(f"{name}.weight", out, x.shape[-1], spread=1.2 / x.shape[-1] ** 0.5).T
        return np.asarray(y + self.parameter(f"{name}.bias", out, spread=0.1) if bias else y)

    def norm(self, name: str, x: Array) -> Array:
        c = x.shape[-1]
        centred = x - x.mean(-1, keepdims=True)
        y = centred / np.sqrt((centred**2).mean(-1, keepdims=True))
        gain = self.parameter(f"{name}.weight", c, spread=0.2, centre=1)
        return np.asarray(y * gain + self.parameter(f"{name}.bias", c, spread=0.1))

    def patches(self, name: str, image: Array, size: int, width: int) -> Array:
        c, side, _ = image.shape
        n = side // size
        weight = self.parameter(f"{name}.weight", width, c, size, size, spread=1.2 / (c * size * size) ** 0.5)
        parts = image.reshape(c, n, size, n, size).transpose(1, 3, 0, 2, 4).reshape(n * n, -1)
        return np.asarray(parts @ weight.reshape(width, -1).T + self.parameter(f"{name}.bias", width, spread=0.1))

    def mlp(self, name: str, x: Array, ratio: int = 2) -> Array:
        y = self.seen(f"{name}.qact_gelu", self.linear(f"{name}.fc1", x, x.shape[-1] * ratio))
        y = self.seen(f"{name}.qact1", y * (1 + ERF(y / 2**0.5)) / 2)
        return self.seen(f"{name}.qact2", self.linear(f"{name}.fc2", y, x.shape[-1]), 16)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def heads_of(x: Array, heads: int) -> Any:
    *lead, n, width = x.shape
    return np.moveaxis(x.reshape(*lead, n, 3, heads, width // 3 // heads), (-3, -2), (0, -3))


def vit(net: Net, image: Array, width: int = 32, heads: int = 2, depth: int = 2, patch: int = 4) -> Array:
    """Float logits of one image [3, S, S]; the network is made on the first call."""
    net.seen("qact_input", image)
    x = net.seen("patch_embed.qact", net.patches("patch_embed.proj", image, patch, width), 16)
    x = np.concatenate([net.parameter("cls_token", 1, 1, width)[0], x])
    x = x + net.seen("qact_pos", net.parameter("pos_embed", 1, len(x), width, spread=0.5), 16)[0]
    net.seen("qact1", x, 16)
    for i in range(depth):
        b = f"blocks.{i}"
        y = net.seen(f"{b}.qact1", net.norm(f"{b}.norm1", x))
        q, k, v = heads_of(net.seen(f"{b}.attn.qact1", net.linear(f"{b}.attn.qkv", y, 3 * width)), heads)
        logits = net.seen(f"{b}.attn.qact_attn1", q @ k.swapaxes(-1, -2) * (width // heads) ** -0.5)
        y = np.moveaxis(softmax(logits) @ v, -3, -2).reshape(len(x), width)
        y = net.linear(f"{b}.attn.proj", net.seen(f"{b}.attn.qact2", y), width)
        x = net.seen(f"{b}.qact2", x + net.seen(f"{b}.attn.qact3", y, 16), 16)
        y = net.seen(f"{b}.qact3", net.norm(f"{b}.norm2", x))
        x = net.seen(f"{b}.qact4", x + net.mlp(f"{b}.mlp", y), 16)
    y = net.seen("qact2", net.norm("norm", x)[0])
    return net.linear("head", y, 10)


def window_rows(side: int, window: int, shift: int) -> Array:
    """[windows, N] indices of tokens, after a cyclic shift."""
    at = np.roll(np.arange(side * side).reshape(side, side), (-shift, -shift), (0, 1))
    n = side // window
    return at.reshape(n, window, n, window).transpose(0, 2, 1, 3).reshape(n * n, window * window)


def apart(side: int, window: int, shift: int) -> Array:
    """[windows, N, N]: whether two tokens of a shifted window are not neighbours in the image."""
    rows = window_rows(side, window, shift)
    y, x = rows // side, rows % side
    far = [np.abs(a[:, :, None] - a[:, None, :]) >= window for a in (y, x)]
    return np.asarray(far[0] | far[1])


def swin(net: Net, image: Array, width: int = 16, window: int = 2, depths: tuple[int, ...] = (2, 2)) -> Array:
    """Float logits of one image [3, S, S] by a Swin of patches 2 and two stages."""
    net.seen("qact_input", image)
    side = image.shape[1] // 2
    x = net.seen("patch_embed.qact_before_norm", net.patches("patch_embed.proj", image, 2, width))
    x = net.seen("patch_embed.qact", net.norm("patch_embed.norm", x), 16)
    net.seen("qact1", x, 16)
    for layer, depth in enumerate(depths):
        heads = 2 << layer
        for i in range(depth):
            x = swin_block(net, f"layers.{layer}.blocks.{i}", x, side, window, i, heads)
        if layer + 1 < len(depths):
            b, grid = f"layers.{layer}.downsample", x.reshape(side, side, -1)
            parts = [grid[r::2, c::2] for c in (0, 1) for r in (0, 1)]
            y = net.norm(f"{b}.norm", np.concatenate(parts, -1).reshape(side * side // 4, -1))
            y = net.linear(f"{b}.reduction", net.seen(f"{b}.qact1", y), 2 * x.shape[-1], bias=False)
            x, side = net.seen(f"{b}.qact2", y), side // 2
    y = net.seen("qact2", net.norm("norm", x)).mean(0)
    return net.linear("head", net.seen("qact3", y), 10)


def swin_block(net: Net, b: str, x: Array, side: int, window: int, i: int, heads: int) -> Array:
    width = x.shape[-1]
    shift = window // 2 if i % 2 and side > window else 0
    rows = window_rows(side, window, shift)
    y = net.seen(f"{b}.qact1", net.norm(f"{b}.norm1", x))[rows]
    q, k, v = heads_of(net.seen(f"{b}.attn.qact1", net.linear(f"{b}.attn.qkv", y, 3 * width)), heads)
    logits = net.seen(f"{b}.attn.qact_attn1", q @ k.swapaxes(-1, -2) * (width // heads) ** -0.5)
    name = f"{b}.attn.relative_position_bias_table"
    table = net.seen(f"{b}.attn.qact_table", net.parameter(name, (2 * window - 1) ** 2, heads, spread=0.5))
    y0, x0 = np.divmod(np.arange(window * window), window)
    index = (y0[:, None] - y0 + window - 1) * (2 * window - 1) + x0[:, None] - x0 + window - 1
    logits = net.seen(f"{b}.attn.qact2", logits + table[index].transpose(2, 0, 1))
    if shift:
        logits = logits - 100 * apart(side, window, shift)[:, None]
    y = np.moveaxis(softmax(logits) @ v, -3, -2).reshape(len(rows), -1, width)
    y = net.seen(f"{b}.attn.qact4", net.linear(f"{b}.attn.proj", net.seen(f"{b}.attn.qact3", y), width), 16)
    back = np.empty_like(x)
    back[rows.reshape(-1)] = y.reshape(-1, width)
    x = net.seen(f"{b}.qact2", x + back, 16)
    y = net.seen(f"{b}.qact3", net.norm(f"{b}.norm2", x))
    return net.seen(f"{b}.qact4", x + net.mlp(f"{b}.mlp", y), 16)
