"""Move ranges from the activations after a layer norm into the weights that read them.

With factors f and offsets c per channel, ``norm(x)`` becomes ``(norm(x) - c) / f`` and a layer ``W y + b`` becomes
``(W f) y + (b + W c)``: the float value stays, the tensor in between gets one range for all channels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bitship.graph.base import Array
from bitship.quantization.catalogue import is_constant, op_name
from bitship.quantization.folding import attribute, fetch
from bitship.quantization.recipe import Migration, Recipe

_LEAST = 1e-5


def norms_before_layers(graph_module: Any) -> list[Any]:
    """Return the layer norms over the last axis that only linear layers read."""
    return [
        node
        for node in graph_module.graph.nodes
        if node.op == "call_function"
        and op_name(node) == "layer_norm"
        and len(node.args[1]) == 1
        and node.users
        and all(_reads(user, node) for user in node.users)
    ]


def _reads(user: Any, norm: Any) -> bool:
    return (
        user.op == "call_function" and op_name(user) == "linear" and user.args[0] is norm and is_constant(user.args[1])
    )


def factors(low: Array, high: Array, weights: Sequence[Array], recipe: Recipe) -> tuple[Array, Array]:
    """Return (factor, offset) per channel, float64, from the channel's range and the weights that read it.

    weights  matrices [O, C]
    """
    half = np.maximum((high - low) / 2, _LEAST)
    middle = (high + low) / 2
    if recipe.migration is Migration.REPARAMETERISE:
        return half / half.mean(), middle - middle.mean()
    largest = np.maximum(np.max([np.abs(w).max(axis=0) for w in weights], axis=0), _LEAST)
    strength = recipe.migration_strength
    factor = np.maximum(half**strength / largest ** (1 - strength), _LEAST)
    return factor, middle


def migrate(graph_module: Any, channels: dict[str, tuple[Array, Array]], recipe: Recipe) -> None:
    """Rewrite the norms and their readers in place, by the ranges of their channels."""
    import torch

    for norm in norms_before_layers(graph_module):
        if norm.name not in channels:
            continue
        layers = list(norm.users)
        weights = [fetch(graph_module, layer.args[1]).double() for layer in layers]
        f, c = (torch.from_numpy(a) for a in factors(*channels[norm.name], [w.numpy() for w in weights], recipe))
        size = f.numel()
        given = [norm.args[i] if len(norm.args) > i else None for i in (2, 3)]
        gain = torch.ones(size).double() if given[0] is None else fetch(graph_module, given[0]).double()
        bias = torch.zeros(size).double() if given[1] is None else fetch(graph_module, given[1]).double()
        _replace(graph_module, norm, 2, (gain / f, (bias - c) / f))
        for layer, weight in zip(layers, weights, strict=True):
            old = layer.args[2] if len(layer.args) > 2 and layer.args[2] is not None else None
            offset = weight @ c + (0 if old is None else fetch(graph_module, old).double())
            _replace(graph_module, layer, 1, (weight * f, offset))
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _replace(graph_module: Any, node: Any, first: int, values: Sequence[Any]) -> None:
    """Give a call new constant operands from position ``first`` on."""
    with graph_module.graph.inserting_before(node):
        made = [attribute(graph_module, f"{node.name}_migrated{i}", value.float()) for i, value in enumerate(values)]
    node.args = (*node.args[:first], *made, *node.args[first + len(made) :])
