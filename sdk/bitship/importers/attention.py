"""The integerize step of softmax: probabilities that wait for their product, I-ViT's Shiftmax, masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import msgspec
import numpy as np

from bitship.errors import UnsupportedError
from bitship.graph.base import Array
from bitship.graph.builder import GraphBuilder
from bitship.graph.dtypes import DType
from bitship.graph.ops import Add, Rescale, ShiftGelu, Shiftmax, SoftmaxMatMul, TableSoftmax
from bitship.importers import functions, shapes
from bitship.importers.integerize import NO_LIMITS, Integerizer, Limits, QParams, QuantizedTensor, batches

PROBABILITY = QParams(2.0**-15, 0, 16)
_IDENTITY = Rescale((1 << 30,), (1,))


@dataclass(frozen=True)
class Probabilities:
    """A softmax over the last axis of int8 logits that nothing has read yet.

    masked  whether logits of code -128 take no part
    order   the axes were permuted to bring the softmax's axis last; where each axis of the result comes from
    """

    name: str
    logits: QuantizedTensor
    masked: bool = False
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Masked:
    """Logits of which a constant bool mask (broadcast) leaves some out; only a softmax can read them."""

    logits: QuantizedTensor
    mask: Array


def unit_of(scale: float | Fraction) -> int:
    """I-ViT's integer unit of a scale: ``ceil(1 / scale)``, within what the ops take."""
    return min(max(-(-Fraction(1) // Fraction(scale)), 1), 1 << 15)


def _ordered(g: Integerizer, name: str, y: QuantizedTensor, order: Sequence[int]) -> QuantizedTensor:
    return shapes.permute(g, f"{name}.back", y, order) if order else y


def table_softmax(g: Integerizer, p: Probabilities) -> QuantizedTensor:
    """Write a softmax to 16 bits."""
    entries = g.b.constant(f"{p.name}.exp", functions.exp_table(p.logits.q.scale, 32767, "int16"))
    made = g.b.node(p.name, TableSoftmax(p.masked), p.logits.name, entries)
    return _ordered(g, p.name, replace(p.logits, name=made, q=PROBABILITY), p.order)


def shiftmax(g: Integerizer, p: Probabilities) -> QuantizedTensor:
    """Write I-ViT's softmax."""
    made = g.b.node(p.name, Shiftmax(unit_of(p.logits.q.scale), p.masked), p.logits.name)
    return _ordered(g, p.name, replace(p.logits, name=made, q=PROBABILITY), p.order)


def shiftgelu(
    g: Integerizer, name: str, x: QuantizedTensor, out: QParams, limits: Limits = NO_LIMITS
) -> QuantizedTensor:
    """I-ViT's gelu over the rows of the last axis of an int8 tensor with zero point 0."""
    x = g.natural(x)
    if x.q.zero_point != 0:
        raise UnsupportedError("ShiftGELU needs zero point 0; the recipe must be symmetric")
    unit = unit_of(Fraction(x.q.scale) * Fraction(1702, 1000))
    requant = g.epilogue([Fraction(x.q.scale) / 128 / Fraction(out.scale)], out, limits)
    return g.result(g.b.node(name, ShiftGelu(unit, requant), x.name), x, out)


def softmax_matmul(
    g: Integerizer, name: str, p: Probabilities, v: QuantizedTensor, out: QParams, limits: Limits = NO_LIMITS
) -> QuantizedTensor:
    """``softmax(logits) @ v`` over the last two axes, leading ones as ``batches`` says, normalised late."""
    v = g.natural(v)
    x = p.logits
    batch = batches(x.shape, v.shape)
    requant = g.epilogue([Fraction(v.q.scale) / Fraction(out.scale)], out, limits)
    entries = g.b.constant(f"{p.name}.codes", functions.exp_table(x.q.scale, 255, "uint8"))
    sides = [g.view(t.name, (batch, math.prod(t.shape[:-1]) // batch, t.shape[-1])) for t in (x, v)]
    made = g.b.node(name, SoftmaxMatMul(requant, v.q.zero_point, p.masked), *sides, entries)
    shape = (*x.shape[:-1], v.shape[-1])
    return QuantizedTensor(g.view(made, shape), shape, out)


def masked_by(b: GraphBuilder, name: str, logits: str, mask: str) -> str:
    """Give int8 logits code -128 where an int16 mask (broadcast) is -256, none other that code; elsewhere it is 0."""
    clamped = msgspec.structs.replace(_IDENTITY, dtype=DType.INT32, qmin=-127, qmax=127)
    return b.node(name, Add(clamped, None, _IDENTITY), logits, mask)


def masked(g: Integerizer, name: str, x: QuantizedTensor, mask: Array) -> QuantizedTensor:
    """Give int8 logits code -128 where the constant mask (broadcast, bool) is true, and no other that code."""
    x = g.natural(x)
    shape = (1,) * (len(x.shape) - mask.ndim) + mask.shape
    addend = g.b.constant(f"{name}.mask", np.where(mask, -256, 0).astype(np.int16).reshape(shape))
    return replace(x, name=masked_by(g.b, name, x.name, addend))
