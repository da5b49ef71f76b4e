"""One decoding step of a language backbone as an integer graph: token and states in, next token, logits and states out.

Inputs, in order: ``token`` int32 [1] and the states; outputs: ``next`` int32 [1], ``logits`` int32 [1, vocabulary] and
the states, one for every state among the inputs, in their order. States:

position      int32 [1], tokens seen
mask          int16 [1, 1, window], 0 where the memory holds a token and -256 where it does not yet
*.state       int16 [kernel - 1, dim], what a short convolution remembers: of fixed size
*.keys        int8 [kv_heads, head_dim, window], normalised and rotated keys, the present token's last
*.values      int8 [kv_heads, window, head_dim]

A state has one scale, that of the tensor it remembers: it is moved, never requantized. Weights are int8 or packed in
four bits, activations 16 bits wherever the accumulator's proof leaves room. Everything is written with the importers'
integerize step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from bitship.errors import UnsupportedError
from bitship.graph import DType, Graph, GraphBuilder, Port, Quant, verify
from bitship.graph.base import Array
from bitship.graph.ops import (
    Add,
    ArgMax,
    Clamp,
    Concat,
    FullyConnected,
    Gather,
    MatMul,
    Mul,
    Reshape,
    Slice,
    SoftmaxMatMul,
    Sub,
)
from bitship.importers import functions, norms
from bitship.importers.attention import masked_by
from bitship.importers.integerize import Integerizer, QParams, QuantizedTensor
from bitship.models.npu.config import BackboneConfig, LayerKind
from bitship.quantization.planned import quantize_weights

_ROTARY_BITS = 14
_HEADROOM = 1.25  # how much further than calibration's largest a scale reaches
MASKED = -256
Tensors = tuple[QuantizedTensor, ...]


@dataclass(frozen=True)
class StepRecipe:
    """How a step is quantized.

    weight_bits   8 or 4 for the layers; the embedding, which is the head too, has 8
    weight_group  inputs that share a multiplier at 4 bits; 0: none do
    positions     tokens that one sequence may have, at most: rows of the rotary tables
    """

    weight_bits: int = 8
    weight_group: int = 0
    positions: int = 1024


class _Step:
    """Writes one graph. ``ends``: the largest magnitude of every tensor by name, as ``backbone.largest`` finds it."""

    def __init__(self, module: Any, ends: Mapping[str, float], recipe: StepRecipe, name: str) -> None:
        self.config: BackboneConfig = module.config
        self.module, self.ends, self.recipe = module, ends, recipe
        self.b = GraphBuilder(name)
        self.g = Integerizer(self.b)
        self.after: list[str] = []

    def q(self, name: str, bits: int = 16) -> QParams:
        """Return the symmetric parameters of a tensor."""
        if name not in self.ends:
            raise UnsupportedError(f"decoding step: no range of '{name}'; calibrate with the backbone it is made from")
        return QParams(max(self.ends[name] * _HEADROOM, 2.0**-20) / ((1 << (bits - 1)) - 1), 0, bits)

    def tensor(self, name: str, q: QParams) -> QuantizedTensor:
        """Return a node's output as a tensor of these parameters."""
        return QuantizedTensor(name, self.b.types[name].shape, q)

    def values(self, parameter: Any) -> Array:
        """Return a torch parameter as float64."""
        return np.asarray(parameter.detach().double().numpy())

    def linear(self, name: str, x: QuantizedTensor, parameter: Any, out: QParams) -> QuantizedTensor:
        """Return x times a weight matrix, x in as many bits as int32 sums allow."""
        w = quantize_weights(self.values(parameter), self.recipe.weight_bits, self.recipe.weight_group)
        bits, most = x.q.bits, int(np.abs(w.values.astype(np.int64)).sum(1).max())
        while bits > 9 and most << (bits - 1) >= 1 << 30:
            bits -= 1
        if bits < x.q.bits:
            x = self.g.requantize(f"{name}.narrow", x, QParams(x.q.scale * 2 ** (x.q.bits - bits), 0, bits))
        return self.g.linear(name, x, w, None, out)

    def norm(self, name: str, x: QuantizedTensor, gain: Any) -> QuantizedTensor:
        """RMS norm over the last axis."""
        return norms.rms_norm(self.g, name, x, 1, self.values(gain), self.config.epsilon, self.q(name))

    def cut(self, name: str, x: QuantizedTensor, axis: int, start: int, size: int) -> QuantizedTensor:
        """Return a part of x along one axis."""
        begin = tuple(start if i == axis else 0 for i in range(len(x.shape)))
        extent = tuple(size if i == axis else n for i, n in enumerate(x.shape))
        return self.tensor(self.b.node(name, Slice(begin, extent), x.name), x.q)

    def reshaped(self, name: str, x: QuantizedTensor, shape: tuple[int, ...]) -> QuantizedTensor:
        """Return x under another shape."""
        return self.tensor(self.b.node(name, Reshape(shape), x.name), x.q)

    def remember(self, name: str, state: QuantizedTensor, new: QuantizedTensor, axis: int) -> QuantizedTensor:
        """Return a memory without its oldest entry and with a new one last: the state after this step is that."""
        count = state.shape[axis]
        kept = self.cut(f"{name}.kept", state, axis, 1, count - 1) if count > 1 else None
        joined = new.name
        if kept is not None:
            joined = self.b.node(f"{name}.next", Concat(axis), kept.name, new.name)
        self.after.append(joined)
        return self.tensor(joined, state.q)

    # -- the parts of a step

    def short_conv(self, at: str, x: QuantizedTensor, part: Any, state: QuantizedTensor) -> QuantizedTensor:
        """Gate, weigh with the tokens before, gate again: taps are products and sums of rows."""
        d, kernel = self.config.dim, self.config.kernel
        inner = self.linear(f"{at}.inner", x, part.inner.weight, self.q(f"{at}.inner"))
        b, c, y = (self.cut(f"{at}.inner.{n}", inner, 1, i * d, d) for i, n in enumerate("bcx"))
        gated = self.g.mul(f"{at}.state.new", b, y, state.q)
        taps, mixed = self.values(part.taps), self.q(f"{at}.mixed")
        scale = max(float(np.abs(taps).max()), 2.0**-20) / 127
        codes = np.clip(np.rint(taps / scale), -127, 127).astype(np.int8)
        window = self.b.node(f"{at}.window", Concat(0), state.name, gated.name)
        self.after.append(self.b.node(f"{at}.state.next", Slice((1, 0), (kernel - 1, d)), window))
        products = self.b.node(f"{at}.taps", Mul(), window, self.b.constant(f"{at}.taps.weight", codes.T.copy()))
        factor = Fraction(state.q.scale) * Fraction(scale) / Fraction(mixed.scale)
        rows = [self.b.node(f"{at}.tap{i}", Slice((i, 0), (1, d)), products) for i in range(kernel)]
        total = rows[0]
        for i, row in enumerate(rows[1:], 1):
            requant = self.g.epilogue([factor], mixed) if i == kernel - 1 else None
            total = self.b.node(f"{at}.mixed{i}", Add(None, None, requant), total, row)
        gate = self.g.mul(f"{at}.gated", c, self.tensor(total, mixed), self.q(f"{at}.gated"))
        return self.linear(f"{at}.out", gate, part.out.weight, self.q(f"{at}.out"))

    def rotated(self, at: str, x: QuantizedTensor, gain: Any, turn: tuple[str, str], out: QParams) -> QuantizedTensor:
        """Normalise [1, heads * head_dim] by head and rotate it: [heads, head_dim]."""
        half = self.config.head_dim // 2
        heads = self.reshaped(f"{at}.heads", x, (x.shape[1] // (2 * half), 2 * half))
        y = self.norm(f"{at}.norm", heads, gain)
        a, b = (self.cut(f"{at}.{n}", y, 1, i * half, half) for i, n in enumerate(("first", "second")))
        cos, sin = turn
        requant = self.g.epilogue([Fraction(y.q.scale) / (1 << _ROTARY_BITS) / Fraction(out.scale)], out)
        ac, bs, bc, as_ = (
            self.b.node(f"{at}.{n}", Mul(), p.name, t)
            for n, p, t in (("ac", a, cos), ("bs", b, sin), ("bc", b, cos), ("as", a, sin))
        )
        one = self.b.node(f"{at}.turned.first", Sub(None, None, requant), ac, bs)
        two = self.b.node(f"{at}.turned.second", Add(None, None, requant), bc, as_)
        return self.tensor(self.b.node(at, Concat(1), one, two), out)

    def attention(
        self, at: str, x: QuantizedTensor, part: Any, memory: Tensors, turn: tuple[str, str], mask: str
    ) -> QuantizedTensor:
        """Grouped-query attention of one token over the memory and itself."""
        config = self.config
        size, kv, each = config.head_dim, config.kv_heads, config.heads // config.kv_heads
        keys, values = memory
        raw = self.linear(f"{at}.query.raw", x, part.query.weight, self.q(f"{at}.query.raw"))
        q = self.rotated(f"{at}.query", raw, part.query_gain, turn, self.q(f"{at}.query"))
        raw = self.linear(f"{at}.key.raw", x, part.key.weight, self.q(f"{at}.key.raw"))
        k = self.rotated(f"{at}.key", raw, part.key_gain, turn, keys.q)
        v = self.linear(f"{at}.value", x, part.value.weight, values.q)
        all_keys = self.remember(f"{at}.keys", keys, self.reshaped(f"{at}.keys.new", k, (kv, size, 1)), 2)
        all_values = self.remember(f"{at}.values", values, self.reshaped(f"{at}.values.new", v, (kv, 1, size)), 1)
        logits = self.q(f"{at}.logits", 8)
        root = Fraction(float(size) ** -0.5)
        factor = root * Fraction(q.q.scale) * Fraction(keys.q.scale) / Fraction(logits.scale)
        queries = self.reshaped(f"{at}.queries", q, (kv, each, size))
        product = MatMul(0, 0, self.g.epilogue([factor], logits))
        scores = self.b.node(f"{at}.scores", product, queries.name, all_keys.name)
        seen = masked_by(self.b, f"{at}.masked", scores, mask)
        out = self.q(f"{at}.attended")
        requant = self.g.epilogue([Fraction(values.q.scale) / Fraction(out.scale)], out)
        table = self.b.constant(f"{at}.exp", functions.exp_table(logits.scale, 255, "uint8"))
        mixed = self.b.node(f"{at}.attended", SoftmaxMatMul(requant, 0, True), seen, all_values.name, table)
        flat = self.reshaped(f"{at}.attended.row", self.tensor(mixed, out), (1, config.dim))
        return self.linear(f"{at}.out", flat, part.out.weight, self.q(f"{at}.out"))

    def mlp(self, at: str, x: QuantizedTensor, part: Any) -> QuantizedTensor:
        """SwiGLU."""
        gate = self.linear(f"{at}.gate", x, part.gate.weight, self.q(f"{at}.gate"))
        up = self.linear(f"{at}.up", x, part.up.weight, self.q(f"{at}.up"))
        active = self.g.unary(f"{at}.active", gate, functions.silu, self.q(f"{at}.active"))
        product = self.g.mul(f"{at}.product", active, up, self.q(f"{at}.product"))
        return self.linear(f"{at}.out", product, part.down.weight, self.q(f"{at}.out"))

    # -- the whole

    def states(self) -> list[Tensors]:
        """Declare the states of every layer."""
        c = self.config
        found: list[Tensors] = []
        for i, kind in enumerate(c.kinds):
            at = f"layers.{i}.operator"
            if kind is LayerKind.CONV:
                found.append((self.g.input(f"{at}.state", (c.kernel - 1, c.dim), self.q(f"{at}.state")),))
            else:
                keys = self.g.input(f"{at}.keys", (c.kv_heads, c.head_dim, c.window), self.q(f"{at}.key", 8))
                values = self.g.input(f"{at}.values", (c.kv_heads, c.window, c.head_dim), self.q(f"{at}.value", 8))
                found.append((keys, values))
        return found

    def turn(self, position: str) -> tuple[str, str]:
        """Return this position's cosines and sines, int16 [1, head_dim / 2] of scale 2^-14."""
        from bitship.models.npu.backbone import rotary

        tables = []
        for what, table in zip(("cos", "sin"), rotary(self.config, self.recipe.positions), strict=True):
            codes = np.rint(table.numpy() * (1 << _ROTARY_BITS)).astype(np.int16)
            tables.append(self.b.node(what, Gather(0), self.b.constant(f"{what}.table", codes), position))
        return tables[0], tables[1]

    def write(self) -> Graph:
        """Return the graph."""
        c, b = self.config, self.b
        token = b.input("token", (1,), DType.INT32)
        position = b.input("position", (1,), DType.INT32)
        mask = b.input("mask", (1, 1, c.window), DType.INT16)
        states = self.states()
        here = b.node("position.here", Clamp(0, self.recipe.positions - 1), position)
        self.after.append(b.node("position.next", Add(), here, b.constant("one", np.ones(1, np.int32))))
        seen = b.constant("mask.new", np.zeros((1, 1, 1), np.int16))
        mask = self.remember("mask", self.tensor(mask, QParams(1.0, 0, 16)), self.tensor(seen, QParams(1.0, 0)), 2).name
        turn = self.turn(here)
        embedding = self.values(self.module.embedding)
        scale = float(np.abs(embedding).max()) / 127
        codes = b.constant("embedding", np.clip(np.rint(embedding / scale), -127, 127).astype(np.int8))
        x = self.tensor(b.node("embedded", Gather(0), codes, token), QParams(scale, 0))
        for i, (kind, layer, memory) in enumerate(zip(c.kinds, self.module.layers, states, strict=True)):
            at = f"layers.{i}.operator"
            y = self.norm(f"{at}.norm", x, layer.before)
            if kind is LayerKind.CONV:
                y = self.short_conv(at, y, layer.operator, memory[0])
            else:
                y = self.attention(at, y, layer.operator, memory, turn, mask)
            x = self.g.add(f"{at}.sum", x, y, self.q(f"{at}.sum"))
            at = f"layers.{i}.mlp"
            y = self.mlp(at, self.norm(f"{at}.norm", x, layer.between), layer.mlp)
            x = self.g.add(f"{at}.sum", x, y, self.q(f"{at}.sum"))
        return self._head(self.norm("last", x, self.module.last), codes, scale)

    def _head(self, x: QuantizedTensor, codes: str, scale: float) -> Graph:
        """Write the logits by the embedding, as int32, and finish."""
        bits, most = 16, int(np.abs(self.b.constants[codes].astype(np.int64)).sum(1).max())
        while most << (bits - 1) >= 1 << 31:
            bits -= 1
        if bits < 16:
            x = self.g.requantize("last.narrow", x, QParams(x.q.scale * 2 ** (16 - bits), 0, bits))
        bias = self.b.constant("head.bias", np.zeros(self.config.vocabulary, np.int32))
        logits = self.b.node("logits", FullyConnected(), x.name, codes, bias)
        following = self.b.node("next", ArgMax(1), logits)
        found = self.b.finish([(following, None), (logits, None), *((name, None) for name in self.after)])
        first, second, *rest = found.outputs
        outputs = (
            first,
            Port("logits", second.type, Quant(x.q.scale * scale)),
            *(Port(p.name, p.type, a.quant) for p, a in zip(rest, found.inputs[1:], strict=True)),
        )
        return replace(found, outputs=outputs)


def step_graph(module: Any, ends: Mapping[str, float], recipe: StepRecipe | None = None, name: str = "decode") -> Graph:
    """Return the verified graph of one decoding step of a ``backbone.Backbone``.

    ends  the largest magnitude of every tensor by name (``backbone.largest`` on prompts): what scales come from
    """
    graph = _Step(module, ends, recipe or StepRecipe(), name).write()
    verify(graph)
    return graph
