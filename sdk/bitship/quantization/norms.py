"""Handlers of the norms, and of the masks that attention logits can carry."""

from typing import Any

import numpy as np

from bitship.errors import QuantizationError
from bitship.graph.base import Array
from bitship.importers import norms, shapes
from bitship.importers.attention import Masked
from bitship.importers.pending import Pending
from bitship.quantization.catalogue import argument, where
from bitship.quantization.handlers import Handler
from bitship.quantization.recipe import NormForm
from bitship.quantization.walk import Walk


def _parameter(w: Walk, node: Any, arg: Any, size: int, otherwise: float) -> Array:
    """Return a gain or an offset, or the constant that stands for none."""
    found = w.real_constant(node, arg)
    return np.full(size, otherwise) if found is None else found.reshape(-1)


def layer_norm(w: Walk, node: Any) -> Pending:
    """Layer norm over the last axes, exact or I-ViT's."""
    x, extents = w.quantized(node, node.args[0]), node.args[1]
    size = int(np.prod(extents))
    gain = _parameter(w, node, argument(node, 2, "weight", None), size, 1.0)
    offset = _parameter(w, node, argument(node, 3, "bias", None), size, 0.0)
    eps, axes = float(argument(node, 4, "eps", 1e-5)), len(extents)
    if w.recipe.norm is NormForm.I_LAYER_NORM:
        return Pending(lambda q, _: norms.i_layer_norm(w.g, node.name, x, axes, gain, offset, q))
    return Pending(lambda q, _: norms.layer_norm(w.g, node.name, x, axes, gain, offset, eps, q))


def rms_norm(w: Walk, node: Any) -> Pending:
    """Root-mean-square norm over the last axes."""
    x, extents = w.quantized(node, node.args[0]), node.args[1]
    gain = _parameter(w, node, argument(node, 2, "weight", None), int(np.prod(extents)), 1.0)
    eps = argument(node, 3, "eps", None)
    eps = 2.0**-23 if eps is None else float(eps)  # torch's default: the machine epsilon of float32
    return Pending(lambda q, _: norms.rms_norm(w.g, node.name, x, len(extents), gain, eps, q))


def group_norm(w: Walk, node: Any) -> Pending:
    """Group norm of one group: a layer norm over all axes but the first, gains repeating along the channels."""
    x, groups = w.quantized(node, node.args[0]), int(node.args[1])
    if groups != 1:
        raise QuantizationError(f"{where(node)}: {groups} groups; one group has an integer form")
    channels = x.shape[1]
    gain = _parameter(w, node, argument(node, 2, "weight", None), channels, 1.0)
    offset = _parameter(w, node, argument(node, 3, "bias", None), channels, 0.0)
    eps, rank = float(argument(node, 4, "eps", 1e-5)), len(x.shape)
    last = (0, *range(2, rank), 1)
    back = (0, rank - 1, *range(1, rank - 1))
    x = shapes.permute(w.g, f"{node.name}.last", x, last)

    def emit(q: Any, _: Any) -> Any:
        y = norms.layer_norm(w.g, node.name, x, rank - 1, gain, offset, eps, q)
        return shapes.permute(w.g, f"{node.name}.back", y, back)

    return Pending(emit)


def masked_fill(w: Walk, node: Any) -> Masked:
    """Logits that a softmax leaves out, where a constant mask is true."""
    mask = w.constant(node.args[1])
    if mask is None:
        raise QuantizationError(f"{where(node)}: the mask is computed; a constant one is needed")
    if any("softmax" not in str(u.target) for u in node.users):
        raise QuantizationError(f"{where(node)}: something else than a softmax reads the masked tensor")
    return Masked(w.quantized(node, node.args[0]), mask.numpy().astype(bool))


NORM_HANDLERS: dict[str, Handler] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "masked_fill": masked_fill,
}
