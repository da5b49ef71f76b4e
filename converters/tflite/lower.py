"""From a graph to the bytes of a .tflite file."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bitship.converters.primitives import LOWERINGS, Value
from bitship.converters.tflite.file import FileBuilder, Label
from bitship.converters.tflite.machine import PENDING, TfliteMachine
from bitship.converters.tflite.native import JOINING, MOVING, NATIVE, Native, Nearest
from bitship.converters.tflite.provenance import Provenance
from bitship.converters.tflite.unsigned import steps_down, steps_up, unsigned
from bitship.errors import UnsupportedError
from bitship.graph import DType, Graph, Node, Port

_CARRIERS = ("CAST", "GATHER")  # their results may have scales that their operands have not


@dataclass(frozen=True)
class Lowered:
    """The file, and which nodes became one operator."""

    data: bytes
    native: frozenset[str]


def _label(port: Port) -> Label | None:
    return None if port.quant is None else Label((port.quant.scale,), (port.quant.zero_point,))


class _Lowering:
    """One graph on its way into a file."""

    def __init__(self, graph: Graph, exact: bool) -> None:
        self.graph = graph
        self.file = FileBuilder()
        self.machine = TfliteMachine(self.file)
        self.unsigned = unsigned(graph)
        found = Provenance(graph, self.unsigned) if exact else Nearest(graph)
        self.native = Native(self.machine, found, exact)
        self.values: dict[str, Value] = {}
        self.one_to_one: set[str] = set()

    def run(self) -> Lowered:
        """Write every node."""
        for port in self.graph.inputs:
            label = self.native.label(port.name)
            number = self.file.tensor(port.type.shape, port.type.dtype, label, port.name)
            self.values[port.name] = Value(number, port.type.shape, port.type.dtype)
        for name, array in self.graph.constants.items():
            self.values[name] = Value(PENDING, array.shape, self.graph.types[name].dtype, array)
        for node in self.graph.nodes:
            try:
                self.values[node.output] = self.node(node)
            except UnsupportedError as e:
                raise UnsupportedError(f"{self.graph.name}: node '{node.output}' ({node.op.name}): {e}") from None
        self.file.unsigned = False
        inputs = [int(self.values[p.name].ref) for p in self.graph.inputs]
        outputs: list[int] = []
        for port in self.graph.outputs:
            outputs.append(self.output(port, {*inputs, *outputs}))
        return Lowered(self.file.encode(inputs, outputs), frozenset(self.one_to_one))

    def node(self, node: Node) -> Value:
        """Return a node's result: one operator where it has one, else integer primitives."""
        operands = [self.values[i] for i in node.inputs]
        shape, dtype = self.graph.types[node.output].shape, self.graph.types[node.output].dtype
        if steps_down(self.graph, node) or (steps_up(node) and self.raised(operands[0])):
            self.one_to_one.add(node.output)
            return Value(operands[0].ref, shape, dtype)
        self.file.unsigned = node.output in self.unsigned
        if type(node.op) in NATIVE:
            made = NATIVE[type(node.op)](self.native, node, *operands, shape=shape)
            if made is not None:
                self.one_to_one.add(node.output)
                return made
        function: Callable[..., Value] = LOWERINGS[type(node.op)]
        label, eight = self.native.label(node.output), dtype is DType.INT8
        if isinstance(node.op, MOVING) and operands[0].array is None and eight:
            label = self.file.label(int(operands[0].ref), operands[0].dtype)
            self.file.unsigned = self.raised(operands[0])
            self.one_to_one.add(node.output)
        elif isinstance(node.op, JOINING) and label is not None and eight:
            operands = [self.native.as_labelled(x, label) for x in operands]
            self.one_to_one.add(node.output)
        else:
            self.file.unsigned = False
            operands = [self.bare(x) for x in operands]
        y = self.machine.reshape(function(self.machine, node.op, *operands), shape)  # numbers there have an axis
        whole = node.output in self.one_to_one or self.file.last_operator() in _CARRIERS
        if whole and y.array is None and y.dtype is DType.INT8 and all(y.ref != x.ref for x in operands):
            self.file.set_label(int(y.ref), label, y.dtype)
        return y

    def raised(self, x: Value) -> bool:
        """Whether int8 codes are uint8 in the file."""
        return x.array is None and x.dtype is DType.INT8 and self.file.tensors[int(x.ref)].dtype is DType.UINT8

    def bare(self, x: Value) -> Value:
        """Return an operand without a scale, as primitives want it."""
        return x if x.array is not None else self.native.as_labelled(x, None)

    def output(self, port: Port, taken: set[int]) -> int:
        """Return a tensor for an output, with its port's scale; constants and ports are copied."""
        value, label = self.native.as_kind(self.values[port.name], False), _label(port)
        if value.array is None and label is not None and value.ref not in taken:
            value = self.native.as_labelled(value, label)
        return _own(self.machine, value, taken)


def lower(graph: Graph, exact: bool = True) -> Lowered:
    """Return the file of a graph; UnsupportedError names a node that has no exact form.

    exact  False: operators with scales wherever there is one that comes close, as vendors' compilers want them
    """
    return _Lowering(graph, exact).run()


def _own(machine: TfliteMachine, value: Value, taken: set[int]) -> int:
    """Return a tensor for an output; a constant, and one that is a port already, is copied."""
    if value.array is None and value.ref not in taken:
        return int(value.ref)
    source = value if value.array is None else machine.constant(value.array)
    shape = machine.constant(np.array(value.shape, np.int32))
    fields = {"newShape": list(value.shape)}
    return int(machine.op("RESHAPE", [source, shape], value.shape, value.dtype, "ReshapeOptions", 1, **fields).ref)
