"""Calibration: run the captured module in float and keep what every tensor's range was."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitship.errors import QuantizationError
from bitship.graph.base import Array
from bitship.quantization.catalogue import op_name, where
from bitship.quantization.histograms import mse_range, percentile_range
from bitship.quantization.recipe import Calibrator, Recipe

_BINS = 2048

Range = tuple[float, float]


@dataclass
class Ranges:
    """The range of every float tensor, by node name; ``channels`` the range along the last axis for some."""

    tensors: dict[str, Range] = field(default_factory=dict)
    channels: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    def of(self, name: str) -> Range:
        """Return a tensor's range; QuantizationError when calibration did not see it."""
        if name not in self.tensors:
            raise QuantizationError(f"node '{name}': calibration did not see this tensor")
        return self.tensors[name]


def is_float(node: Any) -> bool:
    """Whether a node's value is one float tensor."""
    value = node.meta.get("val")
    return bool(getattr(value, "is_floating_point", bool)())


def interpret(graph_module: Any, item: tuple[Any, ...], see: Callable[[Any, Any], Any]) -> Any:
    """Run the module node by node; ``see(node, value)`` gets every result and returns what the readers get."""
    import torch

    class Watch(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, n: Any) -> Any:
            value = super().run_node(n)
            return value if n.op == "output" else see(n, value)

    with torch.no_grad():
        try:
            return Watch(graph_module).run(*item)
        except QuantizationError as e:  # torch appends where it was to the message
            raise QuantizationError(str(e).partition("\n")[0]) from None


def calibrate(
    graph_module: Any, items: Iterable[tuple[Any, ...]], recipe: Recipe, channels: Iterable[Any] = ()
) -> Ranges:
    """Return the ranges of every float tensor over the items, as the recipe's calibrator chooses them.

    channels  nodes whose range is also wanted per index of the last axis
    Raises QuantizationError naming the first tensor with a value that is not finite.
    """
    import torch

    found, wanted = Ranges(), {n.name for n in channels}

    def extremes(node: Any, value: Any) -> Any:
        if op_name(node) == "masked_fill":  # -inf by design; what it leaves has the range of its operand
            return value
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() and node.op != "get_attr":
            low, high = (float(v) for v in torch.aminmax(value))
            if not (np.isfinite(low) and np.isfinite(high)):
                raise QuantizationError(f"calibration: an activation's range is not finite at {where(node)}")
            a, b = found.tensors.get(node.name, (low, high))
            found.tensors[node.name] = (min(a, low), max(b, high))
            if node.name in wanted:
                rows = value.reshape(-1, value.shape[-1]).double().numpy()
                lows, highs = found.channels.get(node.name, (rows.min(0), rows.max(0)))
                found.channels[node.name] = (np.minimum(lows, rows.min(0)), np.maximum(highs, rows.max(0)))
        return value

    kept = []
    for item in items:
        try:
            interpret(graph_module, item, extremes)
        except RuntimeError as e:
            text = " ".join(str(e).split())[:200]
            raise QuantizationError(f"calibration: the captured module stops on an input ({text})") from None
        if recipe.calibrator is not Calibrator.MINMAX:
            kept.append(item)
    if recipe.calibrator is not Calibrator.MINMAX:
        found.tensors = _narrowed(graph_module, kept, recipe, found.tensors)
    return found


def _narrowed(
    graph_module: Any, items: list[tuple[Any, ...]], recipe: Recipe, full: dict[str, Range]
) -> dict[str, Range]:
    """Run again for histograms and let the calibrator choose from them."""
    import torch

    counts: dict[str, Array] = {}

    def count(node: Any, value: Any) -> Any:
        ends = full.get(node.name)
        if isinstance(value, torch.Tensor) and ends is not None and ends[0] < ends[1]:
            add = np.histogram(value.numpy(), _BINS, ends)[0]
            counts[node.name] = counts.get(node.name, np.zeros(_BINS)) + add
        return value

    for item in items:
        interpret(graph_module, item, count)
    chosen = dict(full)
    for name, histogram in counts.items():
        if recipe.calibrator is Calibrator.MSE:
            chosen[name] = mse_range(histogram, *full[name])
        else:
            chosen[name] = percentile_range(histogram, *full[name], recipe.percentile)
    return chosen
