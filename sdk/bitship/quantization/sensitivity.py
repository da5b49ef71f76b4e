"""Where quantization costs signal: every tensor of the float module against the integer graph's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitship.graph.base import Array
from bitship.importers.integerize import GIVEN, QuantizedTensor
from bitship.quantization.catalogue import module_path, op_name
from bitship.quantization.ranges import interpret

if TYPE_CHECKING:
    from bitship.quantization.prepared import Prepared

_MOST = 150.0  # dB that stand for no error at all


@dataclass(frozen=True)
class TensorReport:
    """One tensor.

    bits     bits that store it
    sqnr_db  against the float module: the error of everything up to here
    own_db   against the float op and weights on the integer graph's own inputs: the error this op adds
    steps    largest error in steps of the output scale against the float op with the quantized weights: its rounding
    """

    name: str
    op: str
    module: str
    shape: tuple[int, ...]
    bits: int
    sqnr_db: float
    own_db: float
    steps: float


@dataclass(frozen=True)
class Sensitivity:
    """The tensors in execution order."""

    tensors: tuple[TensorReport, ...]

    @property
    def worst(self) -> TensorReport:
        """The tensor to blame: the least signal left by its own op."""
        return min(self.tensors, key=lambda t: t.own_db)

    def table(self) -> Any:
        """Return a rich.table.Table of all tensors."""
        from rich.table import Table

        table = Table("tensor", "op", "module", "shape", "bits", "SQNR dB", "own dB", box=None)
        worst = self.worst
        for t in self.tensors:
            row = (t.name, t.op, t.module, str(t.shape), str(t.bits), f"{t.sqnr_db:.1f}", f"{t.own_db:.1f}")
            table.add_row(*row, style="bold" if t is worst else None)
        return table

    def plot(self, path: str | Path) -> None:
        """Write a picture (.svg, .png, .pdf): SQNR along the network, whole and own."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(max(6.0, 0.16 * len(self.tensors)), 4.5), layout="constrained")
        axes = figure.subplots()
        at = np.arange(len(self.tensors))
        axes.plot(at, [t.sqnr_db for t in self.tensors], label="up to here")
        axes.scatter(at, [t.own_db for t in self.tensors], s=9, label="added by the op", color="tab:orange")
        axes.set_xticks(at, [t.name for t in self.tensors], rotation=90, fontsize=5)
        axes.set_ylabel("SQNR (dB)")
        axes.legend()
        figure.savefig(path)


def ordered(tensor: QuantizedTensor, values: dict[str, Array]) -> Array:
    """Return the integers of a tensor of a run, in the module's axis order."""
    stored = values[tensor.name]
    if tensor.planes:
        stored = stored.transpose(GIVEN[stored.ndim])
    return stored.reshape(tensor.shape)


def real(tensor: QuantizedTensor, values: dict[str, Array]) -> Array:
    """Return the real values of a tensor of a run, in the module's axis order, float64."""
    return (ordered(tensor, values).astype(np.float64) - tensor.q.zero_point) * tensor.q.scale


def feed(graph: Any, item: Sequence[Any]) -> tuple[Array, ...]:
    """Quantize float inputs (torch, the module's axis order) for a graph's ports."""
    fed = []
    for x, port in zip(item, graph.inputs, strict=True):
        a = x.detach().double().numpy()
        a = a.transpose(0, 2, 3, 1) if a.ndim == 4 else a
        dtype = port.type.dtype
        q = np.rint(a / port.quant.scale) + port.quant.zero_point
        fed.append(np.ascontiguousarray(np.clip(q, dtype.qmin, dtype.qmax).astype(dtype.numpy)))
    return tuple(fed)


def _ratio(signal: float, noise: float) -> float:
    return min(float(10 * np.log10(signal / noise)), _MOST) if noise > 0 and signal > 0 else _MOST


class _Comparison:
    """One input: every op in float on the integer graph's operands, with quantized constants and with float ones."""

    def __init__(self, walk: Any, values: dict[str, Array], wanted: dict[str, Any], sums: dict[str, Array]) -> None:
        self.walk, self.values, self.wanted, self.sums = walk, values, wanted, sums
        self.plain: dict[str, Any] = {}  # where float constants give something else than quantized ones
        self.given: dict[str, Any] = {}

    def see(self, node: Any, value: Any) -> Any:
        """Note the errors of a node's result and return what its readers get."""
        import torch

        result, plain = value, self._with_float_constants(node)
        constant = self.walk.constants.get(node.name) if node.op == "get_attr" else None
        if constant is not None:
            result, plain = torch.from_numpy(np.asarray(constant)).reshape(value.shape).to(value.dtype), value
        tensor = self.walk.tensors.get(node.name)
        if node.op != "get_attr" and tensor is not None and tensor.name in self.values:
            found = real(tensor, self.values)
            if node.op != "placeholder":
                self._add(node.name, found, value, value if plain is None else plain, tensor.q.scale)
            result, plain = torch.from_numpy(found).to(value.dtype), None
        self.given[node.name] = result
        if plain is not None:
            self.plain[node.name] = plain
        return result

    def _with_float_constants(self, node: Any) -> Any:
        from torch.fx.node import map_arg

        if node.op != "call_function" or not any(n.name in self.plain for n in node.all_input_nodes):
            return None

        def value(n: Any) -> Any:
            return self.plain.get(n.name, self.given[n.name])

        return node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))

    def _add(self, name: str, found: Array, rounded: Any, local: Any, scale: float) -> None:
        """Sums of squares: signal and error against the float module, against the op alone; steps of its rounding."""
        whole, alone, near = (np.asarray(t.double()) for t in (self.wanted[name], local, rounded))
        row = self.sums.setdefault(name, np.zeros(5))
        row[:4] += [
            (whole**2).sum(),
            ((found - whole) ** 2).sum(),
            (alone**2).sum(),
            ((found - alone) ** 2).sum(),
        ]
        row[4] = max(row[4], np.abs(found - near).max(initial=0) / scale)


def sensitivity(prepared: "Prepared", items: Sequence[Any]) -> Sensitivity:
    """Compare every tensor over the items."""
    from bitship.graph import host

    graph, walk = prepared.walk()
    sums: dict[str, Array] = {}
    for item in items:
        values = host.trace(graph, *feed(graph, item))
        wanted: dict[str, Array] = {}

        def keep(node: Any, value: Any, wanted: Any = wanted) -> Any:
            wanted[node.name] = value
            return value

        interpret(prepared.module, item, keep)

        compare = _Comparison(walk, values, wanted, sums)
        interpret(prepared.module, item, compare.see)
    nodes = {n.name: n for n in prepared.module.graph.nodes}
    rows = []
    for name, (signal, noise, local, own_noise, steps) in sums.items():
        node, tensor = nodes[name], walk.tensors[name]
        ratios = (_ratio(signal, noise), _ratio(local, own_noise))
        rows.append(
            TensorReport(name, op_name(node), module_path(node), tensor.shape, tensor.q.bits, *ratios, float(steps))
        )
    return Sensitivity(tuple(rows))
