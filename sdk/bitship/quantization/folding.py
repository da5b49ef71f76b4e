"""Fold per-channel factors and offsets of a captured graph into the weights before them; the float value stays."""

from collections.abc import Callable
from typing import Any

from bitship.errors import QuantizationError
from bitship.quantization.catalogue import is_constant, op_name, where
from bitship.quantization.rewrite import Inserter, calls, reached

_MOVING_TOKENS = frozenset(("reshape", "view", "flatten", "unflatten"))


def fetch(graph_module: Any, node: Any) -> Any:
    """Return the tensor a get_attr node reads."""
    return reached(graph_module, str(node.target)).detach()


def attribute(graph_module: Any, name: str, value: Any) -> Any:
    """Register a tensor as a parameter and return a get_attr node for it; the caller chooses the place."""
    import torch

    graph_module.register_parameter(name, torch.nn.Parameter(value, requires_grad=value.is_floating_point()))
    node = graph_module.graph.get_attr(name)
    node.meta["val"] = value
    return node


def _foldable(node: Any) -> bool:
    """Whether a call is a convolution or linear layer with constant weights that one reader has."""
    return bool(
        node.op == "call_function"
        and op_name(node) in ("conv2d", "linear")
        and len(node.users) == 1
        and is_constant(node.args[1])
    )


def rescale_layer(graph_module: Any, layer: Any, factor: Any, offset: Any) -> None:
    """Give a layer the weights and bias of ``factor * layer + offset``, per output channel (float64 tensors)."""
    weight = fetch(graph_module, layer.args[1]).double()
    given = layer.args[2] if len(layer.args) > 2 else layer.kwargs.get("bias")
    bias = 0.0 if given is None else fetch(graph_module, given).double()
    shape = (-1, *(1,) * (weight.dim() - 1))
    with graph_module.graph.inserting_before(layer):
        new_weight = attribute(graph_module, f"{layer.name}_weight", (weight * factor.reshape(shape)).float())
        new_bias = attribute(graph_module, f"{layer.name}_bias", (bias * factor + offset).float())
    kwargs = {k: v for k, v in layer.kwargs.items() if k != "bias"}
    layer.args = (layer.args[0], new_weight, new_bias, *layer.args[3:])
    layer.kwargs = kwargs


def batch_norms(graph_module: Any) -> None:
    """Fold a batch norm into the layer before it; write others as a 1x1 depthwise convolution, or mul and add."""
    for node in calls(graph_module):
        if op_name(node) not in ("batch_norm", "_native_batch_norm_legit_no_training"):
            continue
        if node.args[5] is True:
            raise QuantizationError(f"{where(node)}: batch norm uses batch statistics; call eval() or track statistics")
        factor, offset = _statistics(graph_module, node)
        before = node.args[0]
        layer = before
        while op_name(layer) in _MOVING_TOKENS and len(layer.users) == 1 and layer.op == "call_function":
            layer = layer.args[0]  # linear, flatten(0, 1), batch norm over the channels
        tokens = layer is not before and op_name(layer) == "linear" and _same_channels(layer, before)
        if _foldable(layer) and (layer is before or tokens):
            rescale_layer(graph_module, layer, factor, offset)
            node.replace_all_uses_with(before)
        else:
            _write_batch_norm(graph_module, node, factor, offset)
        graph_module.graph.erase_node(node)


def _same_channels(layer: Any, moved: Any) -> bool:
    value = moved.meta["val"]
    return bool(value.dim() == 2 and value.shape[-1] == layer.meta["val"].shape[-1])


def _statistics(graph_module: Any, node: Any) -> tuple[Any, Any]:
    import torch

    weight: Any
    bias: Any
    mean: Any
    var: Any
    weight, bias, mean, var = (None if a is None else fetch(graph_module, a).double() for a in node.args[1:5])
    factor = torch.rsqrt(var + float(node.args[7] if len(node.args) > 7 else node.args[6]))
    factor = factor if weight is None else factor * weight
    return factor, -mean * factor if bias is None else bias - mean * factor


def _write_batch_norm(graph_module: Any, node: Any, factor: Any, offset: Any) -> None:
    import torch

    aten: Any = torch.ops.aten
    rank, channels = len(node.meta["val"].shape), factor.numel()
    insert = Inserter(graph_module, node)
    with graph_module.graph.inserting_before(node):
        shape = (channels, 1, 1, 1) if rank == 4 else (channels, *(1,) * (rank - 2))
        w = attribute(graph_module, f"{node.name}_weight", factor.float().reshape(shape))
        b = attribute(graph_module, f"{node.name}_bias", offset.float().reshape(-1 if rank == 4 else shape))
    if rank == 4:
        result = insert.call(aten.conv2d.default, node.args[0], w, b, [1, 1], [0, 0], [1, 1], channels)
    else:
        result = insert.call(aten.add.Tensor, insert.call(aten.mul.Tensor, node.args[0], w), b)
    node.replace_all_uses_with(result)


def channel_factors(graph_module: Any) -> None:
    """Fold a product with one constant per channel (layer scale) into the layer before it."""
    import torch

    for node in calls(graph_module):
        if op_name(node) != "mul":
            continue
        for layer, constant in (node.args[:2], node.args[1::-1]):
            if not (hasattr(layer, "users") and hasattr(constant, "users") and _foldable(layer)):
                continue
            if not is_constant(constant):
                continue
            value, out = fetch(graph_module, constant), layer.meta["val"]
            axis = out.dim() - 1 if op_name(layer) == "linear" else 1
            aligned = (1,) * (out.dim() - value.dim()) + tuple(value.shape)
            if aligned != tuple(out.shape[axis] if i == axis else 1 for i in range(out.dim())):
                continue
            zeros = torch.zeros(value.numel(), dtype=torch.float64)
            rescale_layer(graph_module, layer, value.double().reshape(-1), zeros)
            node.replace_all_uses_with(layer)
            graph_module.graph.erase_node(node)
            break


FOLDS: tuple[Callable[[Any], None], ...] = (batch_norms, channel_factors)
