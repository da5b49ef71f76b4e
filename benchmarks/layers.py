"""Instructions of every layer of a model on an emulated Cortex-M: each node alone in an image, refused unless exact.

python -m benchmarks.layers MODEL [--target mps2-an386] [--op conv2d] [--top 20]
"""

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bitship import targets
from bitship.converters.firmware import FirmwareConverter
from bitship.device.qemu import QemuDevice
from bitship.errors import BitshipError
from bitship.graph import Graph, GraphBuilder, Node, spec
from bitship.graph.base import Array
from bitship.graph.ops import Reshape
from bitship.loading import load


def alone(graph: Graph, node: Node) -> Graph:
    """Return a graph of this node and its constants."""
    b = GraphBuilder(f"{graph.name}.{node.output}"[:60])
    names = {}
    for name in dict.fromkeys(node.inputs):
        if name in graph.constants:
            names[name] = b.constant("c", graph.constants[name])
        else:
            t = graph.types[name]
            names[name] = b.input("x", t.shape, t.dtype)
    return b.finish([(b.node("y", node.op, *(names[i] for i in node.inputs)), None)])


def random_inputs(graph: Graph, seed: int = 0) -> tuple[Array, ...]:
    """Return codes anywhere in the dtypes' ranges."""
    rng = np.random.default_rng(seed)
    return tuple(
        rng.integers(p.type.dtype.qmin, p.type.dtype.qmax, p.type.shape, np.int64, endpoint=True).astype(
            p.type.dtype.numpy
        )
        for p in graph.inputs
    )


def measure(graph: Graph, target: str) -> int:
    """Build, prove one run on random codes, return its instructions; BitshipError when the bits differ."""
    found = targets.load(target)
    row = random_inputs(graph)
    with tempfile.TemporaryDirectory(prefix="bitship-") as name:
        FirmwareConverter().convert(graph, found, Path(name))
        result = QemuDevice(found).run(Path(name) / "model.elf", graph, [row])
    for got, wanted in zip(result.outputs[0], spec.run(graph, *row), strict=True):
        if not np.array_equal(got, wanted):
            raise BitshipError(f"{graph.name}: {int((got != wanted).sum())} of {wanted.size} elements differ")
    return result.instructions[0] if result.instructions else 0


def main() -> int:
    """Print the table, the most expensive layers first."""
    from bitship.cli.output import table

    parser = argparse.ArgumentParser(description="Instructions of every layer on an emulated Cortex-M.")
    parser.add_argument("model", help="a model file")
    parser.add_argument("--target", default="mps2-an386", help="an emulated target")
    parser.add_argument("--op", action="append", help="only these ops; may be repeated")
    parser.add_argument("--top", type=int, default=1000, help="how many rows to print")
    args = parser.parse_args()
    graph = load(args.model)
    nodes = [n for n in graph.nodes if not isinstance(n.op, Reshape) and (not args.op or n.op.name in args.op)]
    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(lambda n: measure(alone(graph, n), args.target), nodes))
    rows = []
    for node, count in sorted(zip(nodes, counts, strict=True), key=lambda pair: -pair[1]):
        macs, size = graph.node_macs(node), graph.types[node.output].size
        shapes = " ".join(str(graph.types[i]) for i in node.inputs if len(graph.types[i].shape) != 1)
        per = f"{count / macs:.2f} / MAC" if macs else f"{count / size:.2f} / element"
        rows.append((node.op.name, shapes, str(graph.types[node.output]), macs, count, per))
    table(
        f"{graph.name} on {args.target}: {sum(counts)} instructions, simulated by QEMU icount; bits exact",
        ["op", "operands", "output", "MACs", "instructions", "cost"],
        rows[: args.top],
        left=3,
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.layers: {e}")
