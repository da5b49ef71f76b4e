"""Write a captured module by a plan: ranges become scales, every op's result becomes integers at once."""

from typing import Any

import numpy as np

from bitship.errors import QuantizationError
from bitship.graph.base import Array
from bitship.graph.packing import Packing
from bitship.importers import attention, shapes
from bitship.importers.attention import Masked, Probabilities
from bitship.importers.integerize import QParams, QuantizedTensor, Weights
from bitship.importers.pending import Pending
from bitship.quantization.catalogue import folds, module_path, where
from bitship.quantization.plan import Plan, affine8, symmetric
from bitship.quantization.recipe import SoftmaxForm
from bitship.quantization.walk import Walk, evaluated

_SEARCH = np.linspace(0.4, 1.0, 25)
_MULTIPLIERS = 16  # the largest of a group, and the finest step of a scale


def quantize_weights(values: Array, bits: int, group: int = 0) -> Weights:
    """Return symmetric integer weights per index of the first axis; of 4 bits or fewer they are packed.

    values  float64, any rank. With fewer than 8 bits each scale is the one of least squared error among 25 below
            the largest weight's.
    group   inputs that share a multiplier, where bits are 4 or fewer and a row is longer than that
    """
    most = (1 << (bits - 1)) - 1
    rows = values.reshape(values.shape[0], -1)
    if bits <= 4 and 0 < group < rows.shape[1]:
        return _grouped(values, most, group)
    full = np.maximum(np.abs(rows).max(axis=1), 2.0**-60) / most
    best = full.copy()
    if bits < 8:
        least = np.full(rows.shape[0], np.inf)
        for share in _SEARCH:
            scale = (full * share)[:, None]
            error = ((np.clip(np.rint(rows / scale), -most, most) * scale - rows) ** 2).sum(axis=1)
            best = np.where(error < least, full * share, best)
            least = np.minimum(error, least)
    best = best.astype(np.float32).astype(np.float64)
    integers = np.clip(np.rint(rows / best[:, None]), -most, most).astype(np.int8)
    packing = Packing() if bits <= 4 else None
    return Weights(integers.reshape(values.shape), tuple(best.tolist()), packing=packing)


def _grouped(values: Array, most: int, group: int) -> Weights:
    """Return weights ``code * multiplier``: the multiplier in [1, 16] of least squared error for every group.

    A channel's scale lets its largest weight be the largest code times 16, so a product fits int8, and multiplier and
    scale together are what "per-group scale" means elsewhere (the two levels of arXiv 2405.04532).
    """
    o = values.shape[0]
    flat = values.reshape(o, -1)
    count = -(-flat.shape[1] // group)
    rows = np.pad(flat, ((0, 0), (0, count * group - flat.shape[1]))).reshape(o, count, group)
    scales = (np.maximum(np.abs(flat).max(axis=1), 2.0**-56) / (most * _MULTIPLIERS)).astype(np.float32)
    units = rows / scales.astype(np.float64)[:, None, None]
    best, least = np.zeros(rows.shape, np.int64), np.full((o, count), np.inf)
    for multiplier in range(1, _MULTIPLIERS + 1):
        found = np.clip(np.rint(units / multiplier), -most, most).astype(np.int64) * multiplier
        error = ((found - units) ** 2).sum(axis=2)
        best = np.where((error < least)[..., None], found, best)
        least = np.minimum(error, least)
    integers = best.reshape(o, -1)[:, : flat.shape[1]].reshape(values.shape).astype(np.int8)
    return Weights(integers, tuple(float(s) for s in scales), packing=Packing(group))


class PlannedWalk(Walk):
    """Takes scales from a plan.

    tensors    what every node became, by its name
    constants  the real value that quantized weights and constant operands have, by the name of their node
    """

    def __init__(self, graph_module: Any, name: str, plan: Plan) -> None:
        super().__init__(graph_module, name, plan.recipe)
        self.plan = plan
        self.tensors: dict[str, QuantizedTensor] = {}
        self.constants: dict[str, Array] = {}
        self._narrowed: dict[tuple[str, QParams], QuantizedTensor] = {}

    def placeholder(self, node: Any) -> QuantizedTensor:
        """Declare the input."""
        x = self.g.input(node.name, tuple(node.meta["val"].shape), self.plan.q(node.name))
        self.tensors[node.name] = x
        return x

    def call(self, node: Any) -> Any:
        """Evaluate a constant, or write the op; what a clamp after it will limit waits for it."""
        constant = evaluated(self, node)
        if constant is not None:
            return constant
        value = self.handle(node)
        if isinstance(value, Pending) and not any(folds(u) for u in node.users):
            value = value.emit(self.plan.q(node.name), value.limits)
        if isinstance(value, QuantizedTensor):
            self.tensors[node.name] = value
        return value

    def quantized(self, node: Any, arg: Any) -> QuantizedTensor:
        """Return an operand; a constant gets a scale of its own, probabilities become 16-bit numbers."""
        value = self.values.get(arg)
        if isinstance(value, Probabilities):
            value = self.values[arg] = self.tensors[arg.name] = attention.table_softmax(self.g, value)
        elif hasattr(value, "numel"):
            bits = 16 if node.name in self.plan.wide else self.recipe.activation_bits
            return self._constant(node, arg, value, bits)
        if isinstance(value, QuantizedTensor):
            return value
        what = "it" if node is arg else f"operand '{getattr(arg, 'name', arg)}'"
        raise QuantizationError(f"{where(node)}: {what} stays in float")

    def narrow(self, node: Any, arg: Any) -> QuantizedTensor:
        """Return an operand of an op with weights: int8, unless the recipe's activations have 16 bits."""
        x = self.quantized(node, arg)
        return self.in_bits(x, arg, 8) if self.recipe.activation_bits == 8 else x

    def in_bits(self, x: QuantizedTensor, arg: Any, bits: int) -> QuantizedTensor:
        """Return a tensor in so many bits or fewer, rescaled where it has more."""
        if x.q.bits <= bits:
            return x
        if arg.name in self.plan.ranges.tensors and x.q == self.plan.q(arg.name):
            q = self.plan.q(arg.name, bits)
        else:  # scaled by a number since, or of a scale that no range gave
            most = x.q.scale * x.q.ends[1]
            q = symmetric((-most, most), bits)
        key = (x.name, q)
        if key not in self._narrowed:
            self._narrowed[key] = self.g.requantize(f"{x.name}.narrow", x, q)
        return self._narrowed[key]

    def fitting(self, x: QuantizedTensor, arg: Any, weight_sum: int) -> QuantizedTensor:
        """Return an int16 operand in as many bits as products with weights of this absolute sum leave in int32."""
        bits = x.q.bits
        while bits > 9 and weight_sum << (bits - 1) >= 1 << 30:
            bits -= 1
        return self.in_bits(x, arg, bits)

    def weights(self, node: Any, arg: Any) -> Weights:
        """Quantize constant weights."""
        value = self.constant(arg)
        if value is None:
            raise QuantizationError(f"{where(node)}: weights are computed; constant ones are needed")
        if not bool(value.isfinite().all()):
            raise QuantizationError(f"{where(node)}: weights '{arg.name}' hold values that are not finite")
        bits = self.recipe.layer_bits.get(module_path(node), self.recipe.weight_bits)
        pointwise = value.dim() == 2 or tuple(value.shape[2:]) == (1, 1)
        group = self.recipe.weight_group if pointwise else 0
        found = quantize_weights(value.double().numpy(), bits, group)
        scales = np.array(found.scales).reshape(-1, *(1,) * (found.values.ndim - 1))
        self.constants[arg.name] = found.values * scales
        return found

    def softmax(self, node: Any, axis: int) -> Any:
        """Wait for the product that reads the probabilities; I-ViT's is written at once."""
        arg = node.args[0]
        source = self.values.get(arg)
        logits = source.logits if isinstance(source, Masked) else self.quantized(node, arg)
        x = self.in_bits(logits, arg, 8)
        if isinstance(source, Masked):
            x = attention.masked(self.g, node.name, x, source.mask)
        rank = len(x.shape)
        order = (*(i for i in range(rank) if i != axis % rank), axis % rank)
        turned = order != tuple(range(rank))
        x = self.g.natural(shapes.permute(self.g, f"{node.name}.last", x, order) if turned else x)
        back = tuple(order.index(i) for i in range(rank)) if turned else ()
        found = Probabilities(node.name, x, isinstance(source, Masked), back)
        return attention.shiftmax(self.g, found) if self.recipe.softmax is SoftmaxForm.SHIFTMAX else found

    def _constant(self, node: Any, arg: Any, value: Any, bits: int) -> QuantizedTensor:
        reals = value.detach().double().numpy()
        if not np.isfinite(reals).all():
            raise QuantizationError(f"{where(node)}: a constant operand holds values that are not finite")
        ends = (float(reals.min()), float(reals.max()))
        q = symmetric(ends, bits) if bits > 8 or self.recipe.symmetric else affine8(ends)
        integers = np.clip(np.rint(reals / q.scale) + q.zero_point, *q.ends).astype(q.dtype.numpy)
        self.constants[arg.name] = (integers.astype(np.float64) - q.zero_point) * q.scale
        return self.g.constant(f"{node.name}.constant", integers, q)
