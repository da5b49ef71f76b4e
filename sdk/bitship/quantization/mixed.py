"""Mixed precision: which layers keep 8-bit weights and which go lower, by measured sensitivity under a budget."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitship.errors import QuantizationError
from bitship.extras import quiet
from bitship.graph.base import Array
from bitship.quantization.catalogue import module_path, op_name
from bitship.quantization.folding import fetch
from bitship.quantization.planned import quantize_weights
from bitship.quantization.prepared import Prepared
from bitship.quantization.ranges import interpret
from bitship.quantization.recipe import Recipe

_LAYERS = ("linear", "conv2d")


class Cost(enum.Enum):
    """What a budget counts.

    BYTES           bytes of the weights when packed
    BIT_OPERATIONS  multiply-accumulates times weight bits times activation bits: an estimate of latency on hardware
                    whose speed follows the bits (HAWQ-V3, arXiv 2011.10680)
    """

    BYTES = "bytes"
    BIT_OPERATIONS = "bit_operations"


@dataclass(frozen=True)
class LayerChoice:
    """One layer with weights: its module path, its size, the bits chosen, and what lower bits cost.

    noise  of the network's output for every number of bits tried: mean squared error against float weights
    """

    module: str
    parameters: int
    macs: int
    bits: int
    noise: dict[int, float]

    def cost(self, of: Cost, activation_bits: int, bits: int | None = None) -> int:
        """What the layer adds to a budget, with the bits chosen or with others."""
        bits = self.bits if bits is None else bits
        return self.macs * bits * activation_bits if of is Cost.BIT_OPERATIONS else -(-self.parameters * bits // 8)


@dataclass(frozen=True)
class MixedPrecision:
    """The recipe to quantize with, and the layers that explain it."""

    recipe: Recipe
    layers: tuple[LayerChoice, ...]

    def cost(self, of: Cost = Cost.BYTES) -> int:
        """What all layers take of a budget."""
        return sum(layer.cost(of, self.recipe.activation_bits) for layer in self.layers)


def choose(
    prepared: Prepared, budget: int, bits: Iterable[int] = (8, 4), cost: Cost = Cost.BYTES, items: int = 8
) -> MixedPrecision:
    """Choose weight bits per layer so that the network fits a budget with the least noise at the output.

    budget  bytes for all weights of linear and convolution layers when packed, or bit operations, as ``cost`` says
    bits    candidates; the most of them is where every layer starts
    items   calibration inputs the noise is measured on

    Every layer is measured alone: the captured float module runs with only its weights quantized. Then the step that
    costs the least added noise for what it saves is taken until the network fits. Raises QuantizationError when it
    can not, saying the least there is.
    """
    candidates = sorted(set(bits), reverse=True)
    if not candidates or not all(2 <= b <= 8 for b in candidates):
        raise QuantizationError(f"mixed precision: bits {candidates}: one or more of 2 to 8 are needed")
    nodes = _layers(prepared)
    activations = prepared.plan.recipe.activation_bits
    with quiet():
        noise = _noise(prepared, nodes, candidates, items)
    layers = {
        path: LayerChoice(path, *_size(prepared, found), candidates[0], noise[path]) for path, found in nodes.items()
    }
    least = sum(layer.cost(cost, activations, candidates[-1]) for layer in layers.values())
    if budget < least:
        raise QuantizationError(
            f"mixed precision: the network takes {least:,} {cost.value} at {candidates[-1]} bits: budget {budget:,}"
        )
    while sum(layer.cost(cost, activations) for layer in layers.values()) > budget:
        options = []
        for path, layer in layers.items():
            lower = next((b for b in candidates if b < layer.bits), None)
            if lower is not None:
                added = max(layer.noise[lower] - layer.noise[layer.bits], 0.0)
                saved = layer.cost(cost, activations) - layer.cost(cost, activations, lower)
                options.append((added / max(saved, 1), -saved, path, lower))
        _, _, path, lowered = min(options)
        layers[path] = replace(layers[path], bits=lowered)
    found = tuple(layers.values())
    chosen = {layer.module: layer.bits for layer in found}
    return MixedPrecision(replace(prepared.plan.recipe, layer_bits=chosen), found)


def _layers(prepared: Prepared) -> dict[str, list[Any]]:
    """Return the calls with weights by module path."""
    found: dict[str, list[Any]] = {}
    for node in prepared.module.graph.nodes:
        if node.op == "call_function" and op_name(node) in _LAYERS and node.args[1].op == "get_attr":
            found.setdefault(module_path(node), []).append(node)
    return found


def _size(prepared: Prepared, nodes: list[Any]) -> tuple[int, int]:
    """Return (parameters, multiply-accumulates) of a layer's calls."""
    weights = [fetch(prepared.module, n.args[1]) for n in nodes]
    macs = [n.meta["val"].numel() * w[0].numel() for n, w in zip(nodes, weights, strict=True)]
    return sum(w.numel() for w in weights), sum(macs)


def _noise(
    prepared: Prepared, layers: dict[str, list[Any]], candidates: list[int], items: int
) -> dict[str, dict[int, float]]:
    inputs = list(prepared.items[:items])
    wanted = [_output(prepared, item, {}) for item in inputs]
    result: dict[str, dict[int, float]] = {}
    for path, nodes in layers.items():
        result[path] = {}
        for bits in candidates:
            changed = {n.args[1].name: _rounded(prepared, n.args[1], bits) for n in nodes}
            errors = [
                ((_output(prepared, item, changed) - w) ** 2).mean() for item, w in zip(inputs, wanted, strict=True)
            ]
            result[path][bits] = float(np.mean(errors))
    return result


def _rounded(prepared: Prepared, node: Any, bits: int) -> Any:
    import torch

    value = fetch(prepared.module, node)
    w = quantize_weights(value.double().numpy(), bits)
    scales = np.array(w.scales).reshape(-1, *(1,) * (value.dim() - 1))
    return torch.from_numpy(w.values * scales).to(value.dtype)


def _output(prepared: Prepared, item: Any, changed: dict[str, Any]) -> Array:
    result = interpret(prepared.module, item, lambda node, value: changed.get(node.name, value))
    while isinstance(result, list | tuple):
        result = result[0]
    return np.asarray(result.double().numpy())
