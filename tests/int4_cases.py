"""Cases whose weights are packed in four bits, plain or in groups: the same vectors for every back end."""

import dataclasses
from collections.abc import Callable

import numpy as np
from op_builders import I16, Case, D, conv, depthwise, fc, ints, requant, rng

from bitship.graph import DType, Graph, GraphBuilder
from bitship.graph.ops import FullyConnected, Rounding
from bitship.graph.packing import Packing


def wide_layer() -> tuple[Graph, Graph]:
    """A fully connected layer whose weights are most of its file, in eight bits and in four."""
    r = np.random.default_rng(12)
    b = GraphBuilder("wide")
    weights = ints(r, (256, 512), lo=-8, hi=7)
    op = FullyConnected(3, requant=requant(r, 256, 0.002, Rounding.SINGLE, 1))
    operands = b.input("x", (2, 512), DType.INT8), b.constant("w", weights), b.constant("b", np.zeros(256, np.int32))
    graph = b.finish([(b.node("y", op, *operands), None)])
    return graph, dataclasses.replace(graph, packing={"w": Packing()})


def packed(name: str, case: Case, group: int = 0) -> Case:
    """The case with weights of four bits, all codes among them, times multipliers up to 16 for groups."""
    graph, feeds = case
    weights = graph.nodes[0].inputs[1]
    shape = graph.constants[weights].shape
    codes = rng(name).integers(-8, 8, (shape[0], int(np.prod(shape[1:]))))
    if group:
        codes[:, ::group] = -7  # a divisor of 1: the multiplier below is the one that is found
        codes[:, 1::group] = 6
        each = rng(f"{name} multipliers").integers(1, 17, (shape[0], -(-codes.shape[1] // group)))
        codes *= np.repeat(each, group, 1)[:, : codes.shape[1]]
    constants = {**graph.constants, weights: codes.reshape(shape).astype(np.int8)}
    return dataclasses.replace(graph, constants=constants, packing={weights: Packing(group)}), feeds


PAD = (1, 1, 1, 1)
CASES: dict[str, Callable[[], Case]] = {
    name: (lambda f=f, name=name: f(name))  # type: ignore[misc]
    for name, f in {
        "int4_conv_1x1": lambda n: packed(n, conv(n, (1, 5, 5, 24), 20, (1, 1), izp=-128, zp=-128)),
        "int4_conv_1x1_short": lambda n: packed(n, conv(n, (1, 5, 5, 9), 7, (1, 1), izp=-3)),
        "int4_conv_1x1_g32": lambda n: packed(n, conv(n, (1, 3, 5, 80), 21, (1, 1), izp=-128, zp=3), 32),
        "int4_conv_1x1_g64": lambda n: packed(n, conv(n, (1, 4, 4, 128), 16, (1, 1), izp=5), 64),
        "int4_conv_1x1_odd_g32": lambda n: packed(n, conv(n, (1, 3, 3, 71), 6, (1, 1), izp=-7), 32),
        "int4_conv_3x3": lambda n: packed(n, conv(n, (1, 6, 7, 16), 12, (3, 3), padding=PAD, izp=-128)),
        "int4_conv_3x3_odd": lambda n: packed(n, conv(n, (1, 6, 7, 5), 6, (3, 3), stride=(2, 2), padding=PAD, izp=11)),
        "int4_conv_rgb": lambda n: packed(n, conv(n, (1, 9, 9, 3), 8, (3, 3), stride=(2, 2), padding=PAD, izp=-1)),
        "int4_conv_double": lambda n: packed(n, conv(n, (1, 5, 4, 40), 12, (1, 1), izp=9, rounding=D)),
        "int4_conv_double_g32": lambda n: packed(n, conv(n, (1, 5, 4, 64), 12, (1, 1), izp=9, rounding=D), 32),
        "int4_conv_int32_out": lambda n: packed(n, conv(n, (1, 5, 4, 24), 6, (1, 1), epilogue=False, izp=-128)),
        "int4_conv_int16_out": lambda n: packed(n, conv(n, (1, 5, 4, 24), 6, (1, 1), otype=I16)),
        "int4_conv_int16_in": lambda n: packed(n, conv(n, (1, 5, 4, 24), 6, (1, 1), xtype=I16)),
        "int4_conv_grouped": lambda n: packed(n, conv(n, (1, 6, 6, 12), 8, (3, 3), groups=4, padding=PAD, izp=-20)),
        "int4_fc": lambda n: packed(n, fc(n, 1, 70, 11, izp=-128, per_channel=True)),
        "int4_fc_g32": lambda n: packed(n, fc(n, 1, 160, 11, izp=-4, per_channel=True), 32),
        "int4_fc_rows_g32": lambda n: packed(n, fc(n, 7, 96, 18, izp=-9, per_channel=True), 32),
        "int4_fc_rows_g64": lambda n: packed(n, fc(n, 2, 100, 9, izp=-9), 64),
        "int4_dw": lambda n: packed(n, depthwise(n, (1, 9, 8, 21), (3, 3), padding=PAD, izp=-128)),
    }.items()
}
