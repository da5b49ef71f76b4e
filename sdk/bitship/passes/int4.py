"""Packing weights into four bits, and forgetting that they are: neither changes a value, nor the digest."""

from dataclasses import replace

from bitship.graph import Graph
from bitship.graph.ops import Conv2D, DepthwiseConv2D, FullyConnected
from bitship.graph.packing import Packing, fits


def unpacked(graph: Graph) -> Graph:
    """Return the graph with eight bits for every weight: for a converter that stores nothing smaller."""
    return replace(graph, packing={}) if graph.packing else graph


def packed(graph: Graph) -> Graph:
    """Return the graph with the packing of every weight of a convolution or matrix product that fits four bits."""
    found = dict(graph.packing)
    for node in graph.nodes:
        if not isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected):
            continue
        name = node.inputs[1]
        if name in graph.constants and name not in found and fits(graph.constants[name], Packing()):
            found[name] = Packing()
    return replace(graph, packing=found) if found != dict(graph.packing) else graph
