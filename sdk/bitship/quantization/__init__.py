"""Post-training quantization: a torch module and calibration data become a graph of integers alone.

    torch.export  ->  PT2E (torchao) with a quantizer that annotates everything  ->  integerize

What cannot be an integer is a QuantizationError that names the op and the module it came from.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from bitship.errors import QuantizationError
from bitship.extras import quiet
from bitship.graph import Graph
from bitship.quantization.packages import require
from bitship.quantization.pt2 import load_pt2
from bitship.quantization.recipe import RECIPES, Calibrator, Recipe, recipe_named

__all__ = ["RECIPES", "Calibrator", "Recipe", "integerize", "load_pt2", "quantize", "simulate"]


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
    MissingDependencyError without torch and torchao.
    """
    require("torch")
    require("torchao.quantization.pt2e.quantize_pt2e")
    with quiet():
        converted = simulate(module, calibration, recipe_named(recipe) if isinstance(recipe, str) else recipe)
        return integerize(converted, name or type(module).__name__)


def simulate(module: Any, calibration: Iterable[Any], recipe: Recipe) -> Any:
    """Return the PT2E graph module of (dequantize, float op, quantize) that ``integerize`` takes; NCHW, in float."""
    import torch

    from bitship.quantization.annotate import pt2e_quantizer
    from bitship.quantization.capture import capture

    pt2e = require("torchao.quantization.pt2e.quantize_pt2e")
    if not isinstance(module, torch.nn.Module):
        raise QuantizationError(f"module is {type(module).__name__}; a torch.nn.Module is needed")
    items = _items(calibration)
    first = next(items, None)
    if first is None:
        raise QuantizationError("calibration: no inputs; give at least one, some tens of typical ones are better")
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        captured = capture(module, first)
    finally:
        for m in training:
            m.training = True
    prepared = pt2e.prepare_pt2e(captured, pt2e_quantizer(recipe))
    with torch.no_grad():
        _calibrate(prepared, first)
        for item in items:
            _calibrate(prepared, item)
    try:
        return pt2e.convert_pt2e(prepared)
    except (AssertionError, RuntimeError, ValueError) as e:
        text = " ".join(str(e).split())[:200]
        raise QuantizationError(f"calibration: an activation's range is not finite or not usable ({text})") from None


def _calibrate(prepared: Any, item: tuple[Any, ...]) -> None:
    try:
        prepared(*item)
    except RuntimeError as e:
        text = " ".join(str(e).split())[:200]
        raise QuantizationError(f"calibration: the captured module stops on an input ({text})") from None


def integerize(converted: Any, name: str) -> Graph:
    """Return the verified integer graph of a PT2E-converted torch.fx.GraphModule with int8 quantization throughout.

    Raises QuantizationError naming an op or a tensor that stays in float.
    """
    from bitship.quantization.walk import Walk

    return Walk(converted, name).run()


def _items(calibration: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
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
