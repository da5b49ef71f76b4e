"""Rounding the int8 weights of a graph to four bits."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction

import msgspec
import numpy as np

from bitship.graph import DType, Graph, Node, host, verify
from bitship.graph.base import Array
from bitship.graph.fixedpoint import quantize_multiplier
from bitship.graph.ops import Conv2D, DepthwiseConv2D, FullyConnected, Rescale, Rounding
from bitship.graph.packing import Packing, fits
from bitship.importers.integerize import Weights
from bitship.quantization.planned import quantize_weights

_LAYERS = (Conv2D, DepthwiseConv2D, FullyConnected)


def input_means(graph: Graph, inputs: Iterable[tuple[Array, ...]]) -> dict[str, Array]:
    """Return the mean code of every channel of every layer's input, over inputs of the graph: for bias correction.

    Runs on the host's C kernels; float64 [C] by tensor name.
    """
    names = {n.inputs[0] for n in graph.nodes if isinstance(n.op, _LAYERS)}
    sums: dict[str, Array] = {}
    count = 0
    for row in inputs:
        values = host.trace(graph, *row)
        for name in names:
            mean = values[name].reshape(-1, values[name].shape[-1]).mean(axis=0, dtype=np.float64)
            sums[name] = sums.get(name, 0.0) + mean
        count += 1
    return {name: total / max(count, 1) for name, total in sums.items()}


def narrowed(graph: Graph, group: int = 0, depthwise: bool = True, means: Mapping[str, Array] | None = None) -> Graph:
    """Return the graph with its int8 weights rounded to four bits: for a model that comes without float weights.

    group      inputs that share a multiplier, in matrix products and 1x1 convolutions; 0: scales per channel alone
    depthwise  whether depthwise weights are rounded too; they are few, and lose the most
    means      of every layer's input (``input_means``): what rounding takes from a channel's mean output goes into its
               bias (bias correction, arXiv 1906.04721)

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
        wanted = constants[bias].astype(np.float64)
        if means is not None and node.inputs[0] in means:
            wanted = wanted + _lost(node, graph.constants[name], constants[name], scales, means[node.inputs[0]])
        constants[finer] = np.clip(np.rint(wanted / scales), -(1 << 30), 1 << 30).astype(np.int32)
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


def _lost(node: Node, before: Array, after: Array, scales: Array, mean: Array) -> Array:
    """Return what a channel's sum loses on average when its weights are rounded, in units of the int8 sum."""
    op = node.op
    assert isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected)
    centred = mean - op.input_zero_point
    if isinstance(op, DepthwiseConv2D):
        channels, each = before.shape[2:]
        off = (before.astype(np.float64) - after * scales.reshape(channels, each)).sum(axis=(0, 1))
        return np.asarray((off * centred[:, None]).reshape(-1))
    off = before.astype(np.float64) - after * scales.reshape(-1, *(1,) * (before.ndim - 1))
    per_input = off.reshape(len(off), -1, before.shape[-1]).sum(axis=1)
    groups = len(centred) // before.shape[-1]
    inputs = centred.reshape(groups, -1).repeat(len(off) // groups, axis=0)
    return np.asarray((per_input * inputs).sum(axis=1))


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
