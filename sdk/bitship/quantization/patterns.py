"""Rewrites of captured patterns into norms and constant linear maps: the float value stays, to rounding."""

from collections.abc import Callable
from typing import Any

from bitship.quantization.catalogue import op_name, shape_of
from bitship.quantization.folding import attribute, fetch
from bitship.quantization.rewrite import Inserter, calls, computed, constant_value

_RESAMPLING = (
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
    "_upsample_bilinear2d_aa",
    "adaptive_avg_pool2d",
)


def _is(node: Any, *names: str) -> bool:
    return getattr(node, "op", "") == "call_function" and op_name(node) in names


def _one_axis(axes: Any, rank: int) -> int | None:
    """Return the axis of an argument that names one, counted from the front."""
    found = [axes] if isinstance(axes, int) else list(axes or [])
    return found[0] % rank if len(found) == 1 else None


def _normalised(graph_module: Any, node: Any, x: Any, axis: int, gain: Any, eps: float) -> Any:
    """Write ``rms_norm`` along one axis before a node; gain is a float tensor of the axis' extent."""
    import torch

    aten: Any = torch.ops.aten
    rank, insert = len(shape_of(x)), Inserter(graph_module, node)
    order = [*(i for i in range(rank) if i != axis), axis]
    turned = order != list(range(rank))
    with graph_module.graph.inserting_before(node):
        weight = attribute(graph_module, f"{node.name}_gain", gain.float())
    last = insert.call(aten.permute.default, x, order) if turned else x
    normed = insert.call(aten.rms_norm.default, last, [shape_of(x)[axis]], weight, eps)
    return insert.call(aten.permute.default, normed, [order.index(i) for i in range(rank)]) if turned else normed


def rms_norms(graph_module: Any) -> None:
    """Rewrite ``x * rsqrt(mean(x^2) + eps)`` along one axis, and a constant gain after it, as rms_norm."""
    for node in calls(graph_module):
        if op_name(node) != "rsqrt" or len(node.users) != 1:
            continue
        found = _mean_square(node.args[0])
        product = next(iter(node.users))
        if found is None or not _is(product, "mul"):
            continue
        x, axis, eps = found
        if {id(a) for a in product.args[:2]} != {id(x), id(node)}:
            continue
        end, gain = _gain_after(graph_module, product, axis)
        result = _normalised(graph_module, end, x, axis, gain, eps)
        end.replace_all_uses_with(result)
        graph_module.graph.erase_node(end)
    graph_module.graph.eliminate_dead_code()


def _mean_square(node: Any) -> tuple[Any, int, float] | None:
    """Return (x, axis, eps) of ``mean(x^2, axis, keepdim) + eps``."""
    eps = 0.0
    if _is(node, "add") and isinstance(node.args[1], int | float):
        node, eps = node.args[0], float(node.args[1])
    if not _is(node, "mean") or len(node.args) < 3 or not node.args[2]:
        return None
    square = node.args[0]
    raised = _is(square, "pow") and square.args[1] == 2
    itself = _is(square, "mul") and square.args[0] is square.args[1]
    if not (raised or itself or _is(square, "square")):
        return None
    x = square.args[0]
    axis = _one_axis(node.args[1], len(shape_of(x)))
    return None if axis is None else (x, axis, eps)


def _gain_after(graph_module: Any, node: Any, axis: int) -> tuple[Any, Any]:
    """Return the node that ends a norm, and the gain: a product with one constant per index of the axis is in it."""
    import torch

    shape = shape_of(node)
    extent = shape[axis]
    ones = torch.ones(extent)
    user: Any = next(iter(node.users), None)
    if len(node.users) != 1 or not _is(user, "mul"):
        return node, ones
    other = user.args[1] if user.args[0] is node else user.args[0]
    if other in computed(graph_module) or not hasattr(other, "users") or shape_of(user) != shape:
        return node, ones
    value = constant_value(graph_module, other)
    aligned = (1,) * (len(shape) - value.dim()) + tuple(value.shape)
    if aligned != tuple(extent if i == axis else 1 for i in range(len(shape))):
        return node, ones
    return user, value.reshape(-1)


def unit_vectors(graph_module: Any) -> None:
    """Rewrite ``x / max(norm2(x), eps)`` along one axis as rms_norm with gain ``1 / sqrt(n)``."""
    import torch

    for node in calls(graph_module):
        if op_name(node) != "div" or not hasattr(node.args[1], "users"):
            continue
        x, length, eps = node.args[0], node.args[1], 0.0
        if _is(length, "expand", "expand_as"):
            length = length.args[0]
        if _is(length, "clamp_min", "clamp"):
            length, eps = length.args[0], float(length.args[1] or 0.0)
        if not _is(length, "linalg_vector_norm") or length.args[0] is not x:
            continue
        axis = _one_axis(length.args[2] if len(length.args) > 2 else None, len(shape_of(x)))
        keep = len(length.args) > 3 and length.args[3]
        if axis is None or not keep or float(length.args[1] if len(length.args) > 1 else 2) != 2:
            continue
        n = shape_of(x)[axis]
        result = _normalised(graph_module, node, x, axis, torch.full((n,), n**-0.5), eps * eps / n)
        node.replace_all_uses_with(result)
        graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code()


def grouped_norms(graph_module: Any) -> None:
    """Rewrite a group norm of several groups as a layer norm of each and one factor and offset per channel."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) != "group_norm" or node.args[1] == 1:
            continue
        x, groups, insert = node.args[0], int(node.args[1]), Inserter(graph_module, node)
        shape = shape_of(x)
        weight, bias = (node.args[i] if len(node.args) > i else None for i in (2, 3))
        eps = float(node.args[4] if len(node.args) > 4 else 1e-5)
        length = node.meta["val"].numel() // (shape[0] * groups)
        rows = insert.call(aten.reshape.default, x, [shape[0], groups, length])
        normed = insert.call(aten.layer_norm.default, rows, [length], None, None, eps)
        result = insert.call(aten.reshape.default, normed, list(shape))
        for name, target, constant in (("gain", aten.mul.Tensor, weight), ("offset", aten.add.Tensor, bias)):
            if constant is not None:
                value = fetch(graph_module, constant).reshape(-1, *(1,) * (len(shape) - 2))
                with graph_module.graph.inserting_before(node):
                    factor = attribute(graph_module, f"{node.name}_{name}", value)
                result = insert.call(target, result, factor)
        insert.replace(node, result)


def resamplings(graph_module: Any) -> None:
    """Rewrite separable resamplings without a handler as one constant linear map for each axis of the image.

    The maps are what the op itself does to unit images, so its alignment and its scale factors are kept.
    """
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) not in _RESAMPLING or _has_handler(node):
            continue
        insert, x = Inserter(graph_module, node), node.args[0]
        height, width = shape_of(x)[2:]
        with torch.no_grad():
            rows = torch.eye(height)[None, :, :, None].expand(1, height, height, width).contiguous()
            columns = torch.eye(width)[None, :, None, :].expand(1, width, height, width).contiguous()
            down = node.target(rows, *node.args[1:], **node.kwargs)[0, :, :, 0].T
            across = node.target(columns, *node.args[1:], **node.kwargs)[0, :, 0, :].T
        for name, matrix in (("across", across), ("down", down)):
            with graph_module.graph.inserting_before(node):
                weight = attribute(graph_module, f"{node.name}_{name}", matrix.contiguous().float())
            x = insert.call(aten.transpose.int, insert.call(aten.linear.default, x, weight), 2, 3)
        insert.replace(node, x)


def _has_handler(node: Any) -> bool:
    """Whether an adaptive pool has windows of one size, which is a pool."""
    if op_name(node) != "adaptive_avg_pool2d":
        return False
    return not any(n % m for n, m in zip(shape_of(node.args[0])[2:], shape_of(node)[2:], strict=True))


def overlap_sums(graph_module: Any) -> None:
    """Rewrite col2im, which adds up overlapping windows, as one constant linear map for each axis of the image."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) != "col2im":
            continue
        size, kernel, dilation, padding, stride = (list(a) for a in node.args[1:6])
        counts = [
            (e + 2 * p - d * (k - 1) - 1) // s + 1
            for e, k, d, p, s in zip(size, kernel, dilation, padding, stride, strict=True)
        ]
        maps = []
        for e, k, d, p, s, n in zip(size, kernel, dilation, padding, stride, counts, strict=True):
            to = s * torch.arange(n)[None, :] + d * torch.arange(k)[:, None] - p
            maps.append((to.reshape(1, -1) == torch.arange(e)[:, None]).float())
        insert, (n, c) = Inserter(graph_module, node), (shape_of(node)[0], shape_of(node)[1])
        x = insert.call(aten.reshape.default, node.args[0], [n, c, *kernel, *counts])
        x = insert.call(aten.permute.default, x, [0, 1, 3, 5, 2, 4])
        x = insert.call(aten.reshape.default, x, [n, c, kernel[1] * counts[1], kernel[0] * counts[0]])
        for name, matrix in zip(("down", "across"), maps, strict=True):
            with graph_module.graph.inserting_before(node):
                weight = attribute(graph_module, f"{node.name}_{name}", matrix)
            x = insert.call(aten.linear.default, x, weight)
            x = insert.call(aten.transpose.int, x, 2, 3) if name == "down" else x
        insert.replace(node, x)


PATTERNS: tuple[Callable[[Any], None], ...] = (rms_norms, unit_vectors, grouped_norms, resamplings, overlap_sums)
