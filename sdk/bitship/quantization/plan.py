"""Which integers every tensor becomes: bits by the recipe and the tensor's place, scales from its range."""

from dataclasses import dataclass, field
from typing import Any

from bitship.importers.integerize import QParams
from bitship.quantization.catalogue import MOVES, NORMS, op_name, tensors
from bitship.quantization.ranges import Range, Ranges
from bitship.quantization.recipe import Recipe

_LEAST = 2.0**-23  # the smallest scale, as in I-ViT


def affine8(ends: Range) -> QParams:
    """Return int8 parameters whose range is [low, high] with 0 in it, exactly representable."""
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    scale = max((high - low) / 255, _LEAST)
    return QParams(scale, min(max(round(-128 - low / scale), -128), 127))


def symmetric(ends: Range, bits: int) -> QParams:
    """Return parameters with zero point 0."""
    return QParams(max(abs(ends[0]), abs(ends[1]), _LEAST * 127) / ((1 << (bits - 1)) - 1), 0, bits)


@dataclass
class Plan:
    """How one captured module is quantized.

    wide    nodes whose tensors are int16 for being part of a residual sum that a norm reads
    joined  nodes that take another node's parameters: operands of a concat
    """

    recipe: Recipe
    ranges: Ranges
    wide: set[str] = field(default_factory=set)
    joined: dict[str, str] = field(default_factory=dict)

    def bits(self, name: str) -> int:
        """Return the bits of a node's tensor."""
        return 16 if name in self.wide else self.recipe.activation_bits

    def q(self, name: str, bits: int | None = None) -> QParams:
        """Return the parameters of a node's tensor, or of the same tensor in other bits."""
        bits = self.bits(name) if bits is None else bits
        ends = self.ranges.of(self.joined.get(name, name))
        return symmetric(ends, bits) if bits > 8 or self.recipe.symmetric else affine8(ends)


def make_plan(graph_module: Any, ranges: Ranges, recipe: Recipe) -> Plan:
    """Return the plan of a captured module."""
    plan = Plan(recipe, ranges)
    nodes = [n for n in graph_module.graph.nodes if n.op == "call_function"]
    if recipe.residual_bits == 16:
        for node in nodes:
            if op_name(node) in NORMS:
                _widen(node.args[0], plan.wide)
    for node in nodes:
        if op_name(node) == "cat":
            for source in node.args[0]:
                _join(source, node.name, plan.joined)
    for name, target in plan.joined.items():
        if target in plan.wide:
            plan.wide.add(name)
    return plan


def _widen(node: Any, wide: set[str]) -> None:
    """Mark what a norm reads, back through sums and what only moves elements, as int16."""
    pending = [node]
    while pending:
        node = pending.pop()
        if node.op != "call_function" or node.name in wide:
            continue
        wide.add(node.name)
        if op_name(node) in MOVES or op_name(node) in ("add", "sub"):
            pending += tensors(node)


def _join(node: Any, target: str, joined: dict[str, str]) -> None:
    """Let the op that computes an operand of a concat compute it in the concat's parameters."""
    while node.op == "call_function" and op_name(node) in MOVES and len(node.users) == 1 and op_name(node) != "cat":
        node = node.args[0]
    if node.op == "call_function" and len(node.users) == 1:
        joined[node.name] = joined.get(target, target)
