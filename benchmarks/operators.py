"""The ops of integer transformers: how near to the real functions, and what an element costs on a Cortex-M.

python -m benchmarks.operators [--only fidelity|cost] [--json FILE]

Figures of other implementations are constants: ports of the authors' code, measured on other data of the same
distributions. Their column says "reference".
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks import fidelity
from bitship import targets
from bitship.converters.firmware import FirmwareConverter
from bitship.device.qemu import QemuDevice
from bitship.errors import BitsDifferError, BitshipError
from bitship.graph import DType, Graph, GraphBuilder, spec
from bitship.graph.base import Array
from bitship.graph.ops import (
    AnyOp,
    ILayerNorm,
    LayerNorm,
    Rescale,
    RmsNorm,
    ShiftGelu,
    Shiftmax,
    Softmax,
    SoftmaxMatMul,
    Table,
    TableSoftmax,
)
from bitship.importers import functions
from bitship.targets import Target

BOARDS = ("mps2-an386", "mps3-an547")
TOKENS, CHANNELS, HIDDEN = 197, 192, 768
SCALE = 0.05
_INT16 = {"dtype": DType.INT16, "qmin": -32768, "qmax": 32767}

# SQNR in dB, columns as fidelity.LOGITS
SOFTMAX_REFERENCE = {
    "softmax_matmul": (64.8, 54.8, 40.1, 41.0, 54.4, 56.0),
    "table_softmax, matmul": (75.6, 75.8, 76.4, 78.0, 82.0, 68.4),
    "shiftmax, matmul": (31.6, 37.4, 25.4, 21.1, 33.9, 33.9),
    "softmax (TFLite int8), matmul": (28.0, 26.7, 26.3, 36.9, 34.5, 12.1),
}
GELU_REFERENCE = {2: (40.6, 23.6), 3: (37.0, 31.6), 5: (32.9, 34.5), 6: (30.3, 29.1), 8: (28.5, 24.0)} | {
    9: (28.6, 11.9),
    10: (29.0, -0.4),
    20: (27.1, 2.1),
    50: (24.1, 8.9),
}
WIDE_GELU_REFERENCE = {6: 76.6, 12: 72.1, 30: 65.2}
# instructions per element, Cortex-M4 and Cortex-M55
COST_REFERENCE = {
    "softmax_matmul: codes and sum": (13.0, 11.1),
    "table_softmax": (20.4, 17.4),
    "shiftmax": (28.1, 25.2),
    "softmax (TFLite int8)": (300, 299),
    "table int8": (6.0, 5.0),
    "shiftgelu": (26.0, 24.0),
}


class Cost(msgspec.Struct, frozen=True):
    """Instructions per element of one op on one board (simulated), rows added or taken away."""

    op: str
    board: str
    row: int
    instructions: float
    reference: float | None


def _ints(r: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    return r.integers(dtype.qmin, dtype.qmax, shape, endpoint=True).astype(dtype.numpy)


def _single(op: AnyOp, shapes: Sequence[tuple[tuple[int, ...], DType]], *constants: Array) -> Graph:
    b = GraphBuilder("operator")
    names = [b.input(f"x{i}", s, t) for i, (s, t) in enumerate(shapes)]
    names += [b.constant(f"c{i}", c) for i, c in enumerate(constants)]
    return b.finish([(b.node("y", op, *names), None)])


def count(graph: Graph, target: Target) -> int:
    """Instructions of one run on random codes, after its bits were compared with the specification's."""
    r = np.random.default_rng(0)
    row = tuple(_ints(r, p.type.shape, p.type.dtype) for p in graph.inputs)
    with tempfile.TemporaryDirectory() as name:
        FirmwareConverter().convert(graph, target, Path(name))
        found = QemuDevice(target).run(Path(name) / "model.elf", graph, [row])
    if any((a != b).any() for a, b in zip(found.outputs[0], spec.run(graph, *row), strict=True)):
        raise BitsDifferError(f"{target.name}: {graph.nodes[0].op.name} differs from the specification")
    assert found.instructions is not None
    return found.instructions[0]


def _per_row(make: Callable[[int], Graph], row: int, target: Target) -> float:
    """Instructions per element from the difference of 6 and 2 rows, so that calls and checks fall out."""
    return (count(make(6), target) - count(make(2), target)) / (4 * row)


def _norm(op: LayerNorm | RmsNorm | ILayerNorm, rows: int, c: int, dtype: DType) -> Graph:
    r = np.random.default_rng(1)
    multiplier, bias = r.integers(1 << 29, 1 << 30, c), r.integers(-(1 << 22), 1 << 22, c)
    return _single(op, [((rows, c), dtype)], multiplier.astype(np.int32), bias.astype(np.int32))


def _attention(rows: int, columns: int) -> Graph:
    op = SoftmaxMatMul(Rescale((1 << 30,), (1,)))
    shapes = [((1, rows, TOKENS), DType.INT8), ((1, TOKENS, columns), DType.INT8)]
    return _single(op, shapes, functions.exp_table(SCALE, 255, "uint8"))


def _makers() -> dict[str, tuple[int, Callable[[int], Graph]]]:
    """(row length, graph of so many rows) of every op but softmax_matmul."""
    narrow, wide = DType.INT8, DType.INT16
    exp32, exp16 = functions.exp_table(SCALE), functions.exp_table(SCALE, 32767, "int16")
    curve = np.linspace(-32768, 32767, 513).astype(np.int16)
    unit = 20
    makers: dict[str, tuple[int, Callable[[int], Graph]]] = {
        "table_softmax": (TOKENS, lambda n: _single(TableSoftmax(), [((n, TOKENS), narrow)], exp16)),
        "shiftmax": (TOKENS, lambda n: _single(Shiftmax(unit), [((n, TOKENS), narrow)])),
        "softmax (TFLite int8)": (TOKENS, lambda n: _single(Softmax(), [((n, TOKENS), narrow)], exp32)),
        "table int8": (
            HIDDEN,
            lambda n: _single(Table(), [((n, HIDDEN), narrow)], np.arange(-128, 128, dtype=np.int8)),
        ),
        "table int16, interpolated": (HIDDEN, lambda n: _single(Table(), [((n, HIDDEN), wide)], curve)),
        "shiftgelu": (HIDDEN, lambda n: _single(ShiftGelu(unit, Rescale((1 << 30,), (-6,))), [((n, HIDDEN), narrow)])),
    }
    for c in (CHANNELS, HIDDEN):
        makers[f"layer_norm int8, {c}"] = (c, lambda n, c=c: _norm(LayerNorm(44), n, c, narrow))  # type: ignore[misc]
        makers[f"layer_norm int16, {c}"] = (c, lambda n, c=c: _norm(LayerNorm(44), n, c, wide))  # type: ignore[misc]
    makers["rms_norm int8, 192"] = (CHANNELS, lambda n: _norm(RmsNorm(44), n, CHANNELS, narrow))
    makers["i_layer_norm int16, 192"] = (CHANNELS, lambda n: _norm(ILayerNorm(50), n, CHANNELS, wide))
    return makers


def costs() -> list[Cost]:
    """Instructions per element of every op on every board."""
    found = []
    for i, board in enumerate(BOARDS):
        target = targets.load(board)

        def add(op: str, row: int, instructions: float, i: int = i, board: str = board) -> None:
            known = COST_REFERENCE.get(op)
            found.append(Cost(op, board, row, instructions, known[i] if known else None))
            print(f"{op} on {board}: {instructions:.2f}", file=sys.stderr, flush=True)

        # codes cost the same for any number of columns, products and their epilogue grow with it
        few, many = (_per_row(lambda n, k=k: _attention(n, k), TOKENS, target) for k in (16, 64))  # type: ignore[misc]
        per_mac = (many - few) / 48
        add("softmax_matmul: codes and sum", TOKENS, few - 16 * per_mac)
        add("softmax_matmul: per MAC", TOKENS, per_mac)
        for op, (row, make) in _makers().items():
            add(op, row, _per_row(make, row, target))
    return found


def _show_fidelity() -> dict[str, object]:
    from bitship.cli.output import table

    softmaxes = fidelity.softmaxes()
    columns = [f"{sigma:g}, {n}" for sigma, n in fidelity.LOGITS]
    shown = []
    for name, values in softmaxes.items():
        shown.append((name, *(f"{v:.1f}" for v in values)))
        shown.append(("  reference", *(f"{v:.1f}" for v in SOFTMAX_REFERENCE[name])))
    table("softmax(logits) @ v, dB; columns: sigma of the logits, tokens", ["op", *columns], shown)
    gelus = fidelity.gelus()
    table(
        "GELU of int8 rows of 768, largest element R; error in steps of the output, SQNR in dB",
        ["R", "table: error", "dB", "reference", "shiftgelu: dB", "reference"],
        [
            (
                f"{r:g}",
                f"{e:.3f}",
                f"{t:.1f}",
                *(f"{v:.1f}" for v in (GELU_REFERENCE[int(r)][0], s)),
                f"{GELU_REFERENCE[int(r)][1]}",
            )
            for r, e, t, s in gelus
        ],
    )
    wide = fidelity.wide_gelus()
    table(
        "GELU of int16 by 513 interpolated entries, dB",
        ["R", "table", "reference"],
        [(f"{r:g}", f"{v:.1f}", WIDE_GELU_REFERENCE[int(r)]) for r, v in wide],
    )
    norms = fidelity.norms()
    table(
        "LayerNorm, dB: the normalised value (Q20); the affine's int16 result, whose step bounds it",
        ["input", "C", "20-sigma channel", "layer_norm Q20", "layer_norm int16", "i_layer_norm int16"],
        [(d, c, o, *(f"{v:.1f}" for v in values)) for d, c, o, *values in norms],
    )
    return {"softmax": softmaxes, "gelu": gelus, "wide_gelu": wide, "norm": norms}


def main() -> int:
    """Print the tables; exit status 1 when a promise of the ops is not kept."""
    from bitship.cli.output import table

    parser = argparse.ArgumentParser(description="Fidelity and cost of the ops of integer transformers.")
    parser.add_argument("--only", choices=("fidelity", "cost"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    found: dict[str, object] = {}
    kept = True
    if args.only != "cost":
        found |= _show_fidelity()
        kept = max(e for _, e, _, _ in fidelity.gelus()) <= 0.5
        kept &= all(z >= (110 if d == "int8" else 90) for d, _, _, z, _, _ in fidelity.norms())
    if args.only != "fidelity":
        made = costs()
        found["cost"] = made
        by_op: dict[str, list[Cost]] = {}
        for cost in made:
            by_op.setdefault(cost.op, []).append(cost)
        table(
            "instructions per element, simulated by QEMU icount; bits exact",
            ["op", "row", *(f"{b}{w}" for b in ("M4", "M55") for w in ("", ", reference"))],
            [
                (op, cs[0].row, *(v for c in cs for v in (f"{c.instructions:.1f}", c.reference)))
                for op, cs in by_op.items()
            ],
        )
    if args.json:
        args.json.write_bytes(msgspec.json.encode(found))
    return int(not kept)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.operators: {e}")
