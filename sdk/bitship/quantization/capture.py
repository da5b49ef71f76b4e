"""Take a torch module as a graph of functional aten calls, ready to annotate."""

from typing import Any

from bitship.errors import QuantizationError
from bitship.quantization.catalogue import op_name, where
from bitship.quantization.rewrite import REWRITES, calls

_IDENTITIES = ("dropout", "feature_dropout", "contiguous", "clone", "detach", "alias", "lift_fresh_copy")


def capture(module: Any, example: tuple[Any, ...]) -> Any:
    """Export a module in eval mode for the shapes of ``example`` and return its normalised torch.fx.GraphModule.

    Raises QuantizationError when torch.export cannot follow the module or a shape stays dynamic.
    """
    import torch

    try:
        program = torch.export.export(module, example)
    except Exception as e:
        raise QuantizationError(
            f"module {type(module).__name__}: torch.export cannot follow it ({_first_line(e)}); "
            "make its control flow independent of tensor values"
        ) from None
    return normalise(program.module(check_guards=False))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def normalise(graph_module: Any) -> Any:
    """Drop identities, make in-place calls functional, and turn batch norms that follow no convolution into ops."""
    _check_static(graph_module)
    for step in (_drop_identities, _functional, *REWRITES, _batch_norms):
        step(graph_module)
        graph_module.graph.eliminate_dead_code()
        graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def _check_static(graph_module: Any) -> None:
    for node in graph_module.graph.nodes:
        shape = getattr(node.meta.get("val"), "shape", ())
        if not all(isinstance(n, int) for n in shape):
            raise QuantizationError(f"{where(node)}: shape {tuple(shape)} is dynamic; export with fixed shapes")


def _drop_identities(graph_module: Any) -> None:
    for node in calls(graph_module):
        if op_name(node).rstrip("_") in _IDENTITIES and not (op_name(node) == "dropout" and node.args[2]):
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)


def _functional(graph_module: Any) -> None:
    """Replace ``op_`` by ``op``; what read the changed tensor afterwards reads the result."""
    import torch

    order = {node: i for i, node in enumerate(graph_module.graph.nodes)}
    for node in calls(graph_module):
        name = op_name(node)
        if not name.endswith("_") or name.startswith("_"):
            continue
        packet = getattr(torch.ops.aten, name[:-1], None)
        overload = str(node.target).split(".")[-1]
        if packet is None or overload not in packet.overloads():
            raise QuantizationError(f"{where(node)}: no functional form of this in-place op is known")
        changed = node.args[0]
        node.target = getattr(packet, overload)
        for user in list(changed.users):
            if user is not node and order[user] > order[node]:
                user.replace_input_with(changed, node)


def _batch_norms(graph_module: Any) -> None:
    """Leave a batch norm after a convolution to PT2E; write others as a 1x1 depthwise convolution, or mul and add."""
    for node in calls(graph_module):
        if op_name(node) != "batch_norm":
            continue
        if node.args[5]:
            raise QuantizationError(f"{where(node)}: batch norm uses batch statistics; call eval() or track statistics")
        before = node.args[0]
        folds = before.op == "call_function" and op_name(before) == "conv2d" and len(before.users) == 1
        if not folds:
            _replace_batch_norm(graph_module, node)


def _replace_batch_norm(graph_module: Any, node: Any) -> None:
    import torch

    aten: Any = torch.ops.aten
    weight: Any
    bias: Any
    mean: Any
    var: Any
    weight, bias, mean, var = (None if a is None else fetch(graph_module, a).double() for a in node.args[1:5])
    factor = torch.rsqrt(var + float(node.args[7]))
    factor = factor if weight is None else factor * weight
    offset = -mean * factor if bias is None else bias - mean * factor
    rank, channels = len(node.meta["val"].shape), factor.numel()
    graph = graph_module.graph
    with graph.inserting_before(node):
        if rank == 4:
            w = _attribute(graph_module, f"{node.name}_weight", factor.float().reshape(channels, 1, 1, 1))
            b = _attribute(graph_module, f"{node.name}_bias", offset.float())
            result = graph.call_function(aten.conv2d.default, (node.args[0], w, b, [1, 1], [0, 0], [1, 1], channels))
        else:
            shape = (channels, *(1,) * (rank - 2))
            w = _attribute(graph_module, f"{node.name}_weight", factor.float().reshape(shape))
            b = _attribute(graph_module, f"{node.name}_bias", offset.float().reshape(shape))
            product = graph.call_function(aten.mul.Tensor, (node.args[0], w))
            product.meta = dict(node.meta)
            result = graph.call_function(aten.add.Tensor, (product, b))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _attribute(graph_module: Any, name: str, value: Any) -> Any:
    graph_module.register_buffer(name, value)
    node = graph_module.graph.get_attr(name)
    node.meta["val"] = value
    return node


def fetch(graph_module: Any, node: Any) -> Any:
    """Return the tensor a get_attr node reads."""
    value = graph_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.detach()
