"""The integer graph: ports, constants, nodes in execution order. Immutable; every change makes a new graph."""

import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import msgspec
import numpy as np

from bitship.errors import GraphError, MissingDependencyError
from bitship.graph.base import MAX_ELEMENTS, MAX_RANK, Array, TensorType, as_bytes
from bitship.graph.dtypes import DType
from bitship.graph.ops import AnyOp
from bitship.graph.packing import Packing, packed_bytes


class Quant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an integer means outside the graph: ``real = scale * (integer - zero_point)``."""

    scale: float
    zero_point: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise GraphError(f"quantization: scale {self.scale} must be finite and positive")


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A graph input or output: the tensor's name, its type, and what its integers mean (None: just integers)."""

    name: str
    type: TensorType
    quant: Quant | None = None


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One op applied to named tensors. ``output`` names its result and the node itself."""

    op: AnyOp
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Graph:
    """A static integer program.

    inputs     fed by the caller, in order
    outputs    handed back, in order; each names an input, a constant or a node's output
    nodes      in execution order: every operand is an input, a constant or an earlier node's output
    constants  weights, biases and tables, read only
    packing    int8 constants that are stored in four bits, by name; the values and the digest are the same without
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array] = field(default_factory=dict)
    packing: Mapping[str, Packing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frozen: dict[str, Array] = {}
        for name, value in self.constants.items():
            array = np.array(value, order="C", copy=value.flags.writeable or not value.flags.c_contiguous or None)
            array.flags.writeable = False
            frozen[name] = array
        object.__setattr__(self, "constants", MappingProxyType(frozen))
        packing = {name: how for name, how in self.packing.items() if name in frozen}
        object.__setattr__(self, "packing", MappingProxyType(packing))

    @cached_property
    def types(self) -> Mapping[str, TensorType]:
        """Type of every tensor by name; GraphError where the graph breaks its rules."""
        return MappingProxyType(_infer_types(self))

    @cached_property
    def digest(self) -> str:
        """sha256 of everything that decides the bits and their meaning (the graph's name is left out)."""
        h = hashlib.sha256()
        h.update(msgspec.json.encode([self.inputs, self.outputs, self.nodes]))
        for name in sorted(self.constants):
            array = self.constants[name]
            h.update(msgspec.json.encode([name, array.dtype.name, array.shape]))
            h.update(as_bytes(array))
        return h.hexdigest()

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(self.node_macs(n) for n in self.nodes)

    @property
    def constant_bytes(self) -> int:
        """Bytes of all constants as files store them: packed ones in four bits."""
        return sum(self.stored_bytes(name) for name in self.constants)

    def stored_bytes(self, name: str) -> int:
        """Return the bytes of one constant as a file stores it."""
        value = self.constants[name]
        return packed_bytes(value.shape, self.packing[name]) if name in self.packing else int(value.nbytes)

    def node_macs(self, node: Node) -> int:
        """Multiply-accumulates of one node."""
        return node.op.macs(self.types[node.output], *(self.types[i] for i in node.inputs))

    def with_nodes(self, nodes: tuple[Node, ...], constants: Mapping[str, Array] | None = None) -> "Graph":
        """Return the graph with other nodes (and constants), dropping constants nothing reads."""
        kept = self.constants if constants is None else constants
        used = {i for n in nodes for i in n.inputs} | {p.name for p in self.outputs}
        return replace(self, nodes=nodes, constants={k: v for k, v in kept.items() if k in used})

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Run on the host through the C kernels and return the outputs: the same bits as the specification.

        inputs  one array per graph input, of its exact shape and dtype; GraphError otherwise

        Where the kernels were not built the specification itself runs, with a warning: the same bits, slowly.
        """
        from bitship.graph import host, spec

        try:
            return host.run(self, *inputs)
        except MissingDependencyError as e:
            warnings.warn(f"graph.run goes through the specification: {e}", stacklevel=2)
            return spec.run(self, *inputs)

    def check_inputs(self, inputs: tuple[Array, ...]) -> None:
        """Raise GraphError unless the arrays fit the graph's inputs in number, shape and dtype."""
        if len(inputs) != len(self.inputs):
            raise GraphError(f"{self.name}: {len(inputs)} inputs given, {len(self.inputs)} needed")
        for port, array in zip(self.inputs, inputs, strict=True):
            if not isinstance(array, np.ndarray):
                raise GraphError(f"{self.name}: input '{port.name}' is {type(array).__name__}, a NumPy array is needed")
            if array.shape != port.type.shape or array.dtype != port.type.dtype.numpy:
                shape = ",".join(map(str, array.shape))
                raise GraphError(
                    f"{self.name}: input '{port.name}' is {array.dtype.name}[{shape}], {port.type} is needed"
                )


def _infer_types(graph: Graph) -> dict[str, TensorType]:
    types: dict[str, TensorType] = {}
    for port in graph.inputs:
        _define(graph, types, port.name, port.type, "input")
    for name, value in graph.constants.items():
        _define(graph, types, name, TensorType(tuple(value.shape), DType.of(value)), "constant")
    for node in graph.nodes:
        _define(graph, types, node.output, _infer_node(graph, types, node), "node")
    for port in graph.outputs:
        if types.get(port.name) != port.type:
            raise GraphError(
                f"{graph.name}: output '{port.name}' is declared {port.type}, the graph gives "
                f"{types.get(port.name, 'nothing of that name')}"
            )
    if not graph.outputs:
        raise GraphError(f"{graph.name}: the graph has no outputs")
    return types


def _define(graph: Graph, types: dict[str, TensorType], name: str, t: TensorType, what: str) -> None:
    if not name or name in types:
        raise GraphError(f"{graph.name}: {what} '{name}' is empty or defined twice")
    if len(t.shape) > MAX_RANK or any(n < 0 for n in t.shape) or t.nbytes >= MAX_ELEMENTS:
        raise GraphError(f"{graph.name}: {what} '{name}' is {t}: rank <= {MAX_RANK} and < 2 GiB are allowed")
    if t.size == 0:
        raise GraphError(f"{graph.name}: {what} '{name}' is {t}: it has no elements")
    types[name] = t


def _infer_node(graph: Graph, types: Mapping[str, TensorType], node: Node) -> TensorType:
    for i in node.inputs:
        if i not in types:
            raise GraphError(
                f"{graph.name}: node '{node.output}' ({node.op.name}) reads '{i}', which nothing before it defines"
            )
    _check_arity(graph, node)
    try:
        return node.op.infer(*(types[i] for i in node.inputs))
    except GraphError as e:
        raise type(e)(f"{graph.name}: node '{node.output}': {e}") from None


def _check_arity(graph: Graph, node: Node) -> None:
    names = node.op.operands
    variadic = names[-1].endswith("*")
    if len(node.inputs) < len(names) or (len(node.inputs) > len(names) and not variadic):
        raise GraphError(
            f"{graph.name}: node '{node.output}': {node.op.name} takes ({', '.join(names)}), "
            f"{len(node.inputs)} operands are given"
        )
