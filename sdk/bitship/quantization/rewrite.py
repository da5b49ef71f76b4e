"""Rewrites of captured aten graphs into the ops the catalogue knows: lists, selections, attention."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bitship.errors import QuantizationError
from bitship.quantization.catalogue import op_name, where


def reached(module: Any, target: str) -> Any:
    """Return what a dotted name of a module stands for."""
    for part in target.split("."):
        module = getattr(module, part)
    return module


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
    """Rewrite scaled_dot_product_attention as matmul, scale, mask, softmax, matmul; without dropout."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) != "scaled_dot_product_attention":
            continue
        q, k, v = node.args[:3]
        names = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
        given = dict(zip(names, node.args[3:], strict=False)) | dict(node.kwargs)
        if given.get("dropout_p") or given.get("is_causal") or given.get("enable_gqa"):
            raise QuantizationError(f"{where(node)}: dropout, causal and grouped attention have no integer form")
        insert = Inserter(graph_module, node)
        scale = given.get("scale") or 1 / math.sqrt(q.meta["val"].shape[-1])
        turned = insert.call(aten.transpose.int, k, -2, -1)
        scores = insert.call(aten.mul.Tensor, insert.call(aten.matmul.default, q, turned), scale)
        mask = given.get("attn_mask")
        if mask is not None and mask.meta["val"].dtype is torch.bool:
            out = insert.call(aten.logical_not.default, mask)
            scores = insert.call(aten.masked_fill.Scalar, scores, out, -math.inf)
        elif mask is not None:
            scores = insert.call(aten.add.Tensor, scores, mask)
        weights = insert.call(aten.softmax.int, scores, -1)
        insert.replace(node, insert.call(aten.matmul.default, weights, v))


_MASKING = -50.0  # e^-50: an added constant below this leaves an element out of a softmax


def added_masks(graph_module: Any) -> None:
    """Split a constant that is added to logits into what is added and what is masked out."""
    import torch

    aten: Any = torch.ops.aten
    moving = computed(graph_module)
    for node in calls(graph_module):
        if op_name(node) != "add" or not all("softmax" in str(u.target) for u in node.users):
            continue
        for logits, constant in (node.args[:2], node.args[1::-1]):
            if constant in moving or not hasattr(constant, "users"):
                continue
            value = constant_value(graph_module, constant)
            if value.numel() < 2 or float(value.min()) > _MASKING:
                continue
            insert = Inserter(graph_module, node)
            out = insert.call(aten.le.Scalar, constant, _MASKING)
            if bool((value.masked_fill(value <= _MASKING, 0) != 0).any()):
                part = insert.call(aten.masked_fill.Scalar, constant, out, 0.0)
                logits = insert.call(aten.add.Tensor, logits, part)
            insert.replace(node, insert.call(aten.masked_fill.Scalar, logits, out, -math.inf))
            break


def computed(graph_module: Any) -> dict[Any, None]:
    """Return the nodes that depend on an input, in order; everything else is constant."""
    found: dict[Any, None] = {}
    for node in graph_module.graph.nodes:
        if node.op == "placeholder" or any(n in found for n in node.all_input_nodes):
            found[node] = None
    return found


def constant_value(graph_module: Any, node: Any, found: dict[Any, Any] | None = None) -> Any:
    """Return what a node that depends on no input computes; ``found`` has values that are known already."""
    import torch
    from torch.fx.node import map_arg

    if found and node in found:
        return found[node]
    if node.op == "get_attr":
        return reached(graph_module, str(node.target)).detach()
    known = {n: constant_value(graph_module, n, found) for n in node.all_input_nodes}
    with torch.no_grad():
        return node.target(*map_arg(node.args, known.get), **map_arg(node.kwargs, known.get))


REWRITTEN = frozenset(
    (
        *("chunk", "split", "split_with_sizes", "unbind", "select", "stack", "view"),
        *("batch_norm", "scaled_dot_product_attention", "conv_transpose2d"),
    )
)
"""Ops without handlers that are rewritten after composite ops were taken apart."""

REWRITES: tuple[Callable[[Any], None], ...] = (lists, selections, attention, added_masks)
