"""Inline subgraphs into a captured aten graph: regions that torch.export keeps apart, and composite ops."""

from typing import Any

from bitship.errors import QuantizationError
from bitship.quantization.catalogue import op_name, where
from bitship.quantization.rewrite import calls, reached

_REGIONS = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
_CHECKS = ("_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range_for_size")


def inline(graph_module: Any, node: Any, body: Any, operands: list[Any]) -> list[Any]:
    """Copy the graph of another module before a node and return what its outputs have become.

    operands  for every placeholder of ``body``: a node of this graph, or a constant
    """
    graph = graph_module.graph
    became: dict[Any, Any] = dict(zip((n for n in body.graph.nodes if n.op == "placeholder"), operands, strict=True))
    results: list[Any] = []
    for inner in body.graph.nodes:
        if inner.op == "output":
            first = inner.args[0]
            results = [became[n] for n in (first if isinstance(first, list | tuple) else [first])]
        elif inner.op != "placeholder":
            with graph.inserting_before(node):
                made = graph.node_copy(inner, became.__getitem__)
            if inner.op == "get_attr":
                made.target = f"{node.name}_{str(inner.target).replace('.', '_')}"
                _adopt(graph_module, made.target, body, str(inner.target))
            elif "nn_module_stack" not in inner.meta:
                made.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
            became[inner] = made
    return results


def _adopt(graph_module: Any, name: str, body: Any, path: str) -> None:
    import torch

    value = reached(body, path)
    if isinstance(value, torch.nn.Module):
        graph_module.add_submodule(name, value)
    else:
        graph_module.register_buffer(name, value.detach())


def regions(graph_module: Any) -> None:
    """Inline what torch.export keeps apart because autocast or gradients were switched; drop its run-time checks.

    Inside a region of lower precision the integers are calibrated on that precision's values.
    """
    while True:
        found = [n for n in calls(graph_module) if op_name(n) in _REGIONS]
        if not found:
            break
        node = found[0]
        at = next(i for i, a in enumerate(node.args) if getattr(a, "op", "") == "get_attr")
        body = graph_module.get_submodule(str(node.args[at].target))
        _replace_results(graph_module, node, inline(graph_module, node, body, list(node.args[at + 1 :])))
    for node in calls(graph_module):
        if op_name(node) in _CHECKS:
            graph_module.graph.erase_node(node)


def _replace_results(graph_module: Any, node: Any, results: list[Any]) -> None:
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])
        graph_module.graph.erase_node(user)
    graph_module.graph.erase_node(node)


def composites(graph_module: Any) -> None:
    """Replace ops that torch defines by other ops, and that have no handler of their own, by those.

    Runs until nothing changes: what an op is made of may be made of others.
    """
    for _ in range(4):
        changed = False
        for node in calls(graph_module):
            if not _is_composite(node):
                continue
            body = _traced(node)
            results = inline(graph_module, node, body, list(node.all_input_nodes))
            node.replace_all_uses_with(results[0])
            graph_module.graph.erase_node(node)
            changed = True
        if not changed:
            return


def _is_composite(node: Any) -> bool:
    import torch

    from bitship.quantization.handlers import handled
    from bitship.quantization.rewrite import REWRITTEN

    name, target = op_name(node), node.target
    if name in REWRITTEN or handled(name) or not isinstance(target, torch._ops.OpOverload):
        return False
    if target.namespace != "aten":
        return False
    single = hasattr(node.meta.get("val"), "shape")
    return single and target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)


def _traced(node: Any) -> Any:
    """Return the graph module of what an op does to operands of these shapes."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    sources = node.all_input_nodes

    def run(*values: Any) -> Any:
        given = dict(zip(sources, values, strict=True))
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), given.__getitem__)
        with torch.no_grad():
            return node.target.decompose(*args, **kwargs)

    try:
        return make_fx(run)(*(s.meta["val"] for s in sources))
    except (RuntimeError, TypeError) as e:
        text = " ".join(str(e).split())[:120]
        raise QuantizationError(f"{where(node)}: no integer form, and torch does not take it apart ({text})") from None
