"""Swin in I-ViT's released format."""

from math import isqrt

import numpy as np

from bitship.errors import FormatError
from bitship.graph import Graph, Quant, verify
from bitship.graph.base import Array
from bitship.importers import attention, shapes
from bitship.importers.integerize import QuantizedTensor
from bitship.importers.ivit.state import Layers, State
from bitship.importers.ivit.vit import root_factor, split


def relative_index(window: int) -> Array:
    """Return [N, N] rows of the bias table for N = window^2 tokens: the offset between two of them."""
    at = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    offset = at[:, :, None] - at[:, None, :] + window - 1
    return np.asarray(offset[0] * (2 * window - 1) + offset[1])


def shift_mask(side: int, window: int, shift: int) -> Array:
    """Return bool [windows, N, N]: true between tokens that a cyclic shift brought together."""
    region = np.zeros((side, side), np.int64)
    cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            region[rows, columns] = 3 * i + j
    n = side // window
    parts = region.reshape(n, window, n, window).transpose(0, 2, 1, 3).reshape(n * n, window * window)
    return np.asarray(parts[:, None, :] != parts[:, :, None])


class Stage:
    """One resolution: its modules' name, side in tokens, window and heads."""

    def __init__(self, w: Layers, module: str, side: int) -> None:
        table = w.state.array(f"{module}.blocks.0.attn.relative_position_bias_table", None, None)
        self.w, self.module, self.side = w, module, side
        self.heads = int(table.shape[1])
        self.window = (isqrt(int(table.shape[0])) + 1) // 2
        if (2 * self.window - 1) ** 2 != table.shape[0] or side % self.window:
            raise FormatError(
                f"{w.state.source}: {module}: a bias table of {table.shape[0]} rows gives windows of {self.window}, "
                f"which must divide {side} tokens; is the image size right?"
            )

    def block(self, i: int, x: QuantizedTensor) -> QuantizedTensor:
        """One block on the residual stream [1, side^2, C]."""
        w, module = self.w, f"{self.module}.blocks.{i}"
        s, side, window = w.state, self.side, self.window
        channels = x.shape[2]
        shift = window // 2 if i % 2 and side > window else 0
        y = w.norm(f"{module}.norm1", x, s.scale(f"{module}.qact1"))
        y = shapes.reshape(w.g, module, y, (1, side, side, channels))
        for axis in (1, 2) if shift else ():
            y = shapes.roll(w.g, f"{module}.shift", y, axis, -shift)
        y = self.attend(f"{module}.attn", self.windows(module, y), shift)
        y = self.whole(module, y)
        for axis in (1, 2) if shift else ():
            y = shapes.roll(w.g, f"{module}.unshift", y, axis, shift)
        y = shapes.reshape(w.g, module, y, (1, side * side, channels))
        x = w.residual(f"{module}.qact2", y, x, s.scale(f"{module}.qact2", 16))
        y = w.norm(f"{module}.norm2", x, s.scale(f"{module}.qact3"))
        return w.residual(f"{module}.qact4", w.mlp(f"{module}.mlp", y), x, s.scale(f"{module}.qact4", 16))

    def windows(self, name: str, x: QuantizedTensor) -> QuantizedTensor:
        """[1, side, side, C] to [windows, N, C]."""
        n, size, channels = self.side // self.window, self.window, x.shape[3]
        y = shapes.reshape(self.w.g, name, x, (n, size, n, size, channels))
        y = shapes.permute(self.w.g, f"{name}.windows", y, (0, 2, 1, 3, 4))
        return shapes.reshape(self.w.g, name, y, (n * n, size * size, channels))

    def whole(self, name: str, x: QuantizedTensor) -> QuantizedTensor:
        """The way back."""
        n, size, channels = self.side // self.window, self.window, x.shape[2]
        y = shapes.reshape(self.w.g, name, x, (n, n, size, size, channels))
        y = shapes.permute(self.w.g, f"{name}.whole", y, (0, 2, 1, 3, 4))
        return shapes.reshape(self.w.g, name, y, (1, self.side, self.side, channels))

    def attend(self, module: str, x: QuantizedTensor, shift: int) -> QuantizedTensor:
        """Attention within windows, with the relative position bias and the mask of a shift."""
        w, s = self.w, self.w.state
        b, n, channels = x.shape
        qkv = w.linear(f"{module}.qkv", x, s.scale(f"{module}.qact1"))
        q, k, v = split(w, module, qkv, self.heads)
        turned = shapes.permute(w.g, f"{module}.k", k, (0, 1, 3, 2))
        logits = w.g.matmul(
            f"{module}.matmul_1", q, turned, s.scale(f"{module}.qact_attn1"), root_factor(channels // self.heads)
        )
        logits = w.residual(f"{module}.qact2", logits, self.bias(module), s.scale(f"{module}.qact2"))
        if shift:
            logits = attention.masked(w.g, module, logits, shift_mask(self.side, self.window, shift)[:, None])
        p = attention.shiftmax(w.g, attention.Probabilities(f"{module}.log_int_softmax", logits, bool(shift)))
        y = w.g.matmul(f"{module}.matmul_2", p, v, s.scale(f"{module}.qact3"))
        y = shapes.permute(w.g, f"{module}.merge", y, (0, 2, 1, 3))
        y = shapes.reshape(w.g, f"{module}.merge", y, (b, n, channels))
        return w.linear(f"{module}.proj", y, s.scale(f"{module}.qact4", 16))

    def bias(self, module: str) -> QuantizedTensor:
        """The relative position bias [1, heads, N, N] at its table's scale."""
        q = self.w.state.scale(f"{module}.qact_table")
        rows = (2 * self.window - 1) ** 2
        table = self.w.state.array(f"{module}.relative_position_bias_table", rows, self.heads)
        values = table[relative_index(self.window)].transpose(2, 0, 1)[None]
        integers = np.clip(np.rint(values / q.scale), *q.ends).astype(np.int8)
        return QuantizedTensor(self.w.builder.constant(f"{module}.bias", integers), values.shape, q)

    def merge(self, x: QuantizedTensor) -> QuantizedTensor:
        """Patch merging: 2 x 2 neighbours become one token of twice the channels, 8 bits."""
        w, module, half = self.w, f"{self.module}.downsample", self.side // 2
        channels = x.shape[2]
        y = shapes.reshape(w.g, module, x, (half, 2, half, 2, channels))
        y = shapes.permute(w.g, f"{module}.neighbours", y, (0, 2, 3, 1, 4))  # columns of neighbours outermost
        y = shapes.reshape(w.g, module, y, (1, half * half, 4 * channels))
        y = w.norm(f"{module}.norm", y, w.state.scale(f"{module}.qact1"))
        return w.linear(f"{module}.reduction", y, w.state.scale(f"{module}.qact2"))


def load(state: State, name: str, image: int) -> Graph:
    """Return the verified graph of a Swin; int8 image [1, H, W, 3] in, int32 logits [1, classes] out."""
    w = Layers(state, name)
    weight = state.array("patch_embed.proj.weight", None, None, None, None)
    x = w.g.input("image", (1, int(weight.shape[1]), image, image), state.scale("qact_input"))
    if state.has("patch_embed.norm.weight"):
        x = w.patches("patch_embed.proj", x, state.scale("patch_embed.qact_before_norm"))
        x = w.norm("patch_embed.norm", x, state.scale("patch_embed.qact", 16))
    else:
        x = w.patches("patch_embed.proj", x, state.scale("patch_embed.qact", 16))
    if state.has("absolute_pos_embed"):
        position = w.constant("absolute_pos_embed", state.scale("qact_pos", 16))
        x = w.residual("embedded", x, position, state.scale("qact1", 16))
    else:
        x = w.g.requantize("embedded", x, state.scale("qact1", 16))
    side = image // int(weight.shape[2])
    for layer in range(state.count("layers")):
        stage = Stage(w, f"layers.{layer}", side)
        for i in range(state.count(f"layers.{layer}.blocks")):
            x = stage.block(i, x)
        if state.has(f"layers.{layer}.downsample.norm.weight"):
            x, side = stage.merge(x), side // 2
    y = w.norm("norm", x, state.scale("qact2"))
    y = shapes.mean(w.g, "avgpool", y, (1,), True, state.scale("qact3"))
    logits, q = w.head(y)
    graph = w.builder.finish([(logits, Quant(q.scale, 0))])
    verify(graph)
    return graph
