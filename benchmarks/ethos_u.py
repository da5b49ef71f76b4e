"""Vela's estimated cycles of a model compiled by us, and of the same torch model through ExecuTorch's own quantizer.

python -m benchmarks.ethos_u [--model vit_micro] [--target ethos-u55-128] [--ours] [--json FILE]

Both sides go through the same Vela with the same accelerator, system configuration and memory mode. ExecuTorch's side:
``EthosUQuantizer`` with its symmetric configuration, one calibration batch, ``EthosUPartitioner``. Vela's summaries are
summed over the parts that the NPU gets; what is left to the CPU costs nothing in these figures, on either side.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bitship import models, targets
from bitship.converters import placement
from bitship.converters.ethosu import EthosUConverter
from bitship.errors import BitshipError
from bitship.extras import quiet
from bitship.graph import Graph
from bitship.targets import Target

SIDES = {"vit_micro": 32, "mobilenet_micro": 32, "mobilenet_v2": 224}
TARGETS = ("ethos-u55-128", "ethos-u85-256")


class Row(msgspec.Struct, frozen=True):
    """One model on one NPU by one way: the NPU's parts, Vela's cycles and MACs, the nodes left to the CPU."""

    model: str
    target: str
    way: str
    parts: int
    cycles: int
    macs: int
    fallbacks: int


def module_of(name: str) -> Any:
    """Return a model in eval mode."""
    if name in models.MODELS:
        return models.load_module(name)
    from benchmarks import timm_models

    return timm_models.create("mobilenetv2_100", SIDES[name])


def batches(name: str, count: int) -> list[Any]:
    """Return calibration batches: the same for both ways."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, SIDES[name], SIDES[name], generator=generator) for _ in range(count)]


def graph_of(name: str) -> Graph:
    """Return a model's integer graph: the shipped one, or quantized here."""
    if name in models.graph_names():
        return models.load_graph(name)
    from bitship.quantization import prepare

    return prepare(module_of(name), batches(name, 4), "int8", name).graph()


def ours(name: str, target: Target) -> Row:
    """Compile the integer graph."""
    with tempfile.TemporaryDirectory() as folder:
        conversion = EthosUConverter().convert(graph_of(name), target, Path(folder))
        found = placement.read(Path(folder) / conversion.artifacts[0].placement)
    figures = {f.name: f.value for f in found.figures}
    cycles, macs = int(figures["cycles"]), int(figures["npu_macs"])
    return Row(name, target.name, "bitship", found.parts, cycles, macs, len(found.fallbacks))


@contextmanager
def _summaries() -> Iterator[list[dict[str, str]]]:
    """Keep the summary of every part that ExecuTorch has Vela compile."""
    from executorch.backends.arm.ethosu import backend

    found: list[dict[str, str]] = []
    compile_part = backend.vela_compile

    def kept(tosa: bytes, args: list[str], **others: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            result = compile_part(tosa, args, **(others | {"intermediate_path": folder}))
            with next(Path(folder).glob("output/*_summary_*.csv")).open(newline="") as f:
                found.append(next(csv.DictReader(f)))
        return result

    backend.vela_compile = kept
    try:
        yield found
    finally:
        backend.vela_compile = compile_part


def theirs(name: str, target: Target) -> Row:
    """Quantize and lower the torch model as ExecuTorch documents it."""
    import torch
    from executorch.backends.arm.ethosu import EthosUCompileSpec, EthosUPartitioner
    from executorch.backends.arm.quantizer import EthosUQuantizer, get_symmetric_quantization_config
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    assert target.npu is not None
    npu = target.npu
    spec = EthosUCompileSpec(npu.accelerator, system_config=npu.system_config, memory_mode=npu.memory_mode)
    example, calibration = batches(name, 1), batches(name, 4)
    with quiet(), _summaries() as found:
        quantizer = EthosUQuantizer(spec)
        quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
        # with guards the lowering stops at a call_module node
        exported = torch.export.export(module_of(name), tuple(example)).module(check_guards=False)
        prepared = prepare_pt2e(exported, quantizer)
        for batch in calibration:
            prepared(batch)
        program = torch.export.export(convert_pt2e(prepared), tuple(example))
        edge = to_edge_transform_and_lower(program, partitioner=[EthosUPartitioner(spec)])
        graph = edge.exported_program().graph_module.graph
    calls = [n for n in graph.nodes if n.op == "call_function"]
    outside = [n for n in calls if not any(w in str(n.target) for w in ("delegate", "getitem"))]
    cycles, macs = (sum(int(float(s[column])) for s in found) for column in ("cycles_total", "nn_macs"))
    return Row(name, target.name, "ExecuTorch", len(found), cycles, macs, len(outside))


def main() -> int:
    """Print the table; exit status 1 where our cycles are more."""
    from bitship.cli.output import table

    parser = argparse.ArgumentParser(description="Vela's estimates: ours and through ExecuTorch's quantizer")
    parser.add_argument("--model", action="append", default=[], choices=list(SIDES), help="one model; may be repeated")
    parser.add_argument("--target", action="append", default=[], help="one NPU; may be repeated")
    parser.add_argument("--ours", action="store_true", help="leave ExecuTorch's side out")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()
    rows: list[Row] = []
    worse = False
    for target in map(targets.load, args.target or TARGETS):
        for name in args.model or SIDES:
            made = [ours(name, target)] + ([] if args.ours else [theirs(name, target)])
            worse |= len(made) == 2 and made[0].cycles > made[1].cycles
            rows += made
            for row in made:
                print(row, file=sys.stderr, flush=True)
    columns = ["model", "NPU", "by", "parts", "cycles", "MACs", "nodes on the CPU"]
    cells = [[r.model, r.target, r.way, str(r.parts), f"{r.cycles:,}", f"{r.macs:,}", str(r.fallbacks)] for r in rows]
    table("estimated by Vela", columns, cells, left=3)
    if args.json:
        args.json.write_bytes(msgspec.json.encode(rows))
    return int(worse)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.ethos_u: {e}")
