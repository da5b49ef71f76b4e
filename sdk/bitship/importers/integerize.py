"""The one integerize step: ops on tensors with real scales become integer ops on a GraphBuilder.

Front ends (the torch quantizer, the ONNX importer) call these methods with scales they read from q/dq pairs. Shapes
and axes are the front end's (NCHW for images); images are stored NHWC, other tensors in their own order, and a
tensor is transposed only where an op needs the other order. Every requantization rounds once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import msgspec
import numpy as np

from bitship.errors import UnsupportedError
from bitship.graph import DType, GraphBuilder, Quant
from bitship.graph.base import Array
from bitship.graph.fixedpoint import quantize_multiplier
from bitship.graph.ops import (
    Add,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    MatMul,
    Mul,
    Rescale,
    Reshape,
    Sub,
    Table,
    Transpose,
)
from bitship.graph.packing import Packing, fits
from bitship.importers import functions

STORED = {3: (0, 2, 1), 4: (0, 2, 3, 1)}  # by rank: where the axes of planes are taken from
GIVEN = {3: (0, 2, 1), 4: (0, 3, 1, 2)}  # and the way back
_I32 = DType.INT32
_BIAS_LIMIT = 1 << 30

Limits = tuple[float, float]
NO_LIMITS: Limits = (float("-inf"), float("inf"))


@dataclass(frozen=True)
class QParams:
    """``real = scale * (integer - zero_point)``, one scale for the tensor.

    bits  8: int8; 9 to 16: int16 that uses so many bits
    """

    scale: float
    zero_point: int
    bits: int = 8

    @property
    def dtype(self) -> DType:
        """The dtype that stores it."""
        return DType.INT8 if self.bits == 8 else DType.INT16

    @property
    def ends(self) -> tuple[int, int]:
        """Lowest and highest integer."""
        return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1

    def integers(self, limits: Limits) -> tuple[int, int]:
        """Return the integers whose reals lie within the limits (each end rounded to nearest)."""
        found = []
        low, high = self.ends
        for limit, open_end in zip(limits, self.ends, strict=True):
            if abs(limit) == float("inf"):
                found.append(open_end)
            else:
                exact = functions.round_half_up(Fraction(limit) / Fraction(self.scale)) + self.zero_point
                found.append(min(max(exact, low), high))
        return found[0], found[1]


@dataclass(frozen=True)
class QuantizedTensor:
    """An int8 or int16 tensor of the graph being built.

    name    its name in the graph
    shape   in the front end's axis order
    planes  whether the graph stores it channels last: [N, C, H, W] as [N, H, W, C], or [N, C, L] as [N, L, C]
    """

    name: str
    shape: tuple[int, ...]
    q: QParams
    planes: bool = False

    def axis(self, axis: int) -> int:
        """Return where an axis of ``shape`` is stored; negative ones count from the end."""
        if not -len(self.shape) <= axis < len(self.shape):
            raise UnsupportedError(f"axis {axis} outside rank {len(self.shape)}")
        axis %= len(self.shape)
        return STORED[len(self.shape)].index(axis) if self.planes else axis


@dataclass(frozen=True)
class Weights:
    """Constant integer weights: int8, output channel first, one scale or one per output channel.

    packing  how they are stored in four bits, None for eight; groups run over a row in the order of ``values``
    """

    values: Array
    scales: tuple[float | Fraction, ...]
    zero_point: int = 0
    packing: Packing | None = None


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution or pool; padding is (top, bottom, left, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)


def batches(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return the batch of a matmul of these shapes: leading axes of which b has but one join the rows of a."""
    lead = b[:-2]
    while lead and lead[-1] == 1:
        lead = lead[:-1]
    if len(a) < 2 or len(a) != len(b) or a[: len(lead)] != lead:
        raise UnsupportedError(f"matmul of {a} and {b}: leading axes must be equal, or 1 in the second operand's last")
    return math.prod(lead)


class Integerizer:
    """Writes integer ops into a builder. Methods return tensors with the quantization they were asked for."""

    def __init__(self, builder: GraphBuilder) -> None:
        self.b = builder
        self._viewed: dict[str, str] = {}

    def input(self, name: str, shape: Sequence[int], q: QParams, dtype: DType = DType.INT8) -> QuantizedTensor:
        """Declare a graph input; rank 4 is an image and becomes NHWC. As uint8 its zero point is 128 higher."""
        dtype = q.dtype if dtype is DType.INT8 else dtype
        shape, planes = tuple(shape), len(shape) == 4
        stored = tuple(shape[i] for i in STORED[4]) if planes else shape
        quant = Quant(q.scale, q.zero_point + (128 if dtype is DType.UINT8 else 0))
        return QuantizedTensor(self.b.input(name, stored, dtype, quant), shape, q, planes)

    def constant(self, name: str, values: Array, q: QParams) -> QuantizedTensor:
        """Add an integer constant given in the front end's order."""
        planes = values.ndim == 4
        stored = values.transpose(STORED[4]) if planes else values
        return QuantizedTensor(self.b.constant(name, np.ascontiguousarray(stored)), values.shape, q, planes)

    def natural(self, x: QuantizedTensor) -> QuantizedTensor:
        """Return x stored in the order of its shape."""
        if not x.planes:
            return x
        if x.shape[1] == 1 or all(n == 1 for n in x.shape[2:]):
            return replace(x, name=self.view(x.name, x.shape), planes=False)
        return replace(x, name=self.b.node(f"{x.name}.nchw", Transpose(GIVEN[len(x.shape)]), x.name), planes=False)

    def image(self, x: QuantizedTensor) -> QuantizedTensor:
        """Return rank-4 x stored as NHWC."""
        if x.planes:
            return x
        if len(x.shape) != 4:
            raise UnsupportedError(f"rank {len(x.shape)}: an image of rank 4 [N, C, H, W] is needed")
        if x.shape[2:] == (1, 1) or x.shape[1] == 1:
            return replace(x, name=self.view(x.name, tuple(x.shape[i] for i in STORED[4])), planes=True)
        return replace(x, name=self.b.node(f"{x.name}.nhwc", Transpose(STORED[4]), x.name), planes=True)

    def view(self, name: str, shape: tuple[int, ...]) -> str:
        """Reshape a tensor as it is stored; a reshape of a reshape is one, and back again is none."""
        source = self._viewed.get(name, name)
        if self.b.types[source].shape == shape:
            return source
        result = self.b.node(f"{source}.view", Reshape(shape), source)
        self._viewed[result] = source
        return result

    def result(self, name: str, like: QuantizedTensor, q: QParams) -> QuantizedTensor:
        """Wrap a node's output stored in the order of ``like``."""
        stored = self.b.types[name].shape
        shape = tuple(stored[i] for i in GIVEN[len(stored)]) if like.planes else stored
        return QuantizedTensor(name, shape, q, like.planes)

    # -- requantization

    def epilogue(self, factors: Sequence[Fraction], out: QParams, limits: Limits = NO_LIMITS) -> Rescale:
        """Return the rescale by one real factor or one per channel, clamped to real limits."""
        pairs = [quantize_multiplier(f) for f in factors]
        if len(set(pairs)) == 1:
            pairs = pairs[:1]
        qmin, qmax = out.integers(limits)
        return Rescale(
            tuple(m for m, _ in pairs),
            tuple(s for _, s in pairs),
            output_zero_point=out.zero_point,
            dtype=out.dtype,
            qmin=qmin,
            qmax=max(qmin, qmax),
        )

    def requantize(self, name: str, x: QuantizedTensor, out: QParams, limits: Limits = NO_LIMITS) -> QuantizedTensor:
        """Return x under other parameters, clamped to real limits; x itself when nothing changes."""
        if x.q == out and out.integers(limits) == out.ends:
            return x
        op = self.epilogue([Fraction(x.q.scale) / Fraction(out.scale)], out, limits)
        op = msgspec.structs.replace(op, input_zero_point=x.q.zero_point)
        return replace(x, name=self.b.node(name, op, x.name), q=out)

    # -- products with constant weights

    def accumulator_bias(self, x: QuantizedTensor, w: Weights, bias: Array | None) -> tuple[Weights, Array]:
        """Return weights and int32 bias of scale ``x * w``; float bias is quantized, half up.

        A channel whose bias leaves int32's half gets a larger weight scale: its weights are too small to matter.
        """
        n = w.values.shape[0]
        if bias is None:
            return w, np.zeros(n, np.int32)
        if np.issubdtype(bias.dtype, np.integer):
            return w, bias.astype(np.int32).reshape(n)
        scales = list(w.scales if len(w.scales) == n else w.scales * n)
        values, ints = w.values.copy(), []
        for c, real in enumerate(bias.reshape(n).tolist()):
            step = Fraction(x.q.scale) * Fraction(scales[c])
            if abs(Fraction(real)) >= step * _BIAS_LIMIT:
                wider = abs(real) / (x.q.scale * (_BIAS_LIMIT >> 2))
                centred = values[c].astype(np.float64) - w.zero_point
                values[c] = np.clip(np.rint(centred * (float(scales[c]) / wider)) + w.zero_point, -128, 127)
                scales[c] = wider
                step = Fraction(x.q.scale) * Fraction(wider)
            ints.append(functions.round_half_up(Fraction(real) / step))
        if len(w.scales) == 1 and len(set(scales)) == 1:
            scales = scales[:1]
        packing = w.packing if w.packing and fits(values, w.packing) else None
        return Weights(values, tuple(scales), w.zero_point, packing), np.array(ints, np.int64).astype(np.int32)

    def _factors(self, x: QuantizedTensor, w: Weights, out: QParams) -> list[Fraction]:
        return [Fraction(x.q.scale) * Fraction(s) / Fraction(out.scale) for s in w.scales]

    def conv2d(
        self,
        name: str,
        x: QuantizedTensor,
        w: Weights,
        bias: Array | None,
        window: Window,
        groups: int,
        out: QParams,
        limits: Limits = NO_LIMITS,
    ) -> QuantizedTensor:
        """Convolution of an image by weights [O, C / groups, KH, KW]; bias real, or int32 of scale x * w."""
        x = self.image(x)
        w, ints = self.accumulator_bias(x, w, bias)
        common = {
            "stride": window.stride,
            "padding": window.padding,
            "dilation": window.dilation,
            "input_zero_point": x.q.zero_point,
            "weight_zero_point": w.zero_point,
            "requant": self.epilogue(self._factors(x, w, out), out, limits),
        }
        if groups > 1 and groups == x.shape[1]:
            o, _, kh, kw = w.values.shape
            arranged = w.values.reshape(groups, o // groups, kh, kw).transpose(2, 3, 0, 1)
            op: Conv2D | DepthwiseConv2D = DepthwiseConv2D(**common)  # type: ignore[arg-type]
        else:
            arranged = w.values.transpose(0, 2, 3, 1)
            op = Conv2D(groups=groups, **common)  # type: ignore[arg-type]
        weights = self.b.constant(f"{name}.weight", np.ascontiguousarray(arranged), w.packing)
        made = self.b.node(name, op, x.name, weights, self.b.constant(f"{name}.bias", ints))
        return self.result(made, x, out)

    def linear(
        self,
        name: str,
        x: QuantizedTensor,
        w: Weights,
        bias: Array | None,
        out: QParams,
        limits: Limits = NO_LIMITS,
    ) -> QuantizedTensor:
        """``x @ w.T + bias`` over the last axis of x; weights [O, I]."""
        x = self.natural(x)
        w, ints = self.accumulator_bias(x, w, bias)
        rows, depth = int(np.prod(x.shape[:-1], dtype=np.int64)), x.shape[-1]
        op = FullyConnected(x.q.zero_point, w.zero_point, self.epilogue(self._factors(x, w, out), out, limits))
        weights = self.b.constant(f"{name}.weight", np.ascontiguousarray(w.values), w.packing)
        flat = self.view(x.name, (rows, depth))
        made = self.b.node(name, op, flat, weights, self.b.constant(f"{name}.bias", ints))
        shape = (*x.shape[:-1], w.values.shape[0])
        return QuantizedTensor(self.view(made, shape), shape, out)

    def matmul(
        self, name: str, a: QuantizedTensor, b: QuantizedTensor, out: QParams, factor: Fraction | None = None
    ) -> QuantizedTensor:
        """Batched product over the last two axes, leading ones as ``batches`` says; ``factor`` scales the result."""
        a, b = self.natural(a), self.natural(b)
        batch = batches(a.shape, b.shape)
        real = (factor or Fraction(1)) * Fraction(a.q.scale) * Fraction(b.q.scale) / Fraction(out.scale)
        op = MatMul(a.q.zero_point, b.q.zero_point, self.epilogue([real], out))
        sides = [self.view(t.name, (batch, math.prod(t.shape[:-1]) // batch, t.shape[-1])) for t in (a, b)]
        shape = (*a.shape[:-1], b.shape[-1])
        return QuantizedTensor(self.view(self.b.node(name, op, *sides), shape), shape, out)

    # -- elementwise

    def aligned(self, a: QuantizedTensor, b: QuantizedTensor) -> tuple[QuantizedTensor, QuantizedTensor]:
        """Return the operands with equal rank and one stored order."""
        rank = max(len(a.shape), len(b.shape))
        sides = []
        for t in (a, b):
            if len(t.shape) < rank:
                t = self.natural(t)
                shape = (1,) * (rank - len(t.shape)) + t.shape
                t = replace(t, name=self.view(t.name, shape), shape=shape)
            sides.append(t)
        sides = self.ordered(sides)
        return sides[0], sides[1]

    def ordered(self, xs: Sequence[QuantizedTensor]) -> list[QuantizedTensor]:
        """Return tensors of equal rank in one stored order: images as NHWC, others in their own."""
        if len({x.planes for x in xs}) == 1:
            return list(xs)
        return [self.image(x) if len(x.shape) == 4 else self.natural(x) for x in xs]

    def port(self, x: QuantizedTensor) -> QuantizedTensor:
        """Return a tensor as it leaves the graph: images as NHWC, others in their own order."""
        return self.image(x) if len(x.shape) == 4 else self.natural(x)

    def _sum(
        self,
        kind: type[Add] | type[Sub],
        name: str,
        a: QuantizedTensor,
        b: QuantizedTensor,
        out: QParams,
        limits: Limits,
    ) -> QuantizedTensor:
        a, b = self.aligned(a, b)
        twice = 2 * max(Fraction(a.q.scale), Fraction(b.q.scale))
        carried = 20 if a.q.bits == b.q.bits == 8 else 12
        sides = []
        for t in (a, b):
            multiplier, shift = quantize_multiplier(Fraction(t.q.scale) / twice)
            sides.append(
                Rescale(
                    (multiplier,),
                    (shift,),
                    t.q.zero_point,
                    pre_shift=carried,
                    dtype=_I32,
                    qmin=_I32.qmin,
                    qmax=_I32.qmax,
                )
            )
        requant = self.epilogue([twice / (1 << carried) / Fraction(out.scale)], out, limits)
        return self.result(self.b.node(name, kind(sides[0], sides[1], requant), a.name, b.name), a, out)

    def add(
        self, name: str, a: QuantizedTensor, b: QuantizedTensor, out: QParams, limits: Limits = NO_LIMITS
    ) -> QuantizedTensor:
        """``a + b`` with broadcasting; operands carry 20 more bits (int16: 12) until the one rounding that counts."""
        return self._sum(Add, name, a, b, out, limits)

    def sub(
        self, name: str, a: QuantizedTensor, b: QuantizedTensor, out: QParams, limits: Limits = NO_LIMITS
    ) -> QuantizedTensor:
        """``a - b`` with broadcasting."""
        return self._sum(Sub, name, a, b, out, limits)

    def mul(
        self, name: str, a: QuantizedTensor, b: QuantizedTensor, out: QParams, limits: Limits = NO_LIMITS
    ) -> QuantizedTensor:
        """``a * b`` with broadcasting."""
        a, b = self.aligned(a, b)
        factor = Fraction(a.q.scale) * Fraction(b.q.scale) / Fraction(out.scale)
        op = Mul(a.q.zero_point, b.q.zero_point, self.epilogue([factor], out, limits))
        return self.result(self.b.node(name, op, a.name, b.name), a, out)

    def unary(
        self, name: str, x: QuantizedTensor, function: functions.Function, out: QParams, limits: Limits = NO_LIMITS
    ) -> QuantizedTensor:
        """Any function of one variable: 256 entries for int8, 513 interpolated for int16 (then rescaled to int8)."""
        if x.q.bits == 8:
            values = functions.table(function, limits, x.q.scale, x.q.zero_point, out.scale, out.zero_point, *out.ends)
            q = out
        else:
            step = out.scale if out.bits > 8 else max(abs(e - out.zero_point) for e in out.ends) * out.scale / 32767
            q = QParams(step, 0, 16)
            values = functions.wide_table(function, limits, x.q.scale, step)
        y = replace(x, name=self.b.node(name, Table(), x.name, self.b.constant(f"{name}.table", values)), q=q)
        return self.requantize(f"{name}.out", y, out)
