"""What the quantizer's tests share: modules from functions, data, and integer graphs run on real numbers."""

from typing import Any

import numpy as np
import pytest

from bitship.graph import Graph, spec
from bitship.graph.base import Array

torch = pytest.importorskip("torch")
nn = torch.nn


class Call(nn.Module):  # type: ignore[misc, name-defined]
    """A function as a module."""

    def __init__(self, function: Any, **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *xs: Any) -> Any:
        return self.function(self, *xs)


def images(count: int, *shape: int, seed: int = 0) -> Any:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)) * 1.7 + 0.2


def feed(graph: Graph, *xs: Any) -> tuple[Array, ...]:
    """Quantize float inputs of batch 1 for the graph."""
    fed = []
    for x, port in zip(xs, graph.inputs, strict=True):
        assert port.quant is not None
        a = x.numpy().transpose(0, 2, 3, 1) if x.dim() == 4 else x.numpy()
        q = np.rint(a / port.quant.scale) + port.quant.zero_point
        dtype = port.type.dtype
        fed.append(np.ascontiguousarray(np.clip(q, dtype.qmin, dtype.qmax).astype(dtype.numpy)))
    return tuple(fed)


def run(graph: Graph, *xs: Any) -> list[Array]:
    """Real outputs of the integer graph, in torch's axis order."""
    results = []
    for y, port in zip(spec.run(graph, *feed(graph, *xs)), graph.outputs, strict=True):
        assert port.quant is not None
        real = (y.astype(np.float64) - port.quant.zero_point) * port.quant.scale
        results.append(real.transpose(0, 3, 1, 2) if real.ndim == 4 else real)
    return results


def sqnr(wanted: Array, found: Array) -> float:
    return float(10 * np.log10((wanted**2).sum() / max(((wanted - found) ** 2).sum(), 1e-30)))


def batches(*shapes: tuple[int, ...], count: int = 6) -> list[tuple[Any, ...]]:
    return [tuple(images(1, *s, seed=10 * i + j) for j, s in enumerate(shapes)) for i in range(count)]


def conv(*args: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    return nn.Conv2d(*args, **options)
