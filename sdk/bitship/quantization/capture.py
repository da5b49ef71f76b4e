"""Take a torch module as a graph of functional aten calls, ready to annotate."""

from typing import Any

from bitship.errors import QuantizationError
from bitship.quantization.arithmetic import ARITHMETIC
from bitship.quantization.catalogue import op_name, where
from bitship.quantization.choosing import CHOICES
from bitship.quantization.folding import FOLDS, attribute, fetch
from bitship.quantization.inlining import composites, regions
from bitship.quantization.patterns import PATTERNS
from bitship.quantization.rewrite import REWRITES, calls, computed, constant_value
from bitship.quantization.spelling import SPELLINGS

__all__ = ["capture", "fetch", "normalise"]

_VIEWS = frozenset(
    (
        *(
            "slice",
            "select",
            "view",
            "reshape",
            "transpose",
            "permute",
            "squeeze",
            "unsqueeze",
            "expand",
            "flatten",
            "t",
        ),
        *("split", "chunk", "unbind", "narrow", "unflatten", "movedim", "view_as", "expand_as"),
    )
)

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
    early = (
        regions,
        _drop_identities,
        _functional,
        constants,
        *SPELLINGS,
        *CHOICES,
        *PATTERNS,
        composites,
        _drop_identities,
        *SPELLINGS,
    )
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
        _refuse_seen_through_views(node, changed, order)
        node.target = getattr(packet, overload)
        for user in list(changed.users):
            if user is not node and order[user] > order[node]:
                user.replace_input_with(changed, node)


def _refuse_seen_through_views(node: Any, changed: Any, order: dict[Any, int]) -> None:
    """Refuse an in-place op whose change another view of the same memory would show to a later reader."""
    base, chain = changed, {changed}
    while base.op == "call_function" and op_name(base) in _VIEWS:
        base = base.args[0]
        chain.add(base)
    others = [base] if base is not changed else []
    others += [u for u in changed.users if u.op == "call_function" and op_name(u) in _VIEWS and order[u] < order[node]]
    for other in others:
        if any(order[u] > order[node] and u not in chain for u in other.users):
            raise QuantizationError(
                f"{where(node)}: it changes a part of '{base.name}' in place, which '{other.name}' shows to "
                "later readers; write it without the in-place change"
            )


def constants(graph_module: Any) -> None:
    """Evaluate what depends on no input, and keep the results that calls read as parameters of the module.

    A parameter repeated for a concat (a class token for every image of a batch) stays the parameter it is.
    """
    moving = computed(graph_module)
    known: dict[Any, Any] = {}
    for node in calls(graph_module):
        spread = op_name(node) in ("expand", "expand_as") and all(op_name(u) == "cat" for u in node.users)
        of_pt2e = str(node.target).startswith(("quantized_decomposed.", "torchao."))
        plain = not (node in moving or spread or of_pt2e)
        if plain and all(n in known or n.op == "get_attr" for n in node.all_input_nodes):
            known[node] = constant_value(graph_module, node, known)
    for number, (node, value) in enumerate(known.items()):
        readers = [u for u in node.users if u in moving]
        if readers and hasattr(value, "numel"):
            with graph_module.graph.inserting_before(node):
                kept = attribute(graph_module, f"constant_{number}", value.detach().clone())
            for reader in readers:
                reader.replace_input_with(node, kept)
