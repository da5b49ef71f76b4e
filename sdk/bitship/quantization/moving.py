"""Handlers of the aten ops that move, choose or mix elements and keep the quantization."""

from fractions import Fraction
from typing import Any

from bitship.errors import QuantizationError
from bitship.graph.ops import ReduceMax, ReduceMin
from bitship.importers import shapes
from bitship.importers.integerize import QuantizedTensor, Window
from bitship.importers.pending import Pending
from bitship.quantization.catalogue import argument, where
from bitship.quantization.handlers import Handler, pair
from bitship.quantization.walk import Walk


def _window(node: Any, dilation: int | None) -> Window:
    kernel = pair(node.args[1])
    stride = pair(argument(node, 2, "stride", None) or node.args[1])
    ph, pw = pair(argument(node, 3, "padding", 0))
    if dilation is not None and pair(argument(node, dilation, "dilation", 1)) != (1, 1):
        raise QuantizationError(f"{where(node)}: dilation must be 1")
    return Window(kernel, stride, (ph, ph, pw, pw))


def _floor_only(node: Any, x: QuantizedTensor, window: Window) -> None:
    """Refuse a pool whose output is not what rounding down gives (ceil_mode with a rest)."""
    wanted = tuple(node.meta["val"].shape[2:])
    pads = (window.padding[0] * 2, window.padding[2] * 2)
    found = tuple(
        (n + p - k) // s + 1 for n, p, k, s in zip(x.shape[2:], pads, window.kernel, window.stride, strict=True)
    )
    if wanted != found:
        raise QuantizationError(f"{where(node)}: ceil_mode adds a window; only rounding down is supported")


def max_pool2d(w: Walk, node: Any) -> QuantizedTensor:
    """Largest element of each window."""
    x, window = w.quantized(node, node.args[0]), _window(node, 4)
    _floor_only(node, x, window)
    return shapes.max_pool(w.g, node.name, x, window)


def avg_pool2d(w: Walk, node: Any) -> QuantizedTensor:
    """Average of each window."""
    x, window = w.quantized(node, node.args[0]), _window(node, None)
    _floor_only(node, x, window)
    if argument(node, 6, "divisor_override", None) is not None:
        raise QuantizationError(f"{where(node)}: divisor_override is not supported")
    return shapes.avg_pool(w.g, node.name, x, window, bool(argument(node, 5, "count_include_pad", True)))


def cat(w: Walk, node: Any) -> Pending:
    """Join; operands are rescaled to the result's parameters where theirs differ."""
    xs = [w.quantized(node, a) for a in node.args[0]]
    axis = int(argument(node, 1, "dim", 0))
    return Pending(lambda q, limits: shapes.concat(w.g, node.name, xs, axis, q, limits))


def pad(w: Walk, node: Any) -> QuantizedTensor:
    """Constant padding; torch lists the last axis first."""
    x, flat = w.quantized(node, node.args[0]), list(node.args[1])
    mode, value = "constant", argument(node, 2, "value", 0.0)
    if "pad.default" in str(node.target) and "constant" not in str(node.target):
        mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value", 0.0)
    if mode != "constant" or min(flat) < 0:
        raise QuantizationError(
            f"{where(node)}: padding {flat} in mode '{mode}'; constant mode, not negative is needed"
        )
    pairs = [(0, 0)] * len(x.shape)
    for i in range(len(flat) // 2):
        pairs[len(pairs) - 1 - i] = (flat[2 * i], flat[2 * i + 1])
    return shapes.pad(w.g, node.name, x, pairs, float(value or 0.0))


def _factors(node: Any, index: int, x: QuantizedTensor, size: tuple[int, int]) -> list[Fraction]:
    """Input steps per output step: from scale factors where they are given, else from the extents."""
    given = argument(node, index, "scale_factors", None)
    if given:
        return [1 / Fraction(float(f)) for f in given]
    return [Fraction(n, m) for n, m in zip(x.shape[2:], size, strict=True)]


def upsample_nearest2d(w: Walk, node: Any) -> QuantizedTensor:
    """Nearest: ``floor(i * scale)``."""
    x, size = w.quantized(node, node.args[0]), pair(node.meta["val"].shape[2:])
    steps = dict(zip(zip(size, x.shape[2:], strict=True), _factors(node, 2, x, size), strict=False))
    return shapes.resize(w.g, node.name, x, size, lambda i, m, n: int(i * steps[m, n]))


def upsample_bilinear2d(w: Walk, node: Any) -> QuantizedTensor:
    """Bilinear, with aligned corners or half-pixel centres."""
    x, size = w.quantized(node, node.args[0]), pair(node.meta["val"].shape[2:])
    if argument(node, 2, "align_corners", False):
        return shapes.resize(
            w.g, node.name, x, size, lambda i, m, n: Fraction(i * (n - 1), m - 1) if m > 1 else Fraction(0)
        )
    steps = dict(zip(zip(size, x.shape[2:], strict=True), _factors(node, 3, x, size), strict=False))
    half = Fraction(1, 2)
    return shapes.resize(w.g, node.name, x, size, lambda i, m, n: max((i + half) * steps[m, n] - half, Fraction(0)))


def extreme(op: type[ReduceMax] | type[ReduceMin]) -> Handler:
    """Return the handler of the largest or smallest element over axes."""

    def handle(w: Walk, node: Any) -> QuantizedTensor:
        x, axes = w.quantized(node, node.args[0]), argument(node, 1, "dim", None)
        axes = [axes] if isinstance(axes, int) else (axes or list(range(len(x.shape))))
        return shapes.extreme(w.g, node.name, x, op, axes, bool(argument(node, 2, "keepdim", False)))

    return handle


def viewed(w: Walk, node: Any) -> QuantizedTensor:
    """Every op that only changes the shape: the captured result's shape says it all."""
    return shapes.reshape(w.g, node.name, w.quantized(node, node.args[0]), tuple(node.meta["val"].shape))


def permute(w: Walk, node: Any) -> QuantizedTensor:
    """Permute the axes."""
    return shapes.permute(w.g, node.name, w.quantized(node, node.args[0]), node.args[1])


def transpose(w: Walk, node: Any) -> QuantizedTensor:
    """Swap two axes."""
    x = w.quantized(node, node.args[0])
    order = list(range(len(x.shape)))
    i, j = (int(a) % len(order) for a in node.args[1:3])
    order[i], order[j] = order[j], order[i]
    return shapes.permute(w.g, node.name, x, order)


def take(w: Walk, node: Any) -> QuantizedTensor:
    """Slice one axis."""
    x, axis = w.quantized(node, node.args[0]), int(argument(node, 1, "dim", 0))
    start, stop = argument(node, 2, "start", None), argument(node, 3, "end", None)
    stop = x.shape[axis] if stop is None else min(int(stop), x.shape[axis])
    return shapes.take(w.g, node.name, x, axis, int(start or 0), stop, int(argument(node, 4, "step", 1)))


def roll(w: Walk, node: Any) -> QuantizedTensor:
    """Rotate along axes; without axes the flattened tensor."""
    x = w.quantized(node, node.args[0])
    shifts, axes = node.args[1], argument(node, 2, "dims", [])
    if not axes:
        flat = shapes.reshape(w.g, node.name, x, (-1,))
        return shapes.reshape(w.g, node.name, shapes.roll(w.g, node.name, flat, 0, shifts[0]), x.shape)
    for axis, shift in zip(axes, shifts, strict=True):
        x = shapes.roll(w.g, node.name, x, axis, shift)
    return x


def index_select(w: Walk, node: Any) -> QuantizedTensor:
    """Elements at constant indices along one axis."""
    indices = w.constant(node.args[2])
    if indices is None:
        raise QuantizationError(f"{where(node)}: the indices are computed; constant ones are needed")
    return shapes.choose(w.g, node.name, w.quantized(node, node.args[0]), int(node.args[1]), indices.tolist())


def pixel_shuffle(w: Walk, node: Any) -> QuantizedTensor:
    """[N, C * r * r, H, W] to [N, C, H * r, W * r]."""
    x, r = w.quantized(node, node.args[0]), int(node.args[1])
    n, c, height, width = x.shape
    y = shapes.reshape(w.g, f"{node.name}.split", x, (n, c // (r * r), r, r, height, width))
    y = shapes.permute(w.g, f"{node.name}.order", y, (0, 1, 4, 2, 5, 3))
    return shapes.reshape(w.g, node.name, y, (n, c // (r * r), height * r, width * r))


MOVING: dict[str, Handler] = {
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "amax": extreme(ReduceMax),
    "amin": extreme(ReduceMin),
    "cat": cat,
    "pad": pad,
    "constant_pad_nd": pad,
    "upsample_nearest2d": upsample_nearest2d,
    "upsample_bilinear2d": upsample_bilinear2d,
    "flatten": viewed,
    "reshape": viewed,
    "view": viewed,
    "squeeze": viewed,
    "unsqueeze": viewed,
    "permute": permute,
    "transpose": transpose,
    "slice": take,
    "index_select": index_select,
    "pixel_shuffle": pixel_shuffle,
    "roll": roll,
}
