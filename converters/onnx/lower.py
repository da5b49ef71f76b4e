"""From a graph to an integer-only ONNX model."""

from collections.abc import Callable

from bitship.converters.onnx.machine import OnnxMachine
from bitship.converters.onnx.model import ModelBuilder
from bitship.converters.primitives import LOWERINGS, Value
from bitship.errors import UnsupportedError
from bitship.graph import Graph


def lower(graph: Graph) -> bytes:
    """Return the model of a graph; UnsupportedError names a node that has no exact form."""
    model = ModelBuilder()
    machine = OnnxMachine(model)
    inputs = [f"input_{i}" for i in range(len(graph.inputs))]
    outputs = [f"output_{i}" for i in range(len(graph.outputs))]
    values = {p.name: Value(n, p.type.shape, p.type.dtype) for p, n in zip(graph.inputs, inputs, strict=True)}
    for name, array in graph.constants.items():
        values[name] = Value("", array.shape, graph.types[name].dtype, array)
    for node in graph.nodes:
        function: Callable[..., Value] = LOWERINGS[type(node.op)]
        try:
            y = function(machine, node.op, *(values[i] for i in node.inputs))
            values[node.output] = machine.reshape(y, graph.types[node.output].shape)  # numbers there have an axis
        except UnsupportedError as e:
            raise UnsupportedError(f"{graph.name}: node '{node.output}' ({node.op.name}): {e}") from None
    for port, name in zip(graph.outputs, outputs, strict=True):
        model.node("Identity", [machine.name_of(values[port.name])], name)
    return model.encode(graph, inputs, outputs, "integer")
