"""A plan as a firmware program: its CPU steps through our kernels, its NPU steps through the port (firmware/npu).

An NPU step is a node whose tensor is the memory that its command stream works in; another node takes each output from
there. Arena, constants and calls are the firmware converter's, as for any graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from bitship.converters import placement
from bitship.converters.base import Artifact, Conversion, Numerics
from bitship.converters.ethosu.partition import ACCUMULATOR, CODES, Kind, Partition, Step
from bitship.converters.ethosu.plan import Plan, Run, Tensor
from bitship.converters.firmware import FirmwareConverter, build
from bitship.converters.firmware.convert import write_package
from bitship.converters.firmware.cores import Core, core_of, lower_for
from bitship.converters.firmware.npu import find_port
from bitship.converters.firmware.program import Lowered, Program, assemble
from bitship.errors import UnsupportedError
from bitship.graph import DType, Graph, Node, ops
from bitship.graph.base import Op, TensorType
from bitship.graph.calls import SMALL_TILE, Call, CStruct, Packed, lower
from bitship.graph.calls.structs import struct
from bitship.graph.ops import AnyOp
from bitship.passes.plan import ALIGNMENT
from bitship.passes.simplify import name_copies
from bitship.targets import Application, Target
from bitship.targets.base import ON_NPU

FOLDER = "npu"
DRIVER = "Ethos-U driver"


class Hand(Op, frozen=True, forbid_unknown_fields=True, tag="npu"):
    """A node of the program that the graph does not have: what it is called, the tensor it makes, its MACs."""

    operands = ("x*",)
    title: str
    type: TensorType
    work: int = 0

    @property
    def name(self) -> str:
        return self.title

    def infer(self, *types: TensorType) -> TensorType:
        return self.type

    def macs(self, out: TensorType, *types: TensorType) -> int:
        return self.work


@dataclass
class _Made:
    """Nodes in order, and the calls of those that the graph does not have."""

    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    calls: dict[str, tuple[Call, ...]] = field(default_factory=dict)

    def add(self, op: Hand, inputs: tuple[str, ...], output: str, *calls: Call) -> None:
        """Add a node with its calls."""
        self.nodes.append(Node(cast(AnyOp, op), inputs, output))
        self.calls[output] = calls

    def stream(self, step: Step, run: Run) -> None:
        """Add a command stream: the node that runs it, and one for each output."""
        assert step.compiled is not None
        assert step.graph is not None
        types = step.graph.types
        commands, weights = (Packed(step.compiled.arrays[n].tobytes()) for n in ("cmd_data", "weight_data"))
        memory, fast = f"{run.nodes[-1]}.npu", -(-run.scratch_bytes // ALIGNMENT) * ALIGNMENT
        params = struct(
            "npu_stream",
            commands=len(commands.data),
            weights=len(weights.data),
            scratch=run.scratch_bytes,
            fast_offset=fast,
            fast=run.fast_bytes,
            weights_region=run.weights_region,
            scratch_region=run.scratch_region,
            fast_region=run.fast_region,
        )
        puts = [Call("bitship_npu_put", border(run, t, types), (t.name,), memory) for t in run.inputs]
        start = Call("bitship_npu_stream", params, (commands, weights), memory)
        kind = TensorType((fast + run.fast_bytes,), DType.INT8)
        self.add(Hand("npu", kind, step.graph.macs), tuple(t.name for t in run.inputs), memory, *puts, start)
        for t in run.outputs:
            take = Call("bitship_npu_take", border(run, t, types), (memory,), t.name)
            self.add(Hand("npu_take", types[t.name]), (memory,), t.name, take)

    def product(self, step: Step, run: Run) -> None:
        """Add a softmax_matmul whose product the NPU computes."""
        (node,) = step.nodes
        x, _, table = node.inputs
        codes, sums, types = node.output + CODES, node.output + ACCUMULATOR, self.graph.types
        params = lower(self.graph, node, SMALL_TILE)[0].params
        coded = Call("bitship_npu_codes", params, (x, table), codes)
        self.add(Hand("npu_codes", TensorType(types[x].shape, DType.INT8)), (x, table), codes, coded)
        self.stream(step, run)
        finish = Call("bitship_npu_finish", params, (codes, sums), node.output)
        self.add(Hand("npu_finish", types[node.output]), (codes, sums), node.output, finish)


def border(run: Run, t: Tensor, types: Mapping[str, TensorType]) -> CStruct:
    """Return where a tensor lies in a stream's memory."""
    if t.region not in (run.scratch_region, run.fast_region):
        raise UnsupportedError(f"{run.commands}: '{t.name}' lies in region {t.region}, which is no memory of the image")
    past = 0 if t.region == run.scratch_region else -(-run.scratch_bytes // ALIGNMENT) * ALIGNMENT
    return struct("npu_border", offset=past + t.offset, bytes=t.nbytes, flip=int(types[t.name].dtype is DType.UINT8))


@dataclass(frozen=True)
class Planned:
    """A partition and the plan that was written of it."""

    partition: Partition
    plan: Plan


def lower_plan(graph: Graph, planned: Planned, core: Core) -> Lowered:
    """Return the calls of a plan: streams in order, and kernels of the core for the nodes between them."""
    made = _Made(graph)
    for step, run in zip(planned.partition.steps, planned.plan.runs, strict=True):
        if step.kind is Kind.CPU:
            made.nodes.extend(step.nodes)
        elif step.kind is Kind.PRODUCT:
            made.product(step, run)
        else:
            made.stream(step, run)
    outer = name_copies(graph.with_nodes(tuple(made.nodes)))
    calls = tuple((n, made.calls.get(n.output) or _kernels(core, outer, n)) for n in outer.nodes)
    return Lowered(outer, core, calls)


def _kernels(core: Core, graph: Graph, node: Node) -> tuple[Call, ...]:
    return () if isinstance(node.op, ops.Reshape) else lower_for(core, graph, node)


def program(graph: Graph, planned: Planned, target: Target) -> Program:
    """Return the program of a plan on a target: streams and weights are constants, their memory lies in the arena."""
    return assemble(graph, lower_plan(graph, planned, core_of(target)), regions=build.regions(target))


def write(
    graph: Graph, planned: Planned, target: Target, out: Path, compiled: Conversion, application: Application | None
) -> Conversion:
    """Write a board's two images beside a plan: all on the core, exact; with the NPU, below ``npu``, unverified."""
    assert target.npu is not None
    cpu = FirmwareConverter(application=application).convert(graph, target, out)
    made = program(graph, planned, target)
    port = find_port(target.npu, made.functions)
    npu = write_package(made, target, out / FOLDER, application=application, npu=port)
    images = [Artifact(f"{FOLDER}/{a.path}", ON_NPU + a.role, Numerics.UNVERIFIED) for a in npu.artifacts]
    files = [*compiled.files, *cpu.files, *(f"{FOLDER}/{name}" for name in npu.files)]
    if port.missing:
        files.append(placement.write_skipped(out, [placement.Skipped(DRIVER, port.missing)]))
    return Conversion(
        files=tuple(sorted(files)),
        artifacts=(*cpu.artifacts, *images, *compiled.artifacts),
        footprint=cpu.footprint,
        tools={**cpu.tools, **compiled.tools},
        schedule=cpu.schedule,
    )
