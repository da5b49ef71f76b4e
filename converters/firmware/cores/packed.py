"""Convolutions and fully connected layers of packed weights for plain cores: the order of ``firmware/src/int4.c``."""

from collections.abc import Callable, Mapping

import numpy as np

from bitship.graph import DType, Graph, Node
from bitship.graph.base import Op
from bitship.graph.calls import SMALL_TILE, Call, CStruct, Packed, windows
from bitship.graph.calls.sharing import overlap
from bitship.graph.ops import Conv2D, FullyConnected
from bitship.graph.packing import nibbles, split

_PIXELS = 2


def _weights(graph: Graph, node: Node) -> tuple[Packed, int] | None:
    """Return every channel's multipliers and nibbles, and the group; None for weights that are not packed so."""
    name = node.inputs[1]
    packing = graph.packing.get(name)
    if packing is None or packing.group % 2 or node.inputs[2] not in graph.constants:
        return None
    codes, multipliers = split(graph.constants[name], packing, name)
    rows = codes.reshape(len(codes), -1)
    rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    stored = nibbles(rows).reshape(len(rows), -1)
    if packing.group:
        stored = np.concatenate([multipliers, stored], 1)
    return Packed(stored.tobytes()), packing.group


def layer(graph: Graph, node: Node) -> Call | None:
    """A convolution of one group or a fully connected layer: the plain kernel's geometry, other weights."""
    op = node.op
    assert isinstance(op, Conv2D | FullyConnected)
    found = _weights(graph, node)
    x = graph.types[node.inputs[0]]
    if found is None or op.weight_zero_point or getattr(op, "groups", 1) != 1:
        return None
    if x.dtype is DType.INT16 and op.input_zero_point:
        return None
    weights, group = found
    out, types = graph.types[node.output], [graph.types[i] for i in node.inputs]
    make = windows.conv2d if isinstance(op, Conv2D) else windows.fully_connected
    _, params, _ = make(op, out, types, SMALL_TILE)  # type: ignore[arg-type]
    shared = overlap(op, out, types, params)
    fields = dict(params.fields) | {"weight_group": group}
    taps = graph.types[node.inputs[1]].size // out.shape[-1]
    pixels = min(_PIXELS, out.size // out.shape[-1] // (x.shape[0] if isinstance(op, Conv2D) else 1))
    return Call(
        "bitship_conv2d_int4",
        CStruct("window", tuple(fields.items())),
        (node.inputs[0], weights, node.inputs[2]),
        node.output,
        (taps + taps % 2) * 2 * pixels,
        (shared[0] if shared else None, None, None),
    )


FAMILY: Mapping[type[Op], Callable[[Graph, Node], Call | None]] = {Conv2D: layer, FullyConnected: layer}
FILES: dict[str, tuple[str, ...]] = {"conv2d_int4": ("int4.c",)}
