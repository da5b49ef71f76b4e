"""Integer decoding: 200 greedy tokens on every back end, equal, and what a token costs at every context length.

python -m benchmarks.decode [--tokens 200] [--json FILE] [--skip executorch,aarch64]

The backbone has 6 layers, c c A c c A, width 256, 4,096 tokens, and random weights of a seed: what is shown is that the
arithmetic is the same everywhere, not what the model says. Weights have four bits in groups of 32.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import bitship
from bitship import targets
from bitship.errors import BitshipError
from bitship.graph import Graph, spec
from bitship.graph.base import Array
from bitship.graph.ops import MatMul, SoftmaxMatMul
from bitship.models.npu import BackboneConfig
from bitship.models.npu.decoding import OnDevice, Runs, decode, initial
from bitship.models.npu.integer import StepRecipe, step_graph
from bitship.targets import ConverterName

PROMPT = (1, 2, 3, 5, 8, 13, 21)
CONTEXTS = (64, 256, 1024, 4096)
RECIPE = StepRecipe(weight_bits=4, weight_group=32, positions=4096)
AARCH64 = "linux-aarch64-dotprod"


class Specification:
    """The NumPy specification as a session."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        return spec.run(self.graph, *inputs)


class Calibrated:
    """One backbone and its ranges; the window, which no range depends on much, is chosen per graph."""

    def __init__(self, config: BackboneConfig) -> None:
        import torch

        from bitship.models.npu.backbone import Backbone, largest

        torch.set_num_threads(1)
        self.module = Backbone(config, seed=0).eval()
        r = np.random.default_rng(0)
        self.ends = largest(self.module, [torch.from_numpy(r.integers(0, config.vocabulary, 96)) for _ in range(4)])

    def graph(self, window: int) -> Graph:
        self.module.config = dataclasses.replace(self.module.config, window=window)
        return step_graph(self.module, self.ends, RECIPE)


@contextmanager
def _package(graph: Graph, target: str, converter: ConverterName) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        yield bitship.export(graph, target=target, out=Path(folder) / "package", converter=converter)


@contextmanager
def tvm(graph: Graph) -> Iterator[Runs]:
    from bitship.converters.tvm import open_session

    with _package(graph, "host", ConverterName.TVM) as package:
        yield open_session(package.path, graph)


@contextmanager
def executorch(graph: Graph) -> Iterator[Runs]:
    from bitship.converters.executorch import EXACT, ExecutorchConverter, open_session

    with tempfile.TemporaryDirectory() as folder:
        ExecutorchConverter(delegates=()).convert(graph, targets.load("linux-aarch64"), Path(folder))
        yield open_session(Path(folder) / EXACT, graph)


@contextmanager
def aarch64(graph: Graph) -> Iterator[Runs]:
    from bitship.device.qemu_user import QemuUserDevice

    with (
        _package(graph, AARCH64, ConverterName.TVM) as package,
        QemuUserDevice(targets.load(AARCH64)).open(package, None) as session,
    ):
        yield OnDevice(session)


BACK_ENDS = {"tvm": tvm, "executorch": executorch, "aarch64": aarch64}
WHAT = {"tvm": "TVM, this machine", "executorch": "ExecuTorch .pte", "aarch64": f"TVM, {AARCH64}, emulated"}


def compare(graph: Graph, count: int, skip: set[str]) -> list[tuple[str, int, float]]:
    """Return (back end, equal tokens, seconds per token); every state after the last token is compared too."""
    wanted = decode(graph, graph, PROMPT, count)
    checked = decode(graph, Specification(graph), PROMPT, count)
    found = [("specification", checked)]
    rows = []
    for name, open_back_end in BACK_ENDS.items():
        if name in skip:
            continue
        with ExitStack() as stack:
            session = stack.enter_context(open_back_end(graph))
            begun = time.perf_counter()
            found.append((WHAT[name], decode(graph, session, PROMPT, count)))
            rows.append((time.perf_counter() - begun) / (len(PROMPT) + count - 1))
            print(f"{name}: done", file=sys.stderr, flush=True)
    result = []
    for (what, decoded), seconds in zip(found, [0.0, *rows], strict=True):
        equal = sum(a == b for a, b in zip(decoded.tokens, wanted.tokens, strict=True))
        states = all(np.array_equal(a, b) for a, b in zip(decoded.states, wanted.states, strict=True))
        result.append((what, equal if states else -1, seconds))
    return result


def _bytes(graph: Graph, *kinds: str) -> int:
    return sum(p.type.nbytes for p in graph.inputs if p.name.rsplit(".", 1)[-1] in kinds)


def costs(made: Calibrated, letters: str) -> list[dict[str, Any]]:
    """Return what a token costs at every context length that the memory holds."""
    rows = []
    for window in CONTEXTS:
        graph = made.graph(window)
        attention = sum(graph.node_macs(n) for n in graph.nodes if isinstance(n.op, MatMul | SoftmaxMatMul))
        with tvm(graph) as session:
            states, times = initial(graph), []
            for i in range(60):
                begun = time.perf_counter()
                states = session.run(np.array([i], np.int32), *states)[2:]
                times.append(time.perf_counter() - begun)
        rows.append(
            {
                "layers": letters,
                "context": window,
                "macs": graph.macs,
                "attention_macs": attention,
                "conv_state_bytes": _bytes(graph, "state"),
                "kv_bytes": _bytes(graph, "keys", "values"),
                "ms": statistics.median(times[10:]) * 1e3,
            }
        )
        print(f"{letters} {window}: done", file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Print both tables; exit status 1 when a token or a state differs."""
    from bitship.cli.output import table

    parser = argparse.ArgumentParser(description="Greedy integer decoding on every back end.")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--skip", default="", help=f"back ends to leave out, of {','.join(BACK_ENDS)}")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    hybrid = Calibrated(BackboneConfig())
    graph = hybrid.graph(256)
    equal = compare(graph, args.tokens, set(args.skip.split(",")))
    lines = [
        (what, f"{n} of {args.tokens}" if n >= 0 else "states differ", f"{s * 1e3:.2f}" if s else "-")
        for what, n, s in equal
    ]
    table("greedy tokens equal to the host's C kernels (measured)", ["back end", "equal", "ms per token"], lines)
    rows = costs(hybrid, "ccAccA") + costs(Calibrated(BackboneConfig(layers="AAAAAA")), "AAAAAA")
    first = {r["layers"]: r for r in reversed(rows)}
    head = ["layers", "context", "MACs", "of attention", "conv state B", "KV memory B", "ms", "of 64's"]
    cells = [
        (
            r["layers"],
            r["context"],
            f"{r['macs']:,}",
            f"{r['attention_macs']:,}",
            f"{r['conv_state_bytes']:,}",
            f"{r['kv_bytes']:,}",
            f"{r['ms']:.2f}",
            f"{r['ms'] / first[r['layers']]['ms']:.2f}",
        )
        for r in rows
    ]
    table("one token by context length, TVM on this machine (measured; medians of 50)", head, cells)
    if args.json:
        args.json.write_text(json.dumps({"equal": equal, "costs": rows}, indent=1))
    return int(any(n != args.tokens for _, n, _ in equal))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.decode: {e}")
