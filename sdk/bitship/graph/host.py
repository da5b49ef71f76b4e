"""Run a graph on this machine through the C kernels: the fast path of ``Graph.run``, the same bits as the spec."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitship import kernels
from bitship.errors import UnsupportedError
from bitship.graph.base import Array, TensorType
from bitship.graph.calls import WIDE_TILE, Call, CArray, CStruct, CValue, Packed, lower
from bitship.graph.ir import Graph, Node
from bitship.graph.ops import Reshape
from bitship.graph.verify import verify

_CACHE = "_host_program"
_ALIGN = 64


@dataclass(frozen=True)
class _Step:
    """One prepared call: the C function, its parameter struct, what it reads and writes."""

    node: Node
    function: Any
    params: Any
    call: Call


@dataclass(frozen=True)
class Program:
    """A graph prepared for the kernels once: structs, tables and constant pointers stay alive with it.

    steps      calls in execution order
    frees      for every step, the tensors nothing reads afterwards
    pointers   addresses of the constants
    keep       everything the structs point to
    """

    graph: Graph
    steps: tuple[_Step, ...]
    frees: tuple[tuple[str, ...], ...]
    constants: dict[str, Array]
    pointers: dict[str, Any]
    scratch_bytes: int
    keep: list[Any]


def _value(ffi: Any, value: CValue, keep: list[Any]) -> Any:
    if isinstance(value, CStruct):
        return new_struct(ffi, value, keep)
    if isinstance(value, CArray):
        pointer = ffi.new(f"{value.ctype}[]", list(value.values))
        keep.append(pointer)
        return pointer
    return ffi.NULL if value is None else value


def new_struct(ffi: Any, struct: CStruct, keep: list[Any]) -> Any:
    """Return a C struct with these fields; what it points to is appended to ``keep``."""
    fields = {name: _value(ffi, value, keep) for name, value in struct.fields}
    pointer = ffi.new(f"struct bitship_{struct.name} *", fields)
    keep.append(pointer)
    return pointer


# Functions with a packed form. True: the second and later operands are constants, packed once and gone; False: they
# are computed, and what is packed is the epilogue.
_PACKED = {"conv2d": True, "depthwise_conv2d": True, "matmul": False, "softmax_matmul": False}


def _packed(graph: Graph, call: Call, params: Any, level: int, constants: dict[str, Array]) -> Call | None:
    """Return the call of the processor's packed kernel, and pack what it reads; None without one."""
    ffi, lib = kernels.load()
    name = call.function.removeprefix("bitship_")
    whole = _PACKED.get(name)
    if whole is None or (whole and any(i not in graph.constants for i in call.tensors[1:])):
        return None
    function = f"bitship_host_{name}"
    size = getattr(lib, f"{function}_packed_bytes")(level, params)
    scratch = getattr(lib, f"{function}_scratch_bytes")(level, params)
    if size == 0 or scratch == 0:
        return None
    packed = _aligned(size)
    sources = [_pointer(ffi, graph.constants[i]) for i in call.tensors[1:]] if whole else []
    if getattr(lib, f"{function}_pack")(level, params, *sources, _pointer(ffi, packed)):
        return None
    operand = f"packed for {call.output}"
    constants[operand] = packed
    kept = call.tensors[:1] if whole else call.tensors
    return replace(call, function=function, operands=(*kept, operand), scratch_bytes=scratch, overlap=())


def _named(call: Call, constants: dict[str, Array]) -> Call:
    """Return the call with its packed operands as constants of their own."""
    operands = list(call.operands)
    for i, operand in enumerate(operands):
        if isinstance(operand, Packed):
            name = operands[i] = f"operand {i} of {call.output}"
            constants[name] = _aligned(len(operand.data))
            constants[name][:] = np.frombuffer(operand.data, np.uint8)
    return replace(call, operands=tuple(operands))


def _aligned(size: int) -> Array:
    """Return bytes that start on a cache line."""
    room = np.empty(size + _ALIGN, np.uint8)
    start = -room.ctypes.data % _ALIGN
    return room[start : start + size]


def prepare(graph: Graph, level: int | None = None) -> Program:
    """Verify and lower a graph; the kernels rely on its range proof.

    level  instructions of packed kernels, up to ``bitship_host_level()``, which is the default
    """
    verify(graph)
    ffi, lib = kernels.load()
    level = lib.bitship_host_level() if level is None else level
    keep: list[Any] = []
    constants = dict(graph.constants)
    steps = []
    for node in graph.nodes:
        for call in lower(graph, node, WIDE_TILE):
            params = new_struct(ffi, call.params, keep)
            chosen = _packed(graph, call, params, level, constants) or _named(call, constants)
            steps.append(_Step(node, getattr(lib, chosen.function), params, chosen))
    last = {name: i for i, step in enumerate(steps) for name in (*step.call.tensors, step.call.output)}
    wanted = {p.name for p in graph.outputs}
    frees: list[list[str]] = [[] for _ in steps]
    for name, i in last.items():
        if name not in constants and name not in wanted:
            frees[i].append(name)
    return Program(
        graph=graph,
        steps=tuple(steps),
        frees=tuple(tuple(names) for names in frees),
        constants=constants,
        pointers={name: _pointer(ffi, array) for name, array in constants.items()},
        scratch_bytes=max((s.call.scratch_bytes for s in steps), default=0),
        keep=keep,
    )


def _pointer(ffi: Any, array: Array) -> Any:
    return ffi.cast("void *", ffi.from_buffer(array))


def _empty(t: TensorType) -> Array:
    return np.empty(t.shape, t.dtype.numpy)


def execute(program: Program, *inputs: Array) -> tuple[Array, ...]:
    """Run a prepared graph; inputs are checked already. Safe from several threads at once."""
    values, graph = _values(program, inputs), program.graph
    return tuple(_owned(values[p.name], inputs, graph) for p in graph.outputs)


def _values(program: Program, inputs: tuple[Array, ...]) -> dict[str, Array]:
    """Run a prepared graph and return the tensors that were not freed."""
    ffi, graph = kernels.load().ffi, program.graph
    values: dict[str, Array] = dict(program.constants)
    values.update((p.name, np.asarray(a, order="C")) for p, a in zip(graph.inputs, inputs, strict=True))
    scratch = np.empty(program.scratch_bytes, np.uint8)
    workspace = _pointer(ffi, scratch)
    pointers = dict(program.pointers)
    pointers.update((p.name, _pointer(ffi, values[p.name])) for p in graph.inputs)

    for step, frees in zip(program.steps, program.frees, strict=True):
        call, out = step.call, step.call.output
        if isinstance(step.node.op, Reshape):
            values[out] = values[call.tensors[0]].reshape(graph.types[out].shape)
            pointers[out] = pointers[call.tensors[0]]
        else:
            if out not in values:
                values[out] = _empty(graph.types[out])
                pointers[out] = _pointer(ffi, values[out])
            extra = (workspace, call.scratch_bytes) if call.scratch_bytes else ()
            operands = [pointers[name] for name in call.tensors]
            error = step.function(step.params, *operands, *extra, pointers[out])
            if error != 0:
                _refuse(graph, step, error)
        for name in frees:
            del values[name]
    return values


def _program(graph: Graph) -> Program:
    program: Program | None = graph.__dict__.get(_CACHE)
    return graph.__dict__.setdefault(_CACHE, prepare(graph)) if program is None else program


def trace(graph: Graph, *inputs: Array) -> dict[str, Array]:
    """Run a graph and return every tensor it computes by name, and its inputs and constants."""
    graph.check_inputs(inputs)
    program = _program(graph)
    return _values(replace(program, frees=((),) * len(program.steps)), inputs)


def _owned(value: Array, inputs: tuple[Array, ...], graph: Graph) -> Array:
    """Return an output that shares no memory with an input or a constant."""
    base = value if value.base is None else value.base
    shared = any(np.may_share_memory(value, x) for x in inputs) or not base.flags.writeable
    return value.copy() if shared else value


def _refuse(graph: Graph, step: _Step, error: int) -> None:
    types = ", ".join(str(graph.types[i]) for i in step.node.inputs)
    raise UnsupportedError(
        f"{graph.name}: node '{step.node.output}': {step.call.function} refuses ({types}) with error {error}"
    )


def run(graph: Graph, *inputs: Array) -> tuple[Array, ...]:
    """Return the outputs of a graph for inputs of its exact shapes and dtypes; GraphError otherwise."""
    graph.check_inputs(inputs)
    return execute(_program(graph), *inputs)
