"""Which aten ops the quantizer takes, and as what."""

import enum
from typing import Any

from bitship.errors import QuantizationError


class Kind(enum.Enum):
    """How an op is annotated.

    WEIGHTED  its second operand is a constant, quantized per output channel
    OWN       inputs and result have parameters of their own
    CLAMP     folds into an accumulating op before it, else OWN
    UNARY     any function of one variable: a table
    SHARED    the result has the input's parameters: elements are moved, chosen or mixed
    SOFTMAX   the result has scale 1/256 and zero point -128
    """

    WEIGHTED = "weighted"
    OWN = "own"
    CLAMP = "clamp"
    UNARY = "unary"
    SHARED = "shared"
    SOFTMAX = "softmax"


_BY_KIND: dict[Kind, tuple[str, ...]] = {
    Kind.WEIGHTED: ("conv2d", "linear"),
    Kind.OWN: ("add", "sub", "rsub", "mul", "div", "mean", "adaptive_avg_pool2d", "matmul", "bmm"),
    Kind.CLAMP: ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max"),
    Kind.UNARY: (
        "hardswish",
        "hardsigmoid",
        "silu",
        "sigmoid",
        "tanh",
        "gelu",
        "leaky_relu",
        "elu",
        "neg",
        "abs",
        "exp",
        "square",
        "pow",
    ),
    Kind.SHARED: (
        "max_pool2d",
        "avg_pool2d",
        "cat",
        "pad",
        "constant_pad_nd",
        "upsample_nearest2d",
        "upsample_bilinear2d",
        "flatten",
        "reshape",
        "view",
        "permute",
        "transpose",
        "squeeze",
        "unsqueeze",
        "slice",
        "pixel_shuffle",
    ),
    Kind.SOFTMAX: ("softmax", "_softmax"),
}

CATALOGUE: dict[str, Kind] = {name: kind for kind, names in _BY_KIND.items() for name in names}
ACCUMULATING = frozenset(("conv2d", "linear", "add", "sub", "mul", "mean", "adaptive_avg_pool2d"))


def op_name(node: Any) -> str:
    """Return the bare aten name of a call (``conv2d`` for ``aten.conv2d.default``), or the target as text."""
    parts = str(node.target).split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "aten" else str(node.target)


def where(node: Any) -> str:
    """Say where a node is: its op, its name and the path of the module it came from."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values()]
    path = paths[-1].removeprefix("L['self'].") if paths else ""
    return f"op {node.target} (node '{node.name}', module '{path or 'the model itself'}')"


def kind_of(node: Any) -> Kind:
    """Return how a call is annotated; QuantizationError when it is not in the catalogue."""
    name = op_name(node)
    if name not in CATALOGUE:
        raise QuantizationError(f"{where(node)}: no integer form; allowed: {', '.join(sorted(CATALOGUE))}")
    return CATALOGUE[name]
