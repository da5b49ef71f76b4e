"""Rewrites of captured ops that are other ops under another name; the float value stays, to rounding."""

from collections.abc import Callable
from typing import Any

from bitship.errors import QuantizationError
from bitship.quantization.catalogue import argument, op_name, shape_of, where
from bitship.quantization.folding import attribute, fetch
from bitship.quantization.rewrite import Inserter, calls

_BROADCASTING = ("add", "sub", "mul", "div")


def _numbers(value: Any, count: int) -> list[int]:
    """Return one number per axis of an argument that is one number or several."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def casts(graph_module: Any) -> None:
    """Drop changes of dtype from float to float, and of device: calibration sees the values as they are."""
    for node in calls(graph_module):
        if op_name(node) in ("to", "_to_copy", "type_as") and node.meta["val"].is_floating_point():
            source = node.args[0]
            if source.meta["val"].is_floating_point():
                node.replace_all_uses_with(source)
                graph_module.graph.erase_node(node)


def expansions(graph_module: Any) -> None:
    """Drop an expand where its readers broadcast anyway; else write it, and repeat, as concats of copies."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        name = op_name(node)
        if name not in ("expand", "expand_as", "repeat"):
            continue
        source, insert, wanted = node.args[0], Inserter(graph_module, node), shape_of(node)
        if name == "repeat":
            counts = list(node.args[1])
        elif shape_of(source) == wanted or _all_broadcast(node, source):
            insert.replace(node, source)
            continue
        else:
            aligned = (1,) * (len(wanted) - len(shape_of(source))) + shape_of(source)
            counts = [m // n for n, m in zip(aligned, wanted, strict=True)]
        x = source
        if len(counts) > len(shape_of(x)):
            x = insert.call(aten.reshape.default, x, [*(1,) * (len(counts) - len(shape_of(x))), *shape_of(x)])
        for axis, count in enumerate(counts):
            if count > 1:
                x = insert.call(aten.cat.default, [x] * count, axis)
        insert.replace(node, x)


def _all_broadcast(node: Any, source: Any) -> bool:
    """Whether every reader gives the same result for the tensor before its expansion."""
    import torch

    for user in node.users:
        if op_name(user) not in _BROADCASTING or list(user.args[:2]).count(node) != 1:
            return False
        other = user.args[1] if user.args[0] is node else user.args[0]
        shape = tuple(getattr(other, "meta", {}).get("val", torch.empty(())).shape)
        if tuple(torch.broadcast_shapes(shape, shape_of(source))) != shape_of(user):
            return False
    return True


def one_dimensional(graph_module: Any) -> None:
    """Rewrite convolutions and pools of [N, C, L] as those of an image of height 1."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        name, insert = op_name(node), Inserter(graph_module, node)
        if (
            name not in ("conv1d", "avg_pool1d", "max_pool1d", "adaptive_avg_pool1d")
            or len(shape_of(node.args[0])) != 3
        ):
            continue
        image = insert.call(aten.unsqueeze.default, node.args[0], 2)
        if name == "conv1d":
            made = _conv1d(graph_module, node, insert, image)
        elif name == "adaptive_avg_pool1d":
            made = insert.call(aten.adaptive_avg_pool2d.default, image, [1, *_numbers(node.args[1], 1)])
        else:
            kernel = _numbers(node.args[1], 1)
            stride = _numbers(argument(node, 2, "stride", None) or kernel, 1)
            rest = [[0, *_numbers(argument(node, 3, "padding", 0), 1)]]
            if name == "max_pool1d":
                rest.append([1, *_numbers(argument(node, 4, "dilation", 1), 1)])
            rest.append(argument(node, 3 + len(rest), "ceil_mode", False))
            if name == "avg_pool1d":
                rest.append(argument(node, 5, "count_include_pad", True))
            target = getattr(aten, name.replace("1d", "2d")).default
            made = insert.call(target, image, [1, *kernel], [1, *stride], *rest)
        insert.replace(node, insert.call(aten.squeeze.dim, made, 2))


def _conv1d(graph_module: Any, node: Any, insert: Inserter, image: Any) -> Any:
    import torch

    if node.args[1].op != "get_attr":
        raise QuantizationError(f"{where(node)}: weights are computed; constant ones are needed")
    with graph_module.graph.inserting_before(node):
        weight = attribute(graph_module, f"{node.name}_weight", fetch(graph_module, node.args[1]).unsqueeze(2))
    padding = argument(node, 4, "padding", 0)
    target = torch.ops.aten.conv2d.padding if isinstance(padding, str) else torch.ops.aten.conv2d.default
    return insert.call(
        target,
        image,
        weight,
        argument(node, 2, "bias", None),
        [1, *_numbers(argument(node, 3, "stride", 1), 1)],
        padding if isinstance(padding, str) else [0, *_numbers(padding, 1)],
        [1, *_numbers(argument(node, 5, "dilation", 1), 1)],
        argument(node, 6, "groups", 1),
    )


def windows(graph_module: Any) -> None:
    """Rewrite im2col as reshape and permute where windows tile the image, else as one strided slice per tap."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) != "im2col":
            continue
        kernel, dilation, padding, stride = (_numbers(a, 2) for a in node.args[1:5])
        insert, x = Inserter(graph_module, node), node.args[0]
        if any(padding):
            x = insert.call(aten.constant_pad_nd.default, x, [padding[1], padding[1], padding[0], padding[0]], 0.0)
        n, c, *extents = shape_of(x)
        counts = [(e - d * (k - 1) - 1) // s + 1 for e, k, d, s in zip(extents, kernel, dilation, stride, strict=True)]
        if kernel == stride and dilation == [1, 1] and [a * b for a, b in zip(counts, kernel, strict=True)] == extents:
            split = insert.call(aten.reshape.default, x, [n, c, counts[0], kernel[0], counts[1], kernel[1]])
            x = insert.call(aten.permute.default, split, [0, 1, 3, 5, 2, 4])
        else:
            taps = []
            for i in range(kernel[0]):
                row = _strided(insert, x, 2, i * dilation[0], counts[0], stride[0])
                for j in range(kernel[1]):
                    tap = _strided(insert, row, 3, j * dilation[1], counts[1], stride[1])
                    taps.append(insert.call(aten.unsqueeze.default, tap, 2))
            x = insert.call(aten.cat.default, taps, 2)
        insert.replace(node, insert.call(aten.reshape.default, x, list(shape_of(node))))


def _strided(insert: Inserter, x: Any, axis: int, start: int, count: int, step: int) -> Any:
    import torch

    return insert.call(torch.ops.aten.slice.Tensor, x, axis, start, start + (count - 1) * step + 1, step)


def extremes(graph_module: Any) -> None:
    """Rewrite max and min along one axis, of which the values alone are read, as amax and amin."""
    import torch

    aten: Any = torch.ops.aten
    for node in calls(graph_module):
        if op_name(node) not in ("max", "min") or not str(node.target).endswith(".dim"):
            continue
        if any(u.args[1] != 0 for u in node.users):
            raise QuantizationError(f"{where(node)}: the index of the extreme is read; only its value has a form")
        target = aten.amax.default if op_name(node) == "max" else aten.amin.default
        for user in list(node.users):
            insert = Inserter(graph_module, node)
            keep = bool(argument(node, 2, "keepdim", False))
            insert.replace(user, insert.call(target, node.args[0], [node.args[1]], keep))


SPELLINGS: tuple[Callable[[Any], None], ...] = (
    casts,
    expansions,
    one_dimensional,
    windows,
    extremes,
)
