"""Handlers of the ops that move, choose or mix elements, and of shape arithmetic on constants."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from bitship.graph.base import Array
from bitship.importers import shapes
from bitship.importers.integerize import Limits, QParams, QuantizedTensor
from bitship.importers.onnx.compute import Handler, attribute, floor_only, name, window
from bitship.importers.onnx.reader import MAX_EXTENT
from bitship.importers.onnx.walk import Open, Quantized, Walk
from bitship.importers.pending import Pending

_SMALL = 1 << 16


def max_pool(w: Walk) -> QuantizedTensor:
    """MaxPool."""
    floor_only(w)
    kernel = attribute(w, "kernel_shape", [1, 1])
    x = w.tensor(0)
    return shapes.max_pool(w.g, name(w), x, window(w, (int(kernel[0]), int(kernel[1])), x.shape))


def concat(w: Walk) -> Any:
    """Concat: parameters of the quantize after it; constants are joined at once."""
    assert w.node is not None
    values = [w.value(i) for i in range(len(w.node.inputs))]
    axis = int(attribute(w, "axis", 0))
    if all(isinstance(v, np.ndarray) for v in values):
        return np.concatenate(values, axis)
    xs, title = [w.tensor(i) for i in range(len(values))], name(w)
    if len({x.q for x in xs}) == 1:
        return shapes.concat(w.g, title, xs, axis, xs[0].q)

    def emit(q: QParams, limits: Limits) -> QuantizedTensor:
        return shapes.concat(w.g, title, xs, axis, q, limits)

    return Pending(emit)


def pad(w: Walk) -> QuantizedTensor:
    """Pad in constant mode; pads as attribute or operand."""
    if attribute(w, "mode", "constant") != "constant" or w.has(3):
        raise w.refuse("only constant mode without axes is supported")
    x = w.tensor(0)
    pads = w.ints(1) if w.has(1) else [int(p) for p in attribute(w, "pads", [])]
    rank = len(x.shape)
    if len(pads) != 2 * rank or not all(0 <= p < MAX_EXTENT for p in pads):
        raise w.refuse(f"pads {pads[:12]} do not fit rank {rank}; none may be negative")
    value = float(w.array(2).reshape(-1)[0]) if w.has(2) and w.array(2).size else float(attribute(w, "value", 0.0))
    return shapes.pad(w.g, name(w), x, list(zip(pads[:rank], pads[rank:], strict=True)), value)


def _coordinates(w: Walk) -> Callable[[int, int, int, Fraction], Fraction]:
    mode = attribute(w, "coordinate_transformation_mode", "half_pixel" if w.model.opset >= 11 else "asymmetric")
    half = Fraction(1, 2)
    if mode == "asymmetric":
        return lambda i, m, n, step: i * step
    if mode == "align_corners":
        return lambda i, m, n, step: Fraction(i * (n - 1), m - 1) if m > 1 else Fraction(0)
    if mode == "half_pixel":
        return lambda i, m, n, step: (i + half) * step - half
    if mode == "pytorch_half_pixel":
        return lambda i, m, n, step: (i + half) * step - half if m > 1 else Fraction(0)
    raise w.refuse(f"coordinate_transformation_mode '{mode}' is not supported")


def _nearest(w: Walk) -> Callable[[Fraction], int]:
    mode = attribute(w, "nearest_mode", "round_prefer_floor" if w.model.opset >= 11 else "floor")
    half = Fraction(1, 2)
    rules: dict[str, Callable[[Fraction], int]] = {
        "floor": lambda v: v.__floor__(),
        "ceil": lambda v: v.__ceil__(),
        "round_prefer_floor": lambda v: (v - half).__ceil__(),
        "round_prefer_ceil": lambda v: (v + half).__floor__(),
    }
    if mode not in rules:
        raise w.refuse(f"nearest_mode '{mode}' is not supported")
    return rules[mode]


def resize(w: Walk) -> QuantizedTensor:
    """Resize or Upsample of an image, nearest or linear, to constant sizes or by constant scales."""
    x = w.image_operand(0)
    at = 1 if w.model.opset < 11 else 2
    if w.has(3):
        size = w.ints(3)
        steps = [Fraction(n, max(m, 1)) for n, m in zip(x.shape, size, strict=True)]
    else:
        scales = [Fraction(float(s)) for s in w.array(at).reshape(-1)]
        if len(scales) != len(x.shape) or min(scales) <= 0:
            raise w.refuse(f"scales {[float(s) for s in scales[:8]]} do not fit rank {len(x.shape)}")
        size = [int(n * s) for n, s in zip(x.shape, scales, strict=True)]
        steps = [1 / s for s in scales]
    if tuple(size[:2]) != x.shape[:2] or not all(1 <= n <= _SMALL for n in size[2:]):
        raise w.refuse(f"resize {x.shape} to {size}: only height and width change, to at most {_SMALL}")
    where, mode = _coordinates(w), attribute(w, "mode", "nearest")
    if mode not in ("nearest", "linear"):
        raise w.refuse(f"mode '{mode}' is not supported")
    pick = _nearest(w) if mode == "nearest" else None
    axis_steps = {(m, n): s for m, n, s in zip(size[2:], x.shape[2:], steps[2:], strict=True)}

    def source(i: int, m: int, n: int) -> Fraction | int:
        at = where(i, m, n, axis_steps[m, n])
        return pick(at) if pick else at

    return shapes.resize(w.g, name(w), x, (size[2], size[3]), source)


def _new_shape(w: Walk, shape: tuple[int, ...], wanted: list[int]) -> tuple[int, ...]:
    if len(wanted) > 6 or any(n < -1 or n > 1 << 31 for n in wanted) or wanted.count(-1) > 1:
        raise w.refuse(f"shape {wanted[:8]} is not supported")
    if not attribute(w, "allowzero", 0):
        wanted = [shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return tuple(wanted)


def reshape(w: Walk) -> Any:
    """Reshape to a constant shape."""
    value = w.value(0)
    if isinstance(value, np.ndarray):
        return value.reshape(_new_shape(w, value.shape, w.ints(1)))
    x = w.tensor(0)
    return shapes.reshape(w.g, name(w), x, _new_shape(w, x.shape, w.ints(1)))


def flatten(w: Walk) -> QuantizedTensor:
    """Flatten to rank 2."""
    x, axis = w.tensor(0), int(attribute(w, "axis", 1))
    axis = axis % len(x.shape) if axis < 0 else axis
    first = int(np.prod(x.shape[:axis], dtype=np.int64))
    return shapes.reshape(w.g, name(w), x, (first, int(np.prod(x.shape[axis:], dtype=np.int64))))


def transpose(w: Walk) -> Any:
    """Transpose; constants, weights too, at once."""
    value = w.value(0)
    if isinstance(value, Quantized):
        order = attribute(w, "perm", list(range(value.values.ndim))[::-1])
        axis = order.index(value.axis % value.values.ndim) if value.scales.size > 1 else 0
        return replace(value, values=value.values.transpose(order), axis=axis)
    if isinstance(value, np.ndarray):
        return value.transpose(attribute(w, "perm", None))
    x = w.tensor(0)
    order = [int(p) for p in attribute(w, "perm", list(range(len(x.shape)))[::-1])]
    if sorted(order) != list(range(len(x.shape))):
        raise w.refuse(f"perm {order[:8]} does not permute rank {len(x.shape)}")
    return shapes.permute(w.g, name(w), x, order)


def _axes(w: Walk) -> list[int] | None:
    axes = w.ints(1) if w.has(1) else attribute(w, "axes", None)
    return None if axes is None else [int(a) for a in axes]


def squeeze(w: Walk) -> Any:
    """Drop axes of extent 1."""
    value, axes = w.value(0), _axes(w)
    if isinstance(value, np.ndarray):
        return value.squeeze(None if axes is None else tuple(axes))
    x = w.tensor(0)
    chosen = {a % len(x.shape) for a in axes} if axes is not None else {i for i, n in enumerate(x.shape) if n == 1}
    return shapes.reshape(w.g, name(w), x, tuple(n for i, n in enumerate(x.shape) if i not in chosen))


def unsqueeze(w: Walk) -> Any:
    """Insert axes of extent 1."""
    value, axes = w.value(0), _axes(w) or []
    if isinstance(value, np.ndarray):
        return np.expand_dims(value, tuple(axes))
    x = w.tensor(0)
    rank = len(x.shape) + len(axes)
    chosen, rest = {a % rank for a in axes}, iter(x.shape)
    return shapes.reshape(w.g, name(w), x, tuple(1 if i in chosen else next(rest) for i in range(rank)))


def take(w: Walk) -> Any:
    """Slice by constants, along any axes, forwards."""
    starts, ends = w.ints(1), w.ints(2)
    value = w.value(0)
    rank = value.ndim if isinstance(value, np.ndarray) else len(w.tensor(0).shape)
    axes = w.ints(3) if w.has(3) else list(range(len(starts)))
    steps = w.ints(4) if w.has(4) else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if isinstance(value, np.ndarray):
            value = value[(slice(None),) * (axis % rank) + (slice(start, end, step),)]
        else:
            x = w.tensor(0) if isinstance(value, Open) else value
            value = shapes.take(w.g, name(w), x, axis % rank, start, end, step)
    return value


def split(w: Walk) -> list[QuantizedTensor]:
    """Split into slices."""
    assert w.node is not None
    x, axis, parts = w.tensor(0), int(attribute(w, "axis", 0)), len(w.node.outputs)
    extent = x.shape[axis]
    sizes = w.ints(1) if w.has(1) else attribute(w, "split", None)
    if sizes is None:
        step = -(-extent // parts)
        sizes = [min(step, extent - i * step) for i in range(parts)]
    if sum(sizes) != extent or min(sizes) < 1 or len(sizes) != parts:
        raise w.refuse(f"sizes {sizes[:8]} do not add up to {extent}")
    at = np.cumsum([0, *sizes]).tolist()
    return [shapes.take(w.g, title, x, axis, at[i], at[i + 1]) for i, title in enumerate(w.node.outputs)]


def identity(w: Walk) -> Any:
    """Identity, and Dropout in inference."""
    return w.value(0)


def constant(w: Walk) -> Array:
    """Return a Constant's value."""
    assert w.node is not None
    for key in ("value", "value_int", "value_float", "value_ints", "value_floats"):
        if key in w.node.attributes:
            value = w.node.attributes[key]
            return value if isinstance(value, np.ndarray) else np.array(value)
    raise w.refuse("only numeric constants are supported")


def shape(w: Walk) -> Array:
    """Shape, as a constant."""
    value = w.value(0)
    if isinstance(value, np.ndarray):
        return np.array(value.shape, np.int64)
    if isinstance(value, Open):
        return np.array(value.port.shape, np.int64)
    return np.array(w.tensor(0).shape, np.int64)


def gather(w: Walk) -> Array:
    """Gather from a constant, as shape arithmetic does."""
    values, index = w.value(0), w.value(1)
    if not isinstance(values, np.ndarray) or not isinstance(index, np.ndarray) or index.size > _SMALL:
        raise w.refuse("only gathers from constants are supported")
    if index.size * values.size > 1 << 24:
        raise w.refuse(f"gather of {index.size} from {values.size} constant elements is too large")
    result: Array = np.take(values, index, int(attribute(w, "axis", 0)))
    return result


def cast(w: Walk) -> Array:
    """Cast of a constant; integers stay as they are."""
    return w.array(0)


MOVING: dict[str, Handler] = {
    "MaxPool": max_pool,
    "Concat": concat,
    "Pad": pad,
    "Resize": resize,
    "Upsample": resize,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Slice": take,
    "Split": split,
    "Identity": identity,
    "Dropout": identity,
    "Constant": constant,
    "Shape": shape,
    "Gather": gather,
    "Cast": cast,
}
