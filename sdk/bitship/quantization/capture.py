"""Take a torch module as a graph of functional aten calls, ready to annotate."""

from typing import Any

from bitship.errors import QuantizationError
from bitship.quantization.arithmetic import ARITHMETIC
from bitship.quantization.catalogue import op_name, where
from bitship.quantization.choosing import CHOICES
from bitship.quantization.folding import FOLDS, fetch
from bitship.quantization.inlining import composites, regions
from bitship.quantization.patterns import PATTERNS
from bitship.quantization.rewrite import REWRITES, calls
from bitship.quantization.spelling import SPELLINGS

__all__ = ["capture", "fetch", "normalise"]

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
    """Drop identities, make in-place calls functional, and rewrite what the handlers have no op for."""
    _check_static(graph_module)
    early = (regions, _drop_identities, _functional, *SPELLINGS, *CHOICES, *PATTERNS, composites, *SPELLINGS)
    for step in (*early, *REWRITES, *ARITHMETIC, *FOLDS):
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
