"""Names of captured calls, and the few families of ops whose place decides how they are quantized."""

from typing import Any

ACCUMULATING = frozenset(("conv2d", "linear", "add", "sub", "mul", "mean", "adaptive_avg_pool2d"))
"""Ops whose requantization a clamp after them joins."""

CLAMPS = frozenset(("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max"))

NORMS = frozenset(("layer_norm", "rms_norm", "group_norm"))

MOVES = frozenset(
    (
        *("max_pool2d", "avg_pool2d", "pad", "constant_pad_nd", "upsample_nearest2d", "upsample_bilinear2d", "flatten"),
        *("reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "slice", "pixel_shuffle", "roll"),
        *("index_select", "cat"),
    )
)
"""Ops that move, choose or mix elements: what is said of the result holds for the operands."""


def op_name(node: Any) -> str:
    """Return the bare aten name of a call (``conv2d`` for ``aten.conv2d.default``), or the target as text."""
    parts = str(node.target).split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "aten" else str(node.target)


def argument(node: Any, index: int, name: str, default: Any) -> Any:
    """Return an argument of a call by position or keyword."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def shape_of(node: Any) -> tuple[int, ...]:
    """Return the shape of a node's tensor."""
    return tuple(node.meta["val"].shape)


def where(node: Any) -> str:
    """Say where a node is: its op, its name and the path of the module it came from."""
    return f"op {node.target} (node '{node.name}', module '{module_path(node) or 'the model itself'}')"


def module_path(node: Any) -> str:
    """Return the path of the module a node came from, empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values()]
    return paths[-1].removeprefix("L['self'].") if paths else ""


def is_constant(node: Any) -> bool:
    """Whether a node is a parameter or buffer."""
    return bool(node.op == "get_attr")


def folds(node: Any) -> bool:
    """Whether a clamp becomes the limits of the accumulating op before it."""
    before: Any = node.args[0] if node.args else None
    return (
        node.op == "call_function"
        and op_name(node) in CLAMPS
        and getattr(before, "op", "") == "call_function"
        and op_name(before) in ACCUMULATING
        and len(before.users) == 1
    )


def tensors(node: Any) -> list[Any]:
    """Return the nodes a call reads, in order, lists flattened."""
    found: list[Any] = []
    for arg in node.args:
        for item in arg if isinstance(arg, list | tuple) else (arg,):
            if hasattr(item, "users") and item not in found:
                found.append(item)
    return found
