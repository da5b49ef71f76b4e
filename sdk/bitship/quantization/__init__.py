"""Post-training quantization: a torch module and calibration data become a graph of integers alone.

    torch.export -> calibrate -> plan (bits and scales of every tensor) -> integer graph

What cannot be an integer is a QuantizationError that names the op and the module it came from.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from bitship.errors import QuantizationError
from bitship.extras import quiet
from bitship.graph import Graph
from bitship.quantization.packages import require
from bitship.quantization.prepared import Prepared
from bitship.quantization.pt2 import load_pt2
from bitship.quantization.recipe import (
    RECIPES,
    Calibrator,
    GeluForm,
    Migration,
    NormForm,
    Recipe,
    SoftmaxForm,
    recipe_named,
)

__all__ = [
    "RECIPES",
    "Calibrator",
    "GeluForm",
    "Migration",
    "NormForm",
    "Prepared",
    "Recipe",
    "SoftmaxForm",
    "load_pt2",
    "prepare",
    "quantize",
]


def quantize(module: Any, calibration: Iterable[Any], recipe: Recipe | str = "int8", name: str = "") -> Graph:
    """Quantize a torch.nn.Module after training and return its verified integer graph for batch 1.

    module       taken in eval mode; shapes must not depend on values
    calibration  float32 tensors, or tuples of them for several inputs: the first axis is the batch, which is split,
                 and every item has the first one's shape. Some tens of typical inputs are enough
    recipe       how to quantize; a Recipe or the name of one of RECIPES
    name         name of the graph; the module's class when empty

    Images [1, C, H, W] enter and leave the graph as [1, H, W, C]; other tensors keep their axis order. ``quant`` of
    each port gives scale and zero point. Nothing of the module is changed.

    Raises QuantizationError (an op without integer form, missing, empty, non-finite or misshapen calibration),
    MissingDependencyError without torch.
    """
    return prepare(module, calibration, recipe, name).graph()


def prepare(module: Any, calibration: Iterable[Any], recipe: Recipe | str = "int8", name: str = "") -> Prepared:
    """Capture and calibrate a module as ``quantize`` does, and return it with its plan, before any graph is written.

    From it come the graph, the sensitivity report, mixed precision and quantization-aware training.
    """
    torch = require("torch")
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe
    if not isinstance(module, torch.nn.Module):
        raise QuantizationError(f"module is {type(module).__name__}; a torch.nn.Module is needed")
    with quiet():
        items = list(items_of(calibration))
        if not items:
            raise QuantizationError("calibration: no inputs; give at least one, some tens of typical ones are better")
        return Prepared.of(module, items, recipe, name or type(module).__name__)


def items_of(calibration: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield one checked tuple of inputs with batch 1 at a time."""
    import torch

    shapes: list[tuple[int, ...]] | None = None
    for number, sample in enumerate(calibration):
        given = tuple(sample) if isinstance(sample, list | tuple) else (sample,)
        for t in given:
            if not isinstance(t, torch.Tensor) or t.dtype != torch.float32 or t.dim() < 1:
                found = f"{t.dtype} of rank {t.dim()}" if isinstance(t, torch.Tensor) else type(t).__name__
                raise QuantizationError(f"calibration item {number}: {found}; float32 tensors with a batch axis needed")
            if not bool(torch.isfinite(t).all()):
                raise QuantizationError(f"calibration item {number}: it holds values that are not finite")
        found_shapes = [tuple(t.shape[1:]) for t in given]
        shapes = shapes or found_shapes
        if found_shapes != shapes or len({t.shape[0] for t in given}) != 1:
            raise QuantizationError(
                f"calibration item {number}: shapes {[tuple(t.shape) for t in given]}; batches of {shapes} are needed"
            )
        for i in range(given[0].shape[0]):
            yield tuple(t[i : i + 1].contiguous() for t in given)
