"""Graph to kernels: one TIR function per node, one workspace, one blob of constants."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bitship.converters.tvm.dispatch import Site, lower_node
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import Function
from bitship.converters.tvm.window import SLACK
from bitship.graph import Graph, Node, verify
from bitship.graph import ops as o
from bitship.graph.base import Operand, as_bytes
from bitship.passes.plan import plan, scratch_name

ALIGNMENT = 64

Address = tuple[str, int]


def aligned(nbytes: int) -> int:
    """Round up to the alignment of everything in the workspace."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Call:
    """One step of the program: a kernel and where its parameters point, as (arena or constants, byte offset)."""

    function: str
    node: str
    arguments: tuple[Address, ...]


@dataclass(frozen=True)
class Program:
    """A lowered graph.

    kernels    PrimFuncs by symbol; calls  in execution order
    inputs, outputs  (address, bytes) of every graph input and output
    """

    kernels: Mapping[str, Any]
    calls: tuple[Call, ...]
    inputs: tuple[tuple[Address, int], ...]
    outputs: tuple[tuple[Address, int], ...]
    arena_bytes: int
    constants: bytes


class Constants:
    """Constant data laid out once; equal bytes share a place, with readable slack behind each."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._known: dict[bytes, int] = {}

    def add(self, raw: bytes) -> int:
        """Return the byte offset of the data."""
        if raw not in self._known:
            self._known[raw] = len(self.data)
            self.data += raw + bytes(aligned(len(raw) + ALIGNMENT) - len(raw))
        return self._known[raw]


def lower(graph: Graph, isa: Isa, prefix: str = "bitship_node") -> Program:
    """Lower a verified graph; UnsupportedError names a node with an op outside the set."""
    ranges = verify(graph)
    target = isa.target()
    functions: list[tuple[Node, Function]] = []
    for i, node in enumerate(graph.nodes):
        if not isinstance(node.op, o.Reshape):  # a reshape is its operand's memory
            fn = Function(f"{prefix}{i}")
            known = tuple(Operand(graph.types[n], ranges[n], graph.constants.get(n)) for n in node.inputs)
            lower_node(Site(fn, isa, node, known, graph.types[node.output]))
            functions.append((node, fn))
    scratch = {node.output: sum(aligned(a.scratch_bytes) for a in fn.arguments) for node, fn in functions}
    memory = plan(graph, {k: v for k, v in scratch.items() if v}, ALIGNMENT)
    constants = Constants()
    at = {name: ("arena", slot.offset) for name, slot in memory.slots.items()}
    read = {memory.root(n) for _, fn in functions for n in fn.tensors} | {memory.root(p.name) for p in graph.outputs}
    for name, value in graph.constants.items():
        if name in read:
            at[name] = ("constants", constants.add(as_bytes(value)))
    at.update((alias, at[root]) for alias, root in memory.aliases.items() if root in at)
    calls = tuple(
        Call(fn.name, f"{node.output} ({node.op.name})", tuple(_addresses(node, fn, at, constants)))
        for node, fn in functions
    )
    return Program(
        kernels={fn.name: fn.finish(target) for _, fn in functions},
        calls=calls,
        inputs=tuple((at[p.name], p.type.nbytes) for p in graph.inputs),
        outputs=tuple((at[p.name], p.type.nbytes) for p in graph.outputs),
        arena_bytes=memory.peak + SLACK,
        constants=bytes(constants.data),
    )


def _addresses(node: Node, fn: Function, at: Mapping[str, Address], constants: Constants) -> Iterator[Address]:
    used = 0
    for a in fn.arguments:
        if a.tensor is not None:
            yield at[a.tensor]
        elif a.constant is not None:
            yield ("constants", constants.add(as_bytes(a.constant)))
        else:
            space, offset = at[scratch_name(node.output)]
            yield (space, offset + used)
            used += aligned(a.scratch_bytes)
