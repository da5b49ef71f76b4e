"""Mixed precision: which layers keep 8-bit weights and which go lower, by measured sensitivity under a budget."""

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

_LAYERS = ("linear", "conv2d", "conv1d")


@dataclass(frozen=True)
class LayerChoice:
    """One layer with weights: its module path, its parameters, the bits chosen, and what lower bits cost.

    noise  of the network's output for every number of bits tried: mean squared error against float weights
    """

    module: str
    parameters: int
    bits: int
    noise: dict[int, float]

    @property
    def nbytes(self) -> int:
        """Bytes of the weights when packed."""
        return -(-self.parameters * self.bits // 8)


@dataclass(frozen=True)
class MixedPrecision:
    """The recipe to quantize with, and the layers that explain it."""

    recipe: Recipe
    layers: tuple[LayerChoice, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all weights when packed, as the budget counts them."""
        return sum(layer.nbytes for layer in self.layers)


def choose(prepared: Prepared, budget: int, bits: Iterable[int] = (8, 4), items: int = 8) -> MixedPrecision:
    """Choose weight bits per layer so that packed weights fit a budget with the least noise at the output.

    budget  bytes for all weights of linear and convolution layers, packed
    bits    candidates; the most of them is where every layer starts
    items   calibration inputs the noise is measured on

    Every layer is measured alone: the captured float module runs with only its weights quantized. Then the step that
    costs the least added noise per byte saved is taken until the weights fit. Raises QuantizationError when they
    can not, saying the least there is.
    """
    candidates = sorted(set(bits), reverse=True)
    if not candidates or not all(2 <= b <= 8 for b in candidates):
        raise QuantizationError(f"mixed precision: bits {candidates}: one or more of 2 to 8 are needed")
    layers = _layers(prepared)
    least = sum(-(-size * candidates[-1] // 8) for size, _ in layers.values())
    if budget < least:
        raise QuantizationError(
            f"mixed precision: the weights take {least:,} bytes at {candidates[-1]} bits: budget {budget:,}"
        )
    with quiet():
        noise = _noise(prepared, layers, candidates, items)
    chosen = dict.fromkeys(layers, candidates[0])

    def total() -> int:
        return sum(-(-size * chosen[path] // 8) for path, (size, _) in layers.items())

    while total() > budget:
        options = []
        for path, (size, _) in layers.items():
            lower = [b for b in candidates if b < chosen[path]]
            if lower:
                added = max(noise[path][lower[0]] - noise[path][chosen[path]], 0.0)
                saved = size * (chosen[path] - lower[0]) / 8
                options.append((added / saved, -saved, path, lower[0]))
        _, _, path, next_bits = min(options)
        chosen[path] = next_bits
    found = tuple(LayerChoice(path, size, chosen[path], noise[path]) for path, (size, _) in layers.items())
    lowered = {layer.module: layer.bits for layer in found}
    return MixedPrecision(replace(prepared.plan.recipe, layer_bits=lowered), found)


def _layers(prepared: Prepared) -> dict[str, tuple[int, list[Any]]]:
    """Return (parameters, weight nodes) by module path."""
    found: dict[str, tuple[int, list[Any]]] = {}
    for node in prepared.module.graph.nodes:
        if node.op == "call_function" and op_name(node) in _LAYERS and node.args[1].op == "get_attr":
            size, nodes = found.setdefault(module_path(node), (0, []))
            found[module_path(node)] = (size + fetch(prepared.module, node.args[1]).numel(), [*nodes, node.args[1]])
    return found


def _noise(
    prepared: Prepared, layers: dict[str, tuple[int, list[Any]]], candidates: list[int], items: int
) -> dict[str, dict[int, float]]:
    inputs = list(prepared.items[:items])
    wanted = [_output(prepared, item, {}) for item in inputs]
    result: dict[str, dict[int, float]] = {}
    for path, (_, nodes) in layers.items():
        result[path] = {}
        for bits in candidates:
            changed = {n.name: _rounded(prepared, n, bits) for n in nodes}
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
