"""Bare Cortex-M: TVM's kernels by the C calling convention, in the arena and the image of a firmware package.

Every node becomes calls of functions that LLVM compiled for the core, one per distinct kernel. What moves bytes and
nothing else, and what has no lowering here, calls this project's own kernels; the package's ``kernels.txt`` says which.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bitship.converters.base import Conversion
from bitship.converters.firmware.convert import write_package
from bitship.converters.firmware.cores import Core, lower_for
from bitship.converters.firmware.program import Foreign, Lowered, Program, assemble
from bitship.converters.tvm import build
from bitship.converters.tvm.dispatch import Site, lower_node
from bitship.converters.tvm.isa import BARE_PRODUCTS, Isa, of_target
from bitship.converters.tvm.lower import Kernels
from bitship.converters.tvm.tir import Function
from bitship.errors import UnsupportedError
from bitship.graph import Graph, Node, ops, verify
from bitship.graph.base import Operand, as_bytes
from bitship.graph.calls import Call, CStruct, Packed
from bitship.passes.plan import ALIGNMENT
from bitship.passes.simplify import simplify
from bitship.targets import Target

OBJECT, LISTING = "tvm_kernels.o", "kernels.txt"
_OWN = (
    *(ops.Concat, ops.Slice, ops.Pad, ops.Transpose, ops.Gather),  # bytes moved, or left in place by the plan
    *(ops.LayerNorm, ops.RmsNorm, ops.ILayerNorm),  # their lowering takes a root in floating point
)
_PRODUCTS = (ops.Conv2D, ops.FullyConnected)
_NO_PARAMS = CStruct("none", ())


def convert(graph: Graph, target: Target, out: Path, version: str) -> Conversion:
    """Write a firmware package whose kernels TVM compiled; errors as the firmware converter's.

    version  TVM's
    """
    verify(graph)
    isa = of_target(target)
    kernels = Kernels()
    program = assemble(graph, lower_bare(simplify(graph), isa, kernels))  # one arena: a vector may be read past its end
    with tempfile.TemporaryDirectory(prefix="bitship-tvm-") as folder:
        path = Path(folder) / OBJECT
        build.compile_kernels(kernels.functions, isa, path)
        objects = {OBJECT: path.read_bytes()} if kernels.functions else {}
    made = write_package(program, target, out, objects=objects)
    (out / LISTING).write_text(listing(program))
    tools = {**made.tools, "apache-tvm": version, "isa": isa.name}
    return msgspec.structs.replace(made, files=tuple(sorted((*made.files, LISTING))), tools=tools)


def lower_bare(graph: Graph, isa: Isa, kernels: Kernels) -> Lowered:
    """Lower every node of a simplified graph; the PrimFuncs are added to ``kernels``."""
    ranges = verify(graph)
    target = isa.target()

    def lowered(i: int, node: Node) -> tuple[Call, ...]:
        if isinstance(node.op, ops.Reshape):
            return ()
        fn = Function(f"tvm_{i}")
        known = tuple(Operand(graph.types[n], ranges[n], graph.constants.get(n)) for n in node.inputs)
        if not isinstance(node.op, _OWN):
            try:
                level = BARE_PRODUCTS.get(isa.name, isa) if isinstance(node.op, _PRODUCTS) else isa
                lower_node(Site(fn, level, node, known, graph.types[node.output]))
                return tuple(_calls(node, fn, kernels, target))
            except UnsupportedError:
                pass
        return lower_for(Core.SCALAR, graph, node)

    return Lowered(graph, Core.SCALAR, tuple((n, lowered(i, n)) for i, n in enumerate(graph.nodes)))


def _calls(node: Node, fn: Function, kernels: Kernels, target: object) -> Iterator[Foreign]:
    """Yield a call for every stage of a kernel."""
    arguments: list[str | Packed | int] = []
    scratch = 0
    for a in fn.arguments:
        if a.tensor is not None:
            arguments.append(a.tensor)
        elif a.constant is not None:
            arguments.append(Packed(as_bytes(a.constant)))
        else:
            arguments.append(scratch)
            scratch += -(-a.scratch_bytes // ALIGNMENT) * ALIGNMENT
    operands = tuple(a for a in arguments if not isinstance(a, int) and a != node.output)
    for stage in fn.finish(target):
        yield Foreign(kernels.symbol(stage), _NO_PARAMS, operands, node.output, scratch, (), tuple(arguments))


def listing(program: Program) -> str:
    """Return what runs every node: TVM's function, or a kernel of this project's own."""
    lines = []
    for node, calls in program.calls:
        by = ", ".join(call.function for call in calls) or "nothing: the bytes are in place"
        who = "tvm" if any(isinstance(call, Foreign) for call in calls) else "own"
        lines.append(f"{who:4} {node.op.name:20} {node.output}: {by}")
    return "\n".join(lines) + "\n"
