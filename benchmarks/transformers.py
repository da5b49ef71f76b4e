"""The transformers of the benchmarks: timm's DeiT-T and Swin-T with random weights, and the shipped ViT."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitship import models
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.quantization import prepare

NOT_APPLICABLE = "-"  # a model that is no candidate for a device of this class
CALIBRATION = 8
ON_HOST = ("host C", "TVM x86", "firmware, host")


@dataclass(frozen=True)
class Subject:
    """A graph and how many inputs each back end gets; a back end that is not named is left out."""

    name: str
    graph: Graph
    counts: dict[str, int]

    def rows(self) -> list[tuple[Array, ...]]:
        """Return as many inputs as any back end gets: random codes, then the lowest and the highest."""
        port, r = self.graph.inputs[0], np.random.default_rng(0)
        dtype, shape = port.type.dtype, port.type.shape
        wanted = max(self.counts.values())
        rows = [r.integers(dtype.qmin, dtype.qmax, shape, np.int64, endpoint=True) for _ in range(wanted)]
        if wanted > 2:
            rows[-2:] = [np.full(shape, dtype.qmin), np.full(shape, dtype.qmax)]
        return [(row.astype(dtype.numpy),) for row in rows]


def timm_graph(name: str, recipe: str, side: int = 224) -> Graph:
    """Quantize a timm model with redrawn random weights on random images."""
    from benchmarks import timm_models

    module: Any = timm_models.create(name, side)
    calibration = timm_models.batches(CALIBRATION, side, 7)
    return prepare(module, calibration, recipe, f"{name}_{recipe}").graph()


_BIG = {**dict.fromkeys(ON_HOST, 3), "ExecuTorch": 1, "TVM aarch64": 1}
_SMALL = {
    **dict.fromkeys((*ON_HOST, "ExecuTorch"), 100),
    **dict.fromkeys(("TVM aarch64", "Cortex-M7", "Cortex-M55"), 20),
}


def subjects(wanted: Callable[[str], bool]) -> Iterator[Subject]:
    """Yield the suite, made one at a time."""
    for graph in models.graph_names():
        if graph.startswith("vit") and wanted(graph):
            yield Subject(graph, models.load_graph(graph), _SMALL)
    for label, name in (("DeiT-T", "deit_tiny_patch16_224"), ("Swin-T", "swin_tiny_patch4_window7_224")):
        for recipe in ("int8", "ivit"):
            if wanted(f"{label} {recipe}"):
                yield Subject(f"{label} {recipe}", timm_graph(name, recipe), _BIG)
