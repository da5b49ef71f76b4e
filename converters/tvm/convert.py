"""The converter: graph and target in, library and runner out."""

from pathlib import Path

from bitship.converters.base import Artifact, Conversion, Footprint
from bitship.converters.tvm import build as builder
from bitship.converters.tvm.isa import GPU, of_target
from bitship.graph import Graph
from bitship.targets import Target, TargetKind


class TvmConverter:
    """Lowers a graph through TVM's LLVM code generator, for Linux, bare Cortex-M cores and graphics processors."""

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write ``lib<graph>.so`` and ``runner`` below ``out``; the target's features name the instruction set.

        For a microcontroller: a firmware package whose kernels are TVM's (``bare.py``); for a graphics processor: the
        kernels' source and a plan of their launches (``gpu.py``).
        UnsupportedError names a node that cannot be lowered, TargetError a target without a known level.
        """
        version = builder.require_tvm()
        if target.kind is TargetKind.MCU:
            from bitship.converters.tvm import bare

            return bare.convert(graph, target, out, version)
        from bitship.converters.tvm.lower import lower

        isa = of_target(target)
        if isa.name in GPU:
            from bitship.converters.tvm import gpu

            return gpu.convert(graph, isa, out)
        program = lower(graph, isa)
        prefix = target.toolchain.prefix if target.toolchain else None
        out.mkdir(parents=True, exist_ok=True)
        code = builder.build(program, graph, isa, out, prefix)
        library = builder.file_name(graph)
        return Conversion(
            files=tuple(sorted((library, "runner"))),
            artifacts=(Artifact(library, "library"), Artifact("runner", "runner")),
            footprint=Footprint(len(program.constants), program.arena_bytes + program.unpacked_bytes, code),
            tools={"apache-tvm": version, "isa": isa.name},
        )
