"""Ethos-U55, U65 and U85: Vela's command streams of the parts that the NPU takes, the plan around them, its estimates.

    ethosu.json                 the plan: which nodes run where, in order; regions and offsets of every command stream
    npu0.commands.bin, ...      a command stream, its weights, and the TOSA program it was compiled from
    npu.h                       the same sizes, regions and offsets for bare metal
    ethosu.json.placement.json  every node's place and reason, and Vela's estimates
    model.elf, npu/model.elf    for a board: every node on its core; the plan, its steps on the NPU through Arm's driver

What the NPU computes is defined by TOSA, and the TOSA programs have the graph's bits under TOSA's reference model;
that Ethos-U computes TOSA's integers is Arm's claim, which nothing here could run: ``unverified``.
"""

from importlib.metadata import version
from pathlib import Path

from bitship.converters import placement
from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.ethosu import plan as plans
from bitship.converters.ethosu.partition import Kind, Partition, partition
from bitship.converters.ethosu.session import PlanSession
from bitship.converters.ethosu.vela import Vela
from bitship.converters.placement import CostFigure, Place, Placed, Placement, placed
from bitship.errors import TargetError
from bitship.graph import Graph, Node, verify
from bitship.targets import Application, Target, TargetKind

KIB = 1024
# name here, column of Vela's summary, unit, factor; sums over the command streams, but for memories: their largest
SUMS = (
    ("cycles", "cycles_total", "cycles", 1.0),
    ("npu_cycles", "cycles_npu", "cycles", 1.0),
    ("inference_time", "inference_time", "s", 1.0),
    ("npu_macs", "nn_macs", "MAC", 1.0),
    ("off_chip_flash", "off_chip_flash_memory_used", "B", KIB),
    ("on_chip_flash", "on_chip_flash_memory_used", "B", KIB),
)
PEAKS = (("sram", "sram_memory_used", "B", KIB), ("dram", "dram_memory_used", "B", KIB))


class EthosUConverter:
    """Compiles a graph for the target's Ethos-U. Same graph and target, same bytes.

    application  the program around the model in a board's images; None: FILES where the target is emulated, else SERIAL
    """

    def __init__(self, application: Application | None = None) -> None:
        self._application = application

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write plan, command streams and placement below ``out``; for a microcontroller its images too.

        Raises TargetError for a target without an NPU, MissingDependencyError without ethos-u-vela or tosa-tools, and
        what the firmware converter raises.
        """
        if target.npu is None:
            raise TargetError(f"target '{target.name}': no NPU; 'bitship targets' lists those with one")
        npu, ranges = target.npu, verify(graph)
        with Vela(npu) as vela:
            found = partition(graph, ranges, vela)
        out.mkdir(parents=True, exist_ok=True)
        plan, files = plans.write(out, found, (graph.digest, npu.accelerator, npu.system_config, npu.memory_mode))
        said = placement.write(out / plans.FILE, place(graph, found, npu.accelerator))
        weights = sum(s.compiled.arrays["weight_data"].nbytes for s in found.steps if s.compiled is not None)
        streams = sum(s.compiled.arrays["cmd_data"].nbytes for s in found.steps if s.compiled is not None)
        compiled = Conversion(
            files=tuple(sorted([*files, said])),
            artifacts=(Artifact(plans.FILE, "npu", Numerics.UNVERIFIED, said),),
            footprint=Footprint(weights, max((r.scratch_bytes for r in plan.runs), default=0), streams),
            tools={name: version(name) for name in ("ethos-u-vela", "tosa-tools")},
        )
        if target.kind is not TargetKind.MCU:
            return compiled
        from bitship.converters.ethosu import image

        return image.write(graph, image.Planned(found, plan), target, out, compiled, self._application)


def place(graph: Graph, found: Partition, accelerator: str) -> Placement:
    """Return where every node runs, and Vela's estimates."""
    where: dict[str, Place] = {}
    for step in found.steps:
        for node in step.nodes:
            where[node.output] = Place.CPU if step.kind is Kind.CPU else Place.DELEGATE
    summaries = [s.compiled.summary for s in found.steps if s.compiled is not None]
    figures = [CostFigure(n, sum(s.get(c, 0.0) for s in summaries) * f, u) for n, c, u, f in SUMS]
    figures += [CostFigure(n, max((s.get(c, 0.0) for s in summaries), default=0.0) * f, u) for n, c, u, f in PEAKS]

    def row(node: Node) -> Placed:
        return placed(graph, node, where[node.output], found.reasons.get(node.output, ""))

    return Placement(
        delegate=accelerator,
        nodes=tuple(row(n) for n in graph.nodes),
        parts=len(summaries),
        figures=tuple(figures) if summaries else (),
        untested="no Ethos-U and no model of one here runs command streams; the TOSA programs they were compiled "
        "from have the graph's bits under TOSA's reference model",
    )


def open_session(path: Path, graph: Graph) -> PlanSession:
    """Run a plan with TOSA's reference model in the NPU's place: its TOSA programs, not its command streams."""
    return PlanSession(path, graph)


__all__ = ["EthosUConverter", "open_session", "place"]
