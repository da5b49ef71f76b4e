"""A kernel's operands may lie anywhere, gigabytes apart, and nothing behind their last byte is ever touched."""

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest
from close_calls import every_tensor
from merged_cases import ALL_CASES
from test_cores import runnable

from bitship import kernels
from bitship.converters.firmware.cores import Core, lower_for
from bitship.graph.base import Array
from bitship.graph.calls import Call, Operand, Packed
from bitship.graph.host import new_struct

APART = 5 << 29  # 2.5 GiB: two neighbours are further apart than an int32 counts
PLACES = 9
PACKED_ALIGNMENT, SCRATCH_ALIGNMENT = 4, 16
NO_ACCESS = 0
MAP_NORESERVE = 0x4000  # of Linux; named by Python 3.13

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Memory:
    """Address space with places far apart; what is put there ends where memory ends, up to its alignment."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, PLACES * APART, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        self.bytes = np.frombuffer(self.map, np.uint8)
        for place in range(PLACES):
            self._protect((place + 1) * APART - mmap.PAGESIZE)

    def _protect(self, at: int) -> None:
        assert libc.mprotect(self.bytes.ctypes.data + at, mmap.PAGESIZE, NO_ACCESS) == 0

    def put(self, place: int, nbytes: int, alignment: int) -> Array:
        """Return bytes whose end is the end of a place."""
        at = ((place + 1) * APART - mmap.PAGESIZE - nbytes) // alignment * alignment
        return self.bytes[at : at + nbytes]


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory()


def run_call(memory: Memory, call: Call, values: dict[str, Array], out: Array) -> None:
    """Run one kernel call with every operand in a place of its own."""
    ffi, lib = kernels.load()
    keep: list[Any] = []
    params = new_struct(ffi, call.params, keep)

    def pointer(place: int, what: Operand) -> Any:
        if isinstance(what, Packed):
            data, alignment = np.frombuffer(what.data, np.uint8), PACKED_ALIGNMENT
        else:
            data, alignment = values[what], values[what].itemsize
        spot = memory.put(place, data.nbytes, alignment)
        spot[:] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        return ffi.cast("void *", spot.ctypes.data)

    arguments = [pointer(i + 1, what) for i, what in enumerate(call.operands)]
    if call.scratch_bytes:
        scratch = memory.put(PLACES - 1, call.scratch_bytes, SCRATCH_ALIGNMENT)
        arguments += [ffi.cast("void *", scratch.ctypes.data), call.scratch_bytes]
    error = getattr(lib, call.function)(params, *arguments, ffi.cast("void *", out.ctypes.data))
    assert error in (None, 0), f"{call.function}: error {error}"


@pytest.mark.parametrize("core", [core for core in Core if runnable(core)])
@pytest.mark.parametrize("name", sorted(ALL_CASES))
def test_every_case_is_exact_with_operands_far_apart(core: Core, name: str, memory: Memory) -> None:
    graph, rows = ALL_CASES[name]()
    for row in rows[:2]:
        values = every_tensor(graph, row)
        for node in graph.nodes:
            wanted = values[node.output]
            calls = lower_for(core, graph, node)
            out = memory.put(0, wanted.nbytes, wanted.itemsize)
            for call in calls:
                run_call(memory, call, values, out)
            assert not calls or (out.view(wanted.dtype).reshape(wanted.shape) == wanted).all(), node.output
