"""Rounding the int8 weights of a graph to four bits."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import msgspec
import numpy as np

from bitship.graph import DType, Graph, Node, verify
from bitship.graph.base import Array
from bitship.graph.fixedpoint import quantize_multiplier
from bitship.graph.ops import Conv2D, DepthwiseConv2D, FullyConnected, Rescale, Rounding
from bitship.graph.packing import Packing, fits
from bitship.importers.integerize import Weights
from bitship.quantization.planned import quantize_weights

_LAYERS = (Conv2D, DepthwiseConv2D, FullyConnected)


def narrowed(graph: Graph, group: int = 0, depthwise: bool = True) -> Graph:
    """Return the graph with its int8 weights rounded to four bits: for a model that comes without float weights.

    group      inputs that share a multiplier, in matrix products and 1x1 convolutions; 0: scales per channel alone
    depthwise  whether depthwise weights are rounded too; they are few, and lose the most

    Scales go into bias and epilogue, which rounds once afterwards. Layers without an epilogue, with a weight zero
    point or with weights that are computed or shared stay as they are.
    """
    uses: dict[str, int] = {}
    for node in graph.nodes:
        for name in node.inputs:
            uses[name] = uses.get(name, 0) + 1
    constants, packing, nodes = dict(graph.constants), dict(graph.packing), []
    for node in graph.nodes:
        if not _taken(graph, node, uses, depthwise):
            nodes.append(node)
            continue
        name, bias = node.inputs[1:]
        w = _weights(node, constants[name], group)
        packing[name] = w.packing or Packing()
        shape = constants[name].shape
        rows = w.values
        constants[name] = rows.T.reshape(shape) if isinstance(node.op, DepthwiseConv2D) else rows.reshape(shape)
        scales = np.array(w.scales, np.float64)
        finer = f"{bias}.{node.output}"
        constants[finer] = np.clip(np.rint(constants[bias] / scales), -(1 << 30), 1 << 30).astype(np.int32)
        nodes.append(msgspec.structs.replace(_scaled(node, w.scales), inputs=(node.inputs[0], name, finer)))
    found = replace(graph, packing=packing).with_nodes(tuple(nodes), constants)
    found = replace(found, packing={k: v for k, v in packing.items() if k in found.constants})
    verify(found)
    return found


def _taken(graph: Graph, node: Node, uses: Mapping[str, int], depthwise: bool) -> bool:
    op = node.op
    if not isinstance(op, _LAYERS) or (isinstance(op, DepthwiseConv2D) and not depthwise):
        return False
    name, bias = node.inputs[1:]
    return (
        op.requant is not None
        and op.requant.pre_shift == 0
        and op.weight_zero_point == 0
        and name in graph.constants
        and bias in graph.constants
        and graph.types[name].dtype is DType.INT8
        and uses[name] == 1
        and not fits(graph.constants[name], graph.packing.get(name, Packing()))
    )


def _weights(node: Node, values: Array, group: int) -> Weights:
    """Return [channels, inputs] weights of four bits with scales in units of the int8 ones."""
    rows = values.reshape(values.shape[0], -1)
    pointwise = values.ndim == 2 or values.shape[1:3] == (1, 1)
    if isinstance(node.op, DepthwiseConv2D):
        rows, pointwise = values.reshape(values.shape[0] * values.shape[1], -1).T, False
    return quantize_weights(rows.astype(np.float64), 4, group if pointwise else 0)


def _scaled(node: Node, scales: tuple[float | Fraction, ...]) -> Node:
    """Return the node with an epilogue of sums that are smaller by these scales."""
    op = node.op
    assert isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected)
    r = op.requant
    assert isinstance(r, Rescale)
    repeats = 1 if r.per_channel else len(scales)
    old = zip(r.multiplier * repeats, r.shift * repeats, strict=True)
    exact = [Fraction(m) * Fraction(2) ** (s - 31) * Fraction(k) for (m, s), k in zip(old, scales, strict=True)]
    pairs = [quantize_multiplier(f) for f in exact]
    changed = msgspec.structs.replace(
        r, multiplier=tuple(m for m, _ in pairs), shift=tuple(s for _, s in pairs), rounding=Rounding.SINGLE
    )
    return msgspec.structs.replace(node, op=msgspec.structs.replace(op, requant=changed))
