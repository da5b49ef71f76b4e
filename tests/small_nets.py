"""Small networks for tests of devices: a few ops, a few kilobytes, exported in seconds."""

import numpy as np
from op_builders import I8, D, ints, requant, rng
from test_firmware import network

from bitship.graph import Graph, GraphBuilder
from bitship.graph.ops import AvgPool2D, Conv2D, DepthwiseConv2D


def small_net() -> Graph:
    """Conv, depthwise, residual add, concat, pool, fully connected; four outputs."""
    return network()[0]


def conv_net() -> Graph:
    """Two convolutions around a depthwise one, and a pool: the first layers can run while the image arrives."""
    r = rng("conv_net")
    b = GraphBuilder("conv_net")
    h = b.input("image", (1, 16, 16, 3), I8)
    for i, (o, depthwise) in enumerate(((8, False), (8, True), (16, False))):
        c = b.types[h].shape[3]
        w = b.constant(f"w{i}", ints(r, (3, 3, c, 1) if depthwise else (o, 3, 3, c)))
        bias = b.constant(f"b{i}", r.integers(-99, 99, (o,)).astype(np.int32))
        epilogue = requant(r, o, 1 / 200, D, -3)
        if depthwise:
            h = b.node(
                f"n{i}", DepthwiseConv2D(padding=(1, 1, 1, 1), input_zero_point=-3, requant=epilogue), h, w, bias
            )
        else:
            h = b.node(f"n{i}", Conv2D(padding=(1, 1, 1, 1), input_zero_point=-3, requant=epilogue), h, w, bias)
    return b.finish([(b.node("pool", AvgPool2D((16, 16), (1, 1)), h), None)])
