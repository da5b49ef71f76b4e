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
    own_db   against the float op on the integer graph's own inputs: the error this op adds
    steps    largest own error in steps of the output scale
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


def real(tensor: QuantizedTensor, values: dict[str, Array]) -> Array:
    """Return the real values of a tensor of a run, in the module's axis order, float64."""
    stored = values[tensor.name]
    if tensor.planes:
        stored = stored.transpose(GIVEN[stored.ndim])
    return (stored.astype(np.float64).reshape(tensor.shape) - tensor.q.zero_point) * tensor.q.scale


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


def sensitivity(prepared: "Prepared", items: Sequence[Any]) -> Sensitivity:
    """Compare every tensor over the items."""
    import torch

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

        def own(node: Any, value: Any, values: Any = values, wanted: Any = wanted) -> Any:
            if node.op == "get_attr":
                constant = walk.constants.get(node.name)
                return value if constant is None else torch.from_numpy(constant).to(value.dtype)
            tensor = walk.tensors.get(node.name)
            if tensor is None or tensor.name not in values:
                return value
            found = real(tensor, values)
            if node.op != "placeholder":
                float_value, local = (np.asarray(t.double()) for t in (wanted[node.name], value))
                error = np.abs(found - local)
                add = [(float_value**2).sum(), ((found - float_value) ** 2).sum(), (local**2).sum(), (error**2).sum()]
                row = sums.setdefault(node.name, np.zeros(5))
                row[:4] += add
                row[4] = max(row[4], error.max(initial=0) / tensor.q.scale)
            return torch.from_numpy(found).to(value.dtype)

        interpret(prepared.module, item, own)
    nodes = {n.name: n for n in prepared.module.graph.nodes}
    rows = []
    for name, (signal, noise, local, own_noise, steps) in sums.items():
        node, tensor = nodes[name], walk.tensors[name]
        ratios = (_ratio(signal, noise), _ratio(local, own_noise))
        rows.append(
            TensorReport(name, op_name(node), module_path(node), tensor.shape, tensor.q.bits, *ratios, float(steps))
        )
    return Sensitivity(tuple(rows))
