"""Rewrites of captured aten graphs into the ops the catalogue knows: lists, selections, attention."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bitship.errors import QuantizationError
from bitship.quantization.catalogue import op_name, where


def calls(graph_module: Any) -> list[Any]:
    """Return the calls of a graph, in order."""
    return [n for n in graph_module.graph.nodes if n.op == "call_function"]


class Inserter:
    """Writes calls before a node, with the values they would have, and keeps where they came from."""

    def __init__(self, graph_module: Any, node: Any) -> None:
        self.graph = graph_module.graph
        self.node = node

    def call(self, target: Any, *args: Any) -> Any:
        """Insert one call."""
        import torch

        with self.graph.inserting_before(self.node):
            made = self.graph.call_function(target, args)
        made.meta = dict(self.node.meta)
        values = torch.fx.node.map_arg(args, lambda n: n.meta["val"])
        made.meta["val"] = target(*values)
        return made

    def replace(self, old: Any, new: Any) -> None:
        """Let every reader of a call read another one instead."""
        old.replace_all_uses_with(new)
        self.graph.erase_node(old)


def lists(graph_module: Any) -> None:
    """Rewrite chunk, split and unbind, which return lists, as one slice for every element that is read."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        name = op_name(node)
        if name not in ("chunk", "split", "split_with_sizes", "unbind"):
            continue
        at = 1 if name == "unbind" else 2
        axis = node.args[at] if len(node.args) > at else node.kwargs.get("dim", 0)
        parts, source = node.meta["val"], node.args[0]
        axis %= source.meta["val"].dim()
        extents = [1 if name == "unbind" else p.shape[axis] for p in parts]
        starts = np.cumsum([0, *extents]).tolist()
        for user in list(node.users):
            insert, index = Inserter(graph_module, user), user.args[1]
            cut = insert.call(aten.slice.Tensor, source, axis, starts[index], starts[index + 1])
            insert.replace(user, insert.call(aten.squeeze.dim, cut, axis) if name == "unbind" else cut)


def selections(graph_module: Any) -> None:
    """Rewrite select as slice and squeeze, stack as unsqueeze and cat, view as reshape."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        insert = Inserter(graph_module, node)
        if op_name(node) == "select":
            source, axis, index = node.args[:3]
            extent = source.meta["val"].shape[axis]
            cut = insert.call(aten.slice.Tensor, source, axis, index % extent, index % extent + 1)
            insert.replace(node, insert.call(aten.squeeze.dim, cut, axis))
        elif op_name(node) == "stack":
            axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            axis %= node.meta["val"].dim()
            parts = [insert.call(aten.unsqueeze.default, x, axis) for x in node.args[0]]
            insert.replace(node, insert.call(aten.cat.default, parts, axis))
        elif op_name(node) == "view" and str(node.target).endswith("view.default"):
            node.target = aten.reshape.default


def attention(graph_module: Any) -> None:
    """Rewrite scaled_dot_product_attention as matmul, scale, softmax, matmul; without mask and dropout."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) != "scaled_dot_product_attention":
            continue
        q, k, v = node.args[:3]
        rest = [*node.args[3:], *(value for key, value in node.kwargs.items() if key != "scale")]
        if any(rest):
            raise QuantizationError(f"{where(node)}: masks, dropout, causal and grouped attention have no integer form")
        insert = Inserter(graph_module, node)
        scale = node.kwargs.get("scale") or 1 / math.sqrt(q.meta["val"].shape[-1])
        turned = insert.call(aten.transpose.int, k, -2, -1)
        scores = insert.call(aten.mul.Tensor, insert.call(aten.matmul.default, q, turned), scale)
        weights = insert.call(aten.softmax.int, scores, -1)
        insert.replace(node, insert.call(aten.matmul.default, weights, v))


REWRITES: tuple[Callable[[Any], None], ...] = (lists, selections, attention)
