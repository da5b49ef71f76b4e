"""Rewrites of captured arithmetic into the few products and sums that have integer forms; the float value stays."""

from collections.abc import Callable
from typing import Any

from bitship.errors import QuantizationError
from bitship.quantization.catalogue import argument, op_name, shape_of, where
from bitship.quantization.folding import attribute, fetch
from bitship.quantization.rewrite import Inserter, calls


def fused_sums(graph_module: Any) -> None:
    """Rewrite addcmul, addmm and baddbmm as a product and a sum."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) not in ("addcmul", "addmm", "baddbmm"):
            continue
        insert, (addend, a, b) = Inserter(graph_module, node), node.args[:3]
        target = aten.mul.Tensor if op_name(node) == "addcmul" else aten.matmul.default
        product = insert.call(target, a, b)
        for name in ("value", "alpha"):
            if node.kwargs.get(name, 1) != 1:
                product = insert.call(aten.mul.Tensor, product, float(node.kwargs[name]))
        if node.kwargs.get("beta", 1) != 1:
            addend = insert.call(aten.mul.Tensor, addend, float(node.kwargs["beta"]))
        insert.replace(node, insert.call(aten.add.Tensor, addend, product))


def vector_norms(graph_module: Any) -> None:
    """Rewrite the 2-norm over axes as the root of a sum of squares, and the 1-norm as a sum of absolute values."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) != "linalg_vector_norm":
            continue
        order = float(argument(node, 1, "ord", 2))
        if order not in (1.0, 2.0):
            raise QuantizationError(f"{where(node)}: norm of order {order}; 1 and 2 are allowed")
        insert, x = Inserter(graph_module, node), node.args[0]
        axes = argument(node, 2, "dim", None) or list(range(len(shape_of(x))))
        each = insert.call(aten.square.default if order == 2 else aten.abs.default, x)
        total = insert.call(aten.sum.dim_IntList, each, axes, bool(argument(node, 3, "keepdim", False)))
        insert.replace(node, insert.call(aten.sqrt.default, total) if order == 2 else total)


def transposed_convolutions(graph_module: Any) -> None:
    """Rewrite a transposed convolution as one of stride 1 whose channels are the phases of the result.

    Row Y of the result, counted from ``-padding``, is phase ``r = Y mod stride`` of row ``Q = Y div stride``: it sums
    ``x[Q - j] * w[r + stride * j]`` over the taps j.
    """
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) != "conv_transpose2d":
            continue
        strides, pads, dilation = (_both(argument(node, i, n, d)) for i, n, d in _GEOMETRY)
        if dilation != [1, 1] or node.args[1].op != "get_attr":
            raise QuantizationError(f"{where(node)}: constant weights and dilation 1 are needed")
        groups, insert = int(argument(node, 6, "groups", 1)), Inserter(graph_module, node)
        weight = fetch(graph_module, node.args[1])
        taps = [-(-k // s) for k, s in zip(weight.shape[2:], strides, strict=True)]
        given = argument(node, 2, "bias", None)
        bias = None if given is None else fetch(graph_module, given).repeat_interleave(strides[0] * strides[1])
        with graph_module.graph.inserting_before(node):
            phases = attribute(graph_module, f"{node.name}_phases", _phases(weight, strides, taps, groups))
            offset = None if bias is None else attribute(graph_module, f"{node.name}_offset", bias)
        size = shape_of(node)[2:]
        counts = [(n - 1 + p) // s + 1 for n, p, s in zip(size, pads, strides, strict=True)]
        flat: list[int] = []
        for extent, tap, count in reversed(list(zip(shape_of(node.args[0])[2:], taps, counts, strict=True))):
            flat += [tap - 1, count - extent]
        padded = insert.call(aten.constant_pad_nd.default, node.args[0], flat, 0.0)
        made = insert.call(aten.conv2d.default, padded, phases, offset, [1, 1], [0, 0], [1, 1], groups)
        n, channels = shape_of(node)[:2]
        split = insert.call(aten.reshape.default, made, [n, channels, *strides, *counts])
        turned = insert.call(aten.permute.default, split, [0, 1, 4, 2, 5, 3])
        whole = [c * s for c, s in zip(counts, strides, strict=True)]
        y = insert.call(aten.reshape.default, turned, [n, channels, *whole])
        for axis, (pad, extent) in enumerate(zip(pads, size, strict=True), 2):
            y = insert.call(aten.slice.Tensor, y, axis, pad, pad + extent)
        insert.replace(node, y)


_GEOMETRY = ((3, "stride", 1), (4, "padding", 0), (7, "dilation", 1))


def _both(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _phases(weight: Any, strides: list[int], taps: list[int], groups: int) -> Any:
    """Return weights [O * phases, I / groups, taps...] of transposed weights [I, O / groups, kernel...]."""
    import torch

    inputs, outputs, *kernel = weight.shape
    (sy, sx), (ty, tx) = strides, taps
    full = torch.zeros(inputs, outputs, ty * sy, tx * sx)
    full[:, :, : kernel[0], : kernel[1]] = weight
    parts = full.reshape(groups, inputs // groups, outputs, ty, sy, tx, sx).flip(3, 5)
    return parts.permute(0, 2, 4, 6, 1, 3, 5).reshape(groups * outputs * sy * sx, inputs // groups, ty, tx).contiguous()


def products(graph_module: Any) -> None:
    """Rewrite products with a constant matrix as linear layers, and give operands of others the same leading axes.

    Leading axes of extent 1 at the end of the second operand's stay: rows of the first operand take them up.
    """
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) not in ("matmul", "bmm", "mm"):
            continue
        insert, (a, b) = Inserter(graph_module, node), node.args[:2]
        if b.op == "get_attr" and b.meta["val"].dim() == 2:
            with graph_module.graph.inserting_before(node):
                weight = attribute(graph_module, f"{node.name}_weight", fetch(graph_module, b).t().contiguous())
            insert.replace(node, insert.call(aten.linear.default, a, weight))
            continue
        if min(len(shape_of(a)), len(shape_of(b))) < 2:
            raise QuantizationError(
                f"{where(node)}: products with a vector have no integer form; give it a second axis"
            )
        lead = tuple(torch.broadcast_shapes(shape_of(a)[:-2], shape_of(b)[:-2]))
        node.target = aten.matmul.default
        node.args = (_leading(insert, a, lead, False), _leading(insert, b, lead, True))


def _leading(insert: Inserter, x: Any, lead: tuple[int, ...], keep_last_ones: bool) -> Any:
    """Return a matrix operand with these leading axes; ones at the end of them may stay."""
    import torch

    aten: Any = torch.ops.aten
    own = (1,) * (len(lead) + 2 - len(shape_of(x))) + shape_of(x)
    if own != shape_of(x):
        x = insert.call(aten.reshape.default, x, list(own))
    differs = [i for i, n in enumerate(lead) if own[i] != n]
    if keep_last_ones and differs and all(own[i] == 1 for i in range(differs[0], len(lead))):
        return x
    for axis in differs:
        x = insert.call(aten.cat.default, [x] * lead[axis], axis)
    return x


def sums(graph_module: Any) -> None:
    """Rewrite a sum as the mean times the count: the product changes the scale alone."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) != "sum":
            continue
        insert, source = Inserter(graph_module, node), node.args[0]
        axes = argument(node, 1, "dim", None) or list(range(len(shape_of(source))))
        mean = insert.call(aten.mean.dim, source, axes, bool(argument(node, 2, "keepdim", False)))
        count = source.meta["val"].numel() // max(node.meta["val"].numel(), 1)
        insert.replace(node, insert.call(aten.mul.Tensor, mean, float(count)))


def quotients(graph_module: Any) -> None:
    """Rewrite a quotient of two computed tensors as the product with the reciprocal."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        divisor = node.args[1] if len(node.args) > 1 else None
        if op_name(node) != "div" or getattr(divisor, "op", "get_attr") == "get_attr" or node.kwargs:
            continue
        insert = Inserter(graph_module, node)
        inverse = insert.call(aten.reciprocal.default, divisor)
        insert.replace(node, insert.call(aten.mul.Tensor, node.args[0], inverse))


ARITHMETIC: tuple[Callable[[Any], None], ...] = (
    fused_sums,
    vector_norms,
    transposed_convolutions,
    products,
    quotients,
    sums,
)
