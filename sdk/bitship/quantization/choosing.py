"""Rewrites of captured ops that copy chosen elements: each becomes one index_select for every axis it works on."""

from collections.abc import Callable, Sequence
from typing import Any

from bitship.errors import QuantizationError
from bitship.quantization.catalogue import op_name, shape_of, where
from bitship.quantization.folding import attribute
from bitship.quantization.rewrite import Inserter, calls, computed, constant_value


def _chosen(graph_module: Any, node: Any, x: Any, axis: int, indices: Sequence[int]) -> Any:
    """Write the elements of x at the indices along an axis, before a node."""
    import torch

    name = f"{node.name}_at_{axis % len(shape_of(x))}"
    while hasattr(graph_module, name):
        name += "_"
    with graph_module.graph.inserting_before(node):
        constant = attribute(graph_module, name, torch.tensor(list(indices), dtype=torch.int64))
    return Inserter(graph_module, node).call(torch.ops.aten.index_select.default, x, axis, constant)


def flips(graph_module: Any) -> None:
    """Rewrite flip."""
    for node in calls(graph_module):
        if op_name(node) == "flip":
            x = node.args[0]
            for axis in node.args[1]:
                x = _chosen(graph_module, node, x, axis, range(shape_of(x)[axis] - 1, -1, -1))
            Inserter(graph_module, node).replace(node, x)


def paddings(graph_module: Any) -> None:
    """Rewrite padding by reflection, replication and wrapping, and cut where constant padding is negative."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) not in ("pad", "constant_pad_nd"):
            continue
        flat, rank = list(node.args[1]), len(shape_of(node))
        given = [*node.args[2:], *node.kwargs.values()] if op_name(node) == "pad" else []
        mode = given[0] if given else "constant"
        insert, x = Inserter(graph_module, node), node.args[0]
        if mode == "constant":
            if min(flat, default=0) >= 0:
                continue
            for i in range(len(flat) // 2):
                before, after = (max(-n, 0) for n in flat[2 * i : 2 * i + 2])
                if before or after:
                    axis = rank - 1 - i
                    x = insert.call(aten.slice.Tensor, x, axis, before, shape_of(x)[axis] - after)
            value = given[1] if len(given) > 1 else (node.args[2] if len(node.args) > 2 and not given else 0.0)
            insert.replace(node, insert.call(aten.constant_pad_nd.default, x, [max(n, 0) for n in flat], value or 0.0))
            continue
        for i in range(len(flat) // 2):
            axis, (before, after) = rank - 1 - i, flat[2 * i : 2 * i + 2]
            if before or after:
                x = _chosen(graph_module, node, x, axis, _sources(node, str(mode), shape_of(x)[axis], before, after))
        insert.replace(node, x)


def _sources(node: Any, mode: str, extent: int, before: int, after: int) -> list[int]:
    """Return where every element of a padded axis comes from."""
    at = range(-before, extent + after)
    if mode == "replicate":
        return [min(max(i, 0), extent - 1) for i in at]
    if mode == "circular":
        return [i % extent for i in at]
    if mode == "reflect":
        period = max(2 * (extent - 1), 1)
        return [min(i % period, period - i % period) if extent > 1 else 0 for i in at]
    raise QuantizationError(f"{where(node)}: padding mode '{mode}'; constant, reflect, replicate, circular are allowed")


def indexings(graph_module: Any) -> None:
    """Rewrite ``x[..., indices]`` with one constant tensor of whole numbers."""
    import torch

    moving = computed(graph_module)
    for node in calls(graph_module):
        if op_name(node) != "index" or node not in moving:
            continue
        x, given = node.args[0], list(node.args[1])
        axes = [i for i, index in enumerate(given) if index is not None]
        if len(axes) != 1 or given[axes[0]] in moving:
            raise QuantizationError(f"{where(node)}: one constant index is needed, along one axis")
        indices = constant_value(graph_module, given[axes[0]])
        y = _chosen(graph_module, node, x, axes[0], [i % shape_of(x)[axes[0]] for i in indices.reshape(-1).tolist()])
        insert = Inserter(graph_module, node)
        insert.replace(node, insert.call(torch.ops.aten.reshape.default, y, list(shape_of(node))))


def sliding_windows(graph_module: Any) -> None:
    """Rewrite ``x.unfold(axis, size, step)``, whose windows become the last axis."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) != "unfold":
            continue
        x, axis, size, step = node.args[:4]
        rank = len(shape_of(x))
        axis %= rank
        count = (shape_of(x)[axis] - size) // step + 1
        y = _chosen(graph_module, node, x, axis, [w * step + k for w in range(count) for k in range(size)])
        insert = Inserter(graph_module, node)
        y = insert.call(aten.reshape.default, y, [*shape_of(x)[:axis], count, size, *shape_of(x)[axis + 1 :]])
        order = [i for i in range(rank + 1) if i != axis + 1]
        insert.replace(node, insert.call(aten.permute.default, y, [*order, axis + 1]))


CHOICES: tuple[Callable[[Any], None], ...] = (flips, paddings, indexings, sliding_windows)
