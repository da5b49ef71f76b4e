"""Graphics processors: OpenCL C, CUDA C or Metal source of the same kernels, and a plan of their launches.

A kernel's parts are work items here: each takes every n-th iteration of the loops that threads share on a processor.
Where a kernel has a barrier, one launch ends and the next begins. A number is an argument, not memory.

    kernels.cl, .cu or .metal  what TVM's code generator wrote
    constants.bin              weights, biases, tables
    launches.json              buffers and launches in order (``LaunchPlan``), for a host program of one's own
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.tvm.build import require_tvm
from bitship.converters.tvm.isa import Isa
from bitship.converters.tvm.lower import Program, lower
from bitship.converters.tvm.tir import Argument, Expr, Function, Index, Stage, i32
from bitship.errors import MissingDependencyError
from bitship.graph import Graph

PLAN, CONSTANTS = "launches.json", "constants.bin"
SOURCES = {"opencl": "kernels.cl", "cuda": "kernels.cu", "metal": "kernels.metal"}
PROVEN = ("opencl",)  # every op's vectors have the graph's bits on an OpenCL device (tests/test_tvm_gpu.py)
ALIGNMENT = 256  # bytes: what devices ask of a part of a buffer, at most
BLOCK = 64
_MOST = 1 << 16


class GpuFunction(Function):
    """A kernel for work items; ``part`` is the item's number, ``parts`` how many there are."""

    portable = True
    scope = "global"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._longest = 1
        self._extents: list[int] = []

    def number(self, value: int, dtype: str) -> Expr:
        """Declare an integer that is an argument of the launch."""
        from tvm import tirx

        var = tirx.Var(self._fresh("n"), dtype)
        self.arguments.append(Argument(number=(dtype, value)))
        self._params.append(var)
        return var

    @contextmanager
    def divided(self, extent: int) -> Iterator[Expr]:
        """Give every work item each ``parts``-th iteration."""
        from tvm import tirx

        self._divided = self._divided or extent > 1
        self._longest = max(self._longest, extent)
        if extent == 1:
            with self.last_part():
                yield i32(0)
            return
        count = tirx.truncdiv(i32(extent) - self.part + self.parts - 1, self.parts)
        with self.loop(self.let(count) if extent else 0) as i:
            yield self.let(self.part + i * self.parts)

    @contextmanager
    def points(self, images: int, rows: int, columns: int, channels: int) -> Iterator[tuple[Expr, Expr, Expr, Expr]]:
        """Give every work item some elements."""
        from tvm import tirx

        def split(value: Expr, by: int) -> tuple[Expr, Expr]:
            whole = self.let(tirx.truncdiv(value, i32(by)))
            return whole, self.let(value - whole * by)

        with self.divided(images * rows * columns * channels) as i:
            rest, c = split(i, channels)
            rest, x = split(rest, columns)
            n, y = split(rest, rows)
            yield n, y, x, c

    def chunks(self, extent: int, lanes: int, body: Callable[[Index, int], None], divided: bool = False) -> None:
        """Write ``body`` for single elements."""
        with self.divided(extent) if divided else self.loop(extent) as i:
            body(i, 1)

    def barrier(self) -> None:
        """End a launch."""
        if self._open[0]:
            self._extents.append(self._longest)
        self._longest = 1
        super().barrier()

    def finish(self, target: Any) -> list[Stage]:
        """Return the launches' kernels."""
        from tvm import ir, tirx

        self.barrier()
        result = []
        for i, (statements, divided) in enumerate(self._stages):
            block, thread = tirx.Var("blockIdx.x", "int32"), tirx.Var("threadIdx.x", "int32")
            inside = tirx.IfThenElse(self.part < self.parts, tirx.SeqStmt([*statements, tirx.Evaluate(i32(0))]), None)
            body: Any = tirx.SeqStmt([*self._head, tirx.Bind(self.part, block * BLOCK + thread), inside])
            for var, tag in ((thread, "threadIdx.x"), (block, "blockIdx.x")):
                item = tirx.IterVar(ir.Range(0, BLOCK), var, tirx.IterVar.ThreadIndex, tag)
                body = tirx.AttrStmt(item, "thread_extent", i32(BLOCK), body)
            fn = tirx.PrimFunc([*self._params, self.parts], body)
            attributes = {"tirx.noalias": True, "target": target, "calling_conv": 2}
            for key, value in attributes.items():
                fn = fn.with_attr(key, value)
            fn = fn.with_attr("tirx.kernel_launch_params", ["blockIdx.x", "threadIdx.x"])
            result.append(Stage(f"{self.name}_{i}", fn, divided, self._extents[i] if divided else 1))
        return result


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"nbytes": "bytes"}):
    """A part of a buffer (``arena`` or ``constants``), in bytes."""

    buffer: str
    offset: int
    nbytes: int


class Scalar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number that is passed by value: ``int32`` or ``int64``."""

    dtype: str
    value: int


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kernel over ``groups`` groups of ``BLOCK`` work items; arguments in the order of its parameters."""

    kernel: str
    node: str
    groups: int
    places: dict[int, Place]
    numbers: dict[int, Scalar]


class LaunchPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a host program does: fill ``constants`` once; then copy inputs in, launch in order, copy outputs out."""

    graph: str
    language: str
    source: str
    block: int
    arena_bytes: int
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    launches: tuple[Launch, ...]


def launch_plan(graph: Graph, isa: Isa, program: Program) -> LaunchPlan:
    """Return the plan of a lowered graph."""
    launches = []
    for call in program.calls:
        parts = min(call.extent, _MOST)
        found = list(enumerate(zip(call.arguments, call.sizes, strict=True)))
        numbers = {i: Scalar(a[0], int(a[1])) for i, (a, _) in found if a[0] not in ("arena", "constants")}
        places = {i: Place(a[0], a[1], size) for i, (a, size) in found if i not in numbers}
        numbers[len(found)] = Scalar("int32", parts)
        launches.append(Launch(call.function, call.node, -(-parts // BLOCK), places, numbers))
    ends = [tuple(Place(*address, nbytes) for address, nbytes in side) for side in (program.inputs, program.outputs)]
    return LaunchPlan(
        graph.digest, isa.name, SOURCES[isa.name], BLOCK, program.arena_bytes, ends[0], ends[1], tuple(launches)
    )


def source(program: Program, isa: Isa) -> str:
    """Return the kernels in a level's language; MissingDependencyError when TVM's package can not write it."""
    import tvm

    build = tvm.get_global_func(f"target.build.{isa.name}", allow_missing=True)
    if build is None:
        raise MissingDependencyError(f"tvm: apache-tvm {tvm.__version__} has no code generator for {isa.name}")
    module = tvm.tirx.transform.LowerIntrin()(tvm.IRModule(dict(program.kernels)))
    return str(build(module, isa.target()).inspect_source())


def convert(graph: Graph, isa: Isa, out: Path) -> Conversion:
    """Write a package of kernels below ``out``."""
    version = require_tvm()
    program = lower(graph, isa, make=GpuFunction, alignment=ALIGNMENT)
    text = source(program, isa)
    out.mkdir(parents=True, exist_ok=True)
    plan = launch_plan(graph, isa, program)
    (out / plan.source).write_text(text)
    (out / CONSTANTS).write_bytes(program.constants)
    (out / PLAN).write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")
    numerics = Numerics.EXACT if isa.name in PROVEN else Numerics.UNVERIFIED
    return Conversion(
        files=tuple(sorted((plan.source, CONSTANTS, PLAN))),
        artifacts=(Artifact(PLAN, "launches", numerics),),
        footprint=Footprint(len(program.constants), program.arena_bytes, len(text)),
        tools={"apache-tvm": version, "isa": isa.name},
    )
