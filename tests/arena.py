"""Runs a firmware program on this machine exactly as its C would: the same calls, in the planned arena, in order.

Everything the plan does not protect is garbage: the arena starts as noise, and canaries lie around it.
"""

from typing import Any

import numpy as np

from bitship import kernels
from bitship.converters.firmware.emit import Program
from bitship.graph.base import Array
from bitship.graph.calls import Operand
from bitship.graph.host import new_struct
from bitship.passes.plan import scratch_name

GUARD = 64


class Arena:
    """A program prepared for this machine's kernels library, which must have its functions."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._ffi, self._lib = kernels.load()
        self._keep: list[Any] = []
        self._calls = [
            (getattr(self._lib, call.function), new_struct(self._ffi, call.params, self._keep), call)
            for _, calls in program.calls
            for call in calls
        ]
        room = np.zeros(len(program.weights) + 64, np.uint8)
        self._weights = room[-room.ctypes.data % 64 :][: len(program.weights)]
        self._weights[:] = np.frombuffer(program.weights, np.uint8)
        self._keep.append(room)

    def run(self, *inputs: Array) -> list[Array]:
        """Return the outputs; AssertionError when a kernel refuses or leaves the arena."""
        plan = self._program.plan
        sizes = {"": plan.peak, **plan.elsewhere}
        memories = {name: _noise(nbytes) for name, nbytes in sizes.items()}
        before = {name: memory.copy() for name, memory in memories.items()}
        bodies = {name: memory[GUARD : len(memory) - GUARD] for name, memory in memories.items()}
        for port, value in zip(self._program.graph.inputs, inputs, strict=True):
            slot = plan.slot(port.name)
            assert slot is not None
            to = bodies[slot.memory][slot.offset : slot.offset + value.nbytes]
            to[:] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        for function, params, call in self._calls:
            arguments = [self._pointer(bodies, operand) for operand in call.operands]
            if call.scratch_bytes:
                slot = plan.slots[scratch_name(call.output)]
                assert call.scratch_bytes <= slot.size
                arguments += [self._at(bodies[slot.memory], slot.offset), call.scratch_bytes]
            error = function(params, *arguments, self._pointer(bodies, call.output))
            assert error in (None, 0), f"{call.function} of {call.output}: error {error}"
        for name, memory in memories.items():
            assert (memory[:GUARD] == before[name][:GUARD]).all(), f"bytes before the arena {name} were written"
            assert (memory[-GUARD:] == before[name][-GUARD:]).all(), f"bytes behind the arena {name} were written"
        return [self._read(bodies, p.name, p.type.shape, p.type.dtype.numpy) for p in self._program.graph.outputs]

    def _at(self, memory: Array, offset: int) -> Any:
        return self._ffi.cast("void *", memory.ctypes.data + offset)

    def _pointer(self, bodies: dict[str, Array], operand: Operand) -> Any:
        slot = self._program.plan.slot(operand) if isinstance(operand, str) else None
        if slot is not None:
            return self._at(bodies[slot.memory], slot.offset)
        known = self._program.plan.root(operand) if isinstance(operand, str) else operand
        return self._at(self._weights, self._program.offsets[known])

    def _read(self, bodies: dict[str, Array], name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        slot = self._program.plan.slot(name)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        at = self._program.offsets[self._program.plan.root(name)] if slot is None else slot.offset
        memory = self._weights if slot is None else bodies[slot.memory]
        return np.asarray(memory[at : at + size].view(dtype).reshape(shape).copy())


def _noise(nbytes: int) -> Array:
    """Random bytes, aligned, with room for canaries before and behind."""
    noise = np.random.default_rng(0).integers(0, 256, nbytes + 2 * GUARD + 64).astype(np.uint8)
    return noise[-noise.ctypes.data % 64 :][: nbytes + 2 * GUARD]
