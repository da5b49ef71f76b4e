"""Runs one kernel call with an operand as close behind the output as the call allows, or closer."""

from dataclasses import replace
from typing import Any

import numpy as np

from bitship import kernels
from bitship.converters.firmware.cores import Core, lower_for
from bitship.graph import Graph, Port, spec
from bitship.graph.base import Array
from bitship.graph.calls import Call, Operand, Packed
from bitship.graph.host import new_struct

GUARD = 256


def every_tensor(graph: Graph, row: tuple[Array, ...]) -> dict[str, Array]:
    """The value of every tensor of the graph by name, from the specification."""
    names = [n.output for n in graph.nodes]
    whole = replace(graph, outputs=tuple(Port(n, graph.types[n], None) for n in names))
    computed = dict(zip(names, spec.run(whole, *row), strict=True))
    return computed | {p.name: v for p, v in zip(graph.inputs, row, strict=True)} | dict(graph.constants)


def close_calls(graph: Graph, core: Core) -> list[tuple[Call, int]]:
    """Every (call, operand's index) of the graph that may share memory."""
    calls = [call for node in graph.nodes for call in lower_for(core, graph, node)]
    return [(call, i) for call in calls for i, d in enumerate(call.overlap) if d is not None]


def run_close(call: Call, index: int, values: dict[str, Array], nearer: int = 0) -> bool:
    """Run the call with operand ``index`` at its declared distance less ``nearer`` bytes; whether the output is right.

    Both lie in one block of noise; bytes around the two must stay as they are.
    """
    ffi, lib = kernels.load()
    keep: list[Any] = []
    params = new_struct(ffi, call.params, keep)
    operand, wanted, distance = call.operands[index], values[call.output], call.overlap[index]
    assert isinstance(operand, str)
    assert distance is not None
    distance -= nearer
    item = max(values[operand].itemsize, wanted.itemsize)
    distance = -(-distance // item) * item  # what an aligned arena would do
    content = np.ascontiguousarray(values[operand]).reshape(-1).view(np.uint8)
    out_at = GUARD + max(0, -distance + 63) // 64 * 64
    in_at = out_at + distance
    size = max(out_at + wanted.nbytes, in_at + content.nbytes) + GUARD
    room = np.random.default_rng(0).integers(0, 256, size + 64).astype(np.uint8)
    memory = room[-room.ctypes.data % 64 :][:size]
    memory[in_at : in_at + content.nbytes] = content
    before = memory.copy()

    def pointer(i: int, what: Operand) -> Any:
        if i == index:
            return ffi.cast("void *", memory.ctypes.data + in_at)
        data = np.frombuffer(what.data, np.uint8) if isinstance(what, Packed) else values[what]
        space = np.zeros(data.nbytes + 64, np.uint8)
        copy = space[-space.ctypes.data % 64 :][: data.nbytes]
        copy[:] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        keep.append(space)
        return ffi.cast("void *", copy.ctypes.data)

    arguments = [pointer(i, what) for i, what in enumerate(call.operands)]
    if call.scratch_bytes:
        scratch = np.full(call.scratch_bytes + 64, 0xA5, np.uint8)
        arguments += [ffi.cast("void *", scratch.ctypes.data + -scratch.ctypes.data % 64), call.scratch_bytes]
    error = getattr(lib, call.function)(params, *arguments, ffi.cast("void *", memory.ctypes.data + out_at))
    assert error in (None, 0), f"{call.function}: error {error}"
    found = memory[out_at : out_at + wanted.nbytes].view(wanted.dtype).reshape(wanted.shape)
    assert (memory[: min(in_at, out_at)] == before[: min(in_at, out_at)]).all()
    end = max(in_at + content.nbytes, out_at + wanted.nbytes)
    assert (memory[end:] == before[end:]).all()
    return bool((found == wanted).all())
