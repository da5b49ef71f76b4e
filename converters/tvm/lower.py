"""Graph to kernels: one TIR function per node, one workspace, one blob of constants."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitship.converters.tvm.dispatch import Site, lower_node
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.tir import Argument, Function, Stage
from bitship.converters.tvm.views import shortcuts
from bitship.converters.tvm.window import SLACK
from bitship.graph import Graph, Node, verify
from bitship.graph import ops as o
from bitship.graph.base import Array, Operand, as_bytes
from bitship.graph.packing import HIGHEST, LOWEST
from bitship.passes.plan import plan, scratch_name

ALIGNMENT = 64
_NUMBER = 8  # bytes
_WORTH_PACKING = 128  # elements
WORTH_SHARING = 1 << 13  # elements, or 64 products: less than a few microseconds is not worth a meeting of threads

Address = tuple[str, int]  # "arena", "constants" or "unpacked" and an offset; of a number, its dtype and value


def aligned(nbytes: int, alignment: int = ALIGNMENT) -> int:
    """Round up to the alignment of everything in the workspace."""
    return -(-nbytes // alignment) * alignment


@dataclass(frozen=True)
class Call:
    """One step of the program: a kernel and where its parameters point, as (arena or constants, byte offset).

    shared  whether threads divide it among themselves; otherwise the first one runs it
    extent  iterations that threads can share; sizes  bytes behind every argument, where its kernel was told
    """

    function: str
    node: str
    arguments: tuple[Address, ...]
    shared: bool = False
    extent: int = 1
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Program:
    """A lowered graph.

    kernels    PrimFuncs by symbol; calls  in execution order
    inputs, outputs  (address, bytes) of every graph input and output
    narrow     constants of four bits; they are unpacked once into ``unpacked_bytes`` of memory
    """

    kernels: Mapping[str, Any]
    calls: tuple[Call, ...]
    inputs: tuple[tuple[Address, int], ...]
    outputs: tuple[tuple[Address, int], ...]
    arena_bytes: int
    constants: bytes
    narrow: tuple["Narrow", ...] = ()
    unpacked_bytes: int = 0


@dataclass(frozen=True)
class Narrow:
    """Codes of four bits, two to a byte, the first in the low half: at ``source`` among the constants.

    target  offset in the unpacked memory; count  of codes; width  bytes of an unpacked one, 1 or 2
    """

    source: int
    target: int
    count: int
    width: int


class Nibbles:
    """Constants that are kept in four bits; equal ones once."""

    def __init__(self, constants: "Constants") -> None:
        self.constants = constants
        self.found: dict[tuple[str, bytes], Narrow] = {}
        self.nbytes = 0

    def take(self, value: Array) -> Address | None:
        """Return where an array lies unpacked; None for one that has no four bits, or is too small to be worth it."""
        if value.dtype.name not in ("int8", "int16") or value.size < _WORTH_PACKING:
            return None
        if int(value.min()) < LOWEST or int(value.max()) > HIGHEST:
            return None
        key = (value.dtype.name, as_bytes(value))
        if key not in self.found:
            codes = np.resize(value.reshape(-1).astype(np.uint8) & 15, value.size + value.size % 2)
            source = self.constants.add((codes[::2] | codes[1::2] << 4).tobytes())
            self.found[key] = Narrow(source, self.nbytes, value.size, value.itemsize)
            self.nbytes += aligned(value.nbytes + ALIGNMENT)
        return ("unpacked", self.found[key].target)


class Constants:
    """Constant data laid out once; equal bytes share a place, with readable slack behind each.

    Single numbers lie together, for vectors are not read from them.
    """

    def __init__(self, alignment: int = ALIGNMENT) -> None:
        self.alignment = alignment
        self.data = bytearray()
        self._known: dict[bytes, int] = {}
        self._places: list[int] = []

    def add(self, raw: bytes) -> int:
        """Return the byte offset of the data."""
        if raw not in self._known:
            single = len(raw) <= _NUMBER and self.alignment == ALIGNMENT
            self._known[raw] = self._number(raw) if single else len(self.data)
            if not single:
                self.data += raw + bytes(aligned(len(raw) + ALIGNMENT, self.alignment) - len(raw))
        return self._known[raw]

    def _number(self, raw: bytes) -> int:
        if not self._places:
            first = len(self.data)
            self.data += bytes(2 * ALIGNMENT)
            self._places = list(range(first, first + ALIGNMENT, _NUMBER))
        at = self._places.pop(0)
        self.data[at : at + len(raw)] = raw
        return at


class Kernels:
    """Every kernel once: nodes whose code is the same, whatever their constants and tensors, share one."""

    def __init__(self) -> None:
        self.functions: dict[str, Any] = {}
        self._known: dict[int, list[tuple[str, Any]]] = {}

    def symbol(self, stage: Stage) -> str:
        """Return the symbol of the function that does what this stage does."""
        import tvm_ffi

        alike = self._known.setdefault(tvm_ffi.structural_hash(stage.function), [])
        for name, function in alike:
            if tvm_ffi.structural_equal(function, stage.function):
                return name
        alike.append((stage.name, stage.function))
        self.functions[stage.name] = stage.function.with_attr("global_symbol", stage.name)
        return stage.name


def lower(
    graph: Graph,
    isa: Isa,
    prefix: str = "bitship_node",
    make: Callable[[str], Function] = Function,
    alignment: int = ALIGNMENT,
) -> Program:
    """Lower a verified graph; UnsupportedError names a node with an op outside the set.

    make  starts a kernel; alignment  in bytes, of whatever a parameter points to
    """
    ranges = verify(graph)
    target = isa.target()
    functions: list[tuple[Node, Function]] = []
    short = shortcuts(graph)
    for i, node in enumerate(graph.nodes):
        if not isinstance(node.op, o.Reshape) and node.output not in short.aliases:  # else it is another's memory
            fn = make(f"{prefix}{i}")
            known = tuple(Operand(graph.types[n], ranges[n], graph.constants.get(n)) for n in node.inputs)
            lower_node(Site(fn, isa, node, known, graph.types[node.output], shortcuts=short))
            functions.append((node, fn))
    scratch = {node.output: sum(aligned(a.scratch_bytes, alignment) for a in fn.arguments) for node, fn in functions}
    memory = plan(graph, {k: v for k, v in scratch.items() if v}, alignment, short.aliases)
    constants = Constants(alignment)
    nibbles = Nibbles(constants) if make is Function else None  # who launches kernels of its own unpacks nothing
    at = {name: ("arena", slot.offset) for name, slot in memory.slots.items()}
    read = {memory.root(n) for _, fn in functions for n in fn.tensors} | {memory.root(p.name) for p in graph.outputs}
    for name, value in graph.constants.items():
        if name in read:
            kept = nibbles.take(value) if nibbles is not None and name in graph.packing else None
            at[name] = kept or ("constants", constants.add(as_bytes(value)))
    at.update((alias, at[root]) for alias, root in memory.aliases.items() if root in at)
    kernels = Kernels()
    calls: list[Call] = []
    for node, fn in functions:
        few = nibbles if any(n in graph.packing for n in node.inputs) else None
        addresses = tuple(_addresses(node, fn, at, constants, few, alignment))
        label = f"{node.output} ({node.op.name})"
        sizes = tuple(_size(a) for a in fn.arguments)
        for stage in fn.finish(target):
            shared = stage.divided and _work(graph, node) >= WORTH_SHARING
            calls.append(Call(kernels.symbol(stage), label, addresses, shared, stage.extent, sizes))
    return Program(
        kernels=kernels.functions,
        calls=tuple(calls),
        inputs=tuple((at[p.name], p.type.nbytes) for p in graph.inputs),
        outputs=tuple((at[p.name], p.type.nbytes) for p in graph.outputs),
        arena_bytes=memory.peak + SLACK,
        constants=bytes(constants.data),
        narrow=() if nibbles is None else tuple(nibbles.found.values()),
        unpacked_bytes=0 if nibbles is None else nibbles.nbytes,
    )


def _work(graph: Graph, node: Node) -> int:
    return max(graph.types[node.output].size, graph.node_macs(node) // 64)


def _size(a: Argument) -> int:
    return a.nbytes or a.scratch_bytes or (0 if a.constant is None else a.constant.nbytes)


def _addresses(
    node: Node, fn: Function, at: Mapping[str, Address], constants: Constants, nibbles: Nibbles | None, alignment: int
) -> Iterator[Address]:
    used = 0
    for a in fn.arguments:
        if a.number is not None:
            yield a.number
        elif a.tensor is not None:
            yield at[a.tensor]
        elif a.constant is not None:
            kept = None if nibbles is None else nibbles.take(a.constant)
            yield kept or ("constants", constants.add(as_bytes(a.constant)))
        else:
            space, offset = at[scratch_name(node.output)]
            yield (space, offset + used)
            used += aligned(a.scratch_bytes, alignment)
