"""From a graph to the bytes of a .tflite file."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bitship.converters.primitives import LOWERINGS, Value
from bitship.converters.tflite.file import FileBuilder, Label
from bitship.converters.tflite.machine import PENDING, TfliteMachine
from bitship.errors import UnsupportedError
from bitship.graph import Graph, Port


@dataclass(frozen=True)
class Lowered:
    """The file, and which nodes became one operator."""

    data: bytes
    native: frozenset[str]


def _label(port: Port) -> Label | None:
    return None if port.quant is None else Label((port.quant.scale,), (port.quant.zero_point,))


def lower(graph: Graph) -> Lowered:
    """Write every node; UnsupportedError names the one that has no exact form."""
    file = FileBuilder()
    machine = TfliteMachine(file)
    values: dict[str, Value] = {}
    for port in graph.inputs:
        number = file.tensor(port.type.shape, port.type.dtype, _label(port), port.name)
        values[port.name] = Value(number, port.type.shape, port.type.dtype)
    for name, array in graph.constants.items():
        values[name] = Value(PENDING, array.shape, graph.types[name].dtype, array)
    for node in graph.nodes:
        operands = [values[i] for i in node.inputs]
        function: Callable[..., Value] = LOWERINGS[type(node.op)]
        try:
            values[node.output] = function(machine, node.op, *operands)
        except UnsupportedError as e:
            raise UnsupportedError(f"{graph.name}: node '{node.output}' ({node.op.name}): {e}") from None
    inputs = [int(values[p.name].ref) for p in graph.inputs]
    outputs: list[int] = []
    for port in graph.outputs:
        outputs.append(_own(machine, values[port.name], {*inputs, *outputs}))
    return Lowered(file.encode(inputs, outputs), frozenset())


def _own(machine: TfliteMachine, value: Value, taken: set[int]) -> int:
    """Return a tensor for an output; a constant, and one that is a port already, is copied."""
    if value.array is None and value.ref not in taken:
        return int(value.ref)
    source = value if value.array is None else machine.constant(value.array)
    shape = machine.constant(np.array(value.shape, np.int32))
    fields = {"newShape": list(value.shape)}
    return int(machine.op("RESHAPE", [source, shape], value.shape, value.dtype, "ReshapeOptions", 1, **fields).ref)
