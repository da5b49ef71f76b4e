"""Graph to kernels: one TIR function per node, one workspace, one blob of constants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitship.converters.tvm import copy, elementwise, pool, products
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.plan import ALIGNMENT, Block, aligned, place
from bitship.converters.tvm.softmax import lower_softmax
from bitship.converters.tvm.tir import Argument, Buffer, Function
from bitship.converters.tvm.window import SLACK, Window
from bitship.errors import UnsupportedError
from bitship.graph import Graph, Node, verify
from bitship.graph import ops as o
from bitship.graph.base import Interval, Operand

Address = tuple[str, int]


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
    home = _homes(graph)
    functions: list[tuple[Node, int, Function]] = []
    for i, node in enumerate(graph.nodes):
        if home[node.output] != node.output:
            continue
        fn = Function(f"{prefix}{i}")
        _lower_node(fn, isa, graph, node, ranges, home)
        functions.append((node, i, fn))
    blocks = _blocks(graph, home, functions)
    offsets, size = place(blocks)
    constants = Constants()
    at = {name: ("arena", offset) for name, offset in offsets.items()}
    read = {a.tensor for _, _, fn in functions for a in fn.arguments} | {home[p.name] for p in graph.outputs}
    for name, value in graph.constants.items():
        if name in read:
            at[name] = ("constants", constants.add(_raw(value)))
    calls = []
    for node, i, fn in functions:
        addresses = tuple(_address(a, i, k, at, constants) for k, a in enumerate(fn.arguments))
        calls.append(Call(fn.name, f"{node.output} ({node.op.name})", addresses))
    return Program(
        kernels={fn.name: fn.finish(target) for _, _, fn in functions},
        calls=tuple(calls),
        inputs=tuple((at[p.name], p.type.nbytes) for p in graph.inputs),
        outputs=tuple((at[home[p.name]], p.type.nbytes) for p in graph.outputs),
        arena_bytes=size,
        constants=bytes(constants.data),
    )


def _raw(array: Any) -> bytes:
    data: bytes = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return data


def _homes(graph: Graph) -> dict[str, str]:
    """Return whose memory every tensor uses: its own, or for a reshape its operand's."""
    home = {name: name for name in graph.types}
    for node in graph.nodes:
        if isinstance(node.op, o.Reshape):
            home[node.output] = home[node.inputs[0]]
    return home


def _blocks(graph: Graph, home: dict[str, str], functions: list[tuple[Node, int, Function]]) -> list[Block]:
    last: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        for name in node.inputs:
            last[home[name]] = i
    for port in graph.outputs:
        last[home[port.name]] = len(graph.nodes)
    blocks = []
    for port in graph.inputs:
        blocks.append(Block(port.name, port.type.nbytes + SLACK, -1, last.get(port.name, -1)))
    for node, i, fn in functions:
        nbytes = graph.types[node.output].nbytes + SLACK
        blocks.append(Block(node.output, nbytes, i, last.get(node.output, i)))
        for k, argument in enumerate(fn.arguments):
            if argument.scratch_bytes:
                blocks.append(Block(_scratch(i, k), argument.scratch_bytes + SLACK, i, i))
    return blocks


def _scratch(node: int, argument: int) -> str:
    return f"\0scratch {node} {argument}"


def _address(a: Argument, node: int, k: int, at: Mapping[str, Address], constants: Constants) -> Address:
    if a.tensor is not None:
        return at[a.tensor]
    if a.constant is not None:
        return ("constants", constants.add(_raw(a.constant)))
    return at[_scratch(node, k)]


def _lower_node(
    fn: Function, isa: Isa, graph: Graph, node: Node, ranges: Mapping[str, Interval], home: Mapping[str, str]
) -> None:
    types = graph.types
    out_type = types[node.output]
    out = fn.tensor(node.output, out_type)
    known = [Operand(types[n], ranges[n], graph.constants.get(n)) for n in node.inputs]
    shapes = [k.type.shape for k in known]

    def x(i: int) -> Buffer:
        return fn.tensor(home[node.inputs[i]], types[node.inputs[i]])

    match node.op:
        case o.Conv2D() as op:
            products.lower_conv(fn, isa, op, x, out, (known[0], known[1], known[2]), out_type.shape)
        case o.DepthwiseConv2D() as op:
            products.lower_depthwise(fn, isa, op, x, out, (known[0], known[1], known[2]), out_type.shape)
        case o.FullyConnected() as op:
            products.lower_fully_connected(fn, isa, op, x, out, (known[0], known[1], known[2]))
        case o.MatMul() as op:
            products.lower_matmul(fn, isa, op, x, out, (known[0], known[1]))
        case o.Add() | o.Sub() as op:
            extents = (shapes[0], shapes[1], out_type.shape)
            elementwise.lower_sum(fn, isa, op, (x(0), x(1)), out, extents, (known[0].range, known[1].range))
        case o.Mul() as op:
            extents = (shapes[0], shapes[1], out_type.shape)
            elementwise.lower_mul(fn, isa, op, (x(0), x(1)), out, extents, (known[0].range, known[1].range))
        case o.Rescale() as op:
            elementwise.lower_rescale(fn, isa, op, x(0), out, shapes[0], known[0].range)
        case o.AvgPool2D() | o.MaxPool2D() as op:
            n, h, w, c = shapes[0]
            oh, ow = out_type.shape[1:3]
            window = Window(n, h, w, c, oh, ow, op.kernel, op.stride, (1, 1), op.padding)
            pool.lower_pool(fn, isa, op, x(0), out, window)
        case o.ReduceSum() | o.ReduceMax() | o.ReduceMin() | o.ReduceAny() as op:
            pool.lower_reduce(fn, isa, op, x(0), out, shapes[0], known[0].range)
        case o.Resize() as op:
            pool.lower_resize(fn, isa, op, x(0), out, shapes[0])
        case _:
            _lower_mover(fn, node, x, out, shapes, out_type.shape)


def _lower_mover(
    fn: Function, node: Node, x: Any, out: Buffer, shapes: list[tuple[int, ...]], out_shape: tuple[int, ...]
) -> None:
    """Ops without arithmetic of their own, and the scalar ones."""
    size = int(np.prod(out_shape))
    match node.op:
        case o.Table():
            elementwise.lower_table(fn, x(0), x(1), out, size)
        case o.Clamp() as op:
            elementwise.lower_clamp(fn, op, x(0), out, size)
        case o.Cast() as op:
            elementwise.lower_cast(fn, op, x(0), out, size)
        case o.LogicalLeftShift() | o.ArithmeticRightShift() as op:
            elementwise.lower_shift(fn, op, x(0), out, size)
        case o.ArgMax() as op:
            pool.lower_argmax(fn, op, x(0), out, shapes[0])
        case o.Pad() as op:
            copy.lower_pad(fn, op, x(0), out, shapes[0], out_shape)
        case o.Concat() as op:
            copy.lower_concat(fn, op, [x(i) for i in range(len(shapes))], out, shapes, out_shape)
        case o.Slice() as op:
            copy.lower_slice(fn, op, x(0), out, shapes[0])
        case o.Transpose() as op:
            copy.lower_transpose(fn, op, x(0), out, shapes[0], out_shape)
        case o.Gather() as op:
            copy.lower_gather(fn, op, x(0), x(1), out, shapes[0], shapes[1][0])
        case o.Softmax():
            lower_softmax(fn, x(0), x(1), out, shapes[0])
        case other:
            raise UnsupportedError(f"tvm: node '{node.output}': no lowering for {other.name}")
