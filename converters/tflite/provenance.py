"""Scales for the tensors of a graph, such that TFLite's own arithmetic gives the graph's multipliers.

Ports have scales, a softmax's table tells its input's; from there every op that computes with scales fixes that of its
result, or leaves a few to choose from. A graph that was read from a .tflite gets its scales back; one that was
quantized with multipliers of full precision keeps most ops without any, and they become integer primitives.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from bitship.converters.tflite import factors
from bitship.converters.tflite.factors import Pair, f32, near, pair, real
from bitship.graph import DType, Graph, Node, ops
from bitship.graph.fixedpoint import exp_on_negative_values, input_radius, quantize_multiplier, rescale_double
from bitship.graph.ops import Rescale, Rounding

PRE_SHIFT = 20
KEEPING = (ops.AvgPool2D, ops.MaxPool2D, ops.Reshape, ops.Transpose, ops.Slice, ops.Pad, ops.Clamp, ops.Gather)
KEEPING += (ops.ReduceMax, ops.ReduceMin, ops.Resize, ops.Concat)  # type: ignore[assignment]
SUMMING = (ops.Add, ops.Sub)
WEIGHTED = (ops.Conv2D, ops.DepthwiseConv2D)


def pairs_of(r: Rescale) -> list[Pair]:
    """Return the (multiplier, shift) of every channel."""
    return list(zip(r.multiplier, r.shift, strict=True))


def plain(r: Rescale | None, rounding: Rounding = Rounding.DOUBLE) -> bool:
    """Whether an epilogue is one that TFLite's kernels have: to int8, without a shift before it."""
    return r is not None and r.dtype is DType.INT8 and r.rounding is rounding and r.pre_shift == 0


def term_ok(r: Rescale | None) -> bool:
    """Whether an operand of ADD or SUB is rescaled as TFLite does it."""
    return (
        r is not None
        and r.rounding is Rounding.DOUBLE
        and r.pre_shift == PRE_SHIFT
        and r.output_zero_point == 0
        and (r.qmin, r.qmax) == (DType.INT32.qmin, DType.INT32.qmax)
    )


def summing_factors(a: float, b: float, y: float) -> tuple[Pair | None, Pair | None, Pair | None]:
    """Return TFLite's multipliers of both operands and the result of ADD and SUB."""
    twice = 2 * max(a, b)
    return pair(a / twice), pair(b / twice), pair(twice / ((1 << PRE_SHIFT) * y))


def mean_pair(x: float, y: float, count: int) -> Pair | None:
    """Return TFLite's multiplier of MEAN: the count joins it, truncated."""
    found = pair(x / y)
    if found is None:
        return None
    extra = min(count.bit_length() - 1, 32, 31 + found[1])
    return (found[0] << extra) // count, found[1] - extra


def mul_pair(a: float, b: float, y: float) -> Pair | None:
    """Return TFLite's multiplier of MUL, computed in float32."""
    return pair(float(np.float32(a) * np.float32(b) / np.float32(y)))


def softmax_table(scale: float) -> tuple[int, ...] | None:
    """Return the exponentials TFLite's SOFTMAX has for an input scale with beta 1; None where it refuses it."""
    multiplier, shift = quantize_multiplier(min(scale * (1 << 26), float((1 << 31) - 1)))
    if multiplier == 0 or shift < 0:
        return None
    smallest = -input_radius(5, shift)
    return tuple(
        exp_on_negative_values(rescale_double(-d, multiplier, shift), 5) if -d >= smallest else 0 for d in range(256)
    )


def softmax_scale(table: Iterable[int]) -> float | None:
    """Return the scale whose exponentials a table holds; None where there is none."""
    entries = list(table)
    usable = [d for d in range(1, 256) if entries[d] > 1 << 20]
    for d in dict.fromkeys((usable[-1], usable[len(usable) // 2], usable[0])) if usable else ():
        for scale in near(-math.log(entries[d] / 2.0**31) / d):
            if softmax_table(scale) == tuple(entries):
                return scale
    return None


class Provenance:
    """Finds scales. ``scale`` maps a tensor to its float32 scale, ``zero_point`` to the zero point it is read with."""

    def __init__(self, graph: Graph, unsigned: frozenset[str] = frozenset()) -> None:
        self.graph = graph
        self.unsigned = unsigned
        self.scale: dict[str, float] = {}
        self.choices: dict[str, list[float]] = {}
        self.zero_point: dict[str, int] = {}
        self.fixed = set(graph.constants)
        for node in graph.nodes:
            if isinstance(node.op, ops.Reshape) and node.inputs[0] in self.fixed:
                self.fixed.add(node.output)
        self._ends()
        solve: Mapping[type, Callable[[Node], None]] = {
            ops.Conv2D: self._weighted,
            ops.DepthwiseConv2D: self._weighted,
            ops.FullyConnected: self._fully_connected,
            ops.Mul: self._mul,
            ops.ReduceSum: self._mean,
            ops.Rescale: self._rescale,
        }
        self._spread()
        for _ in range(_PASSES):
            before = len(self.scale)
            for node in graph.nodes:
                if type(node.op) in solve:
                    solve[type(node.op)](node)
                    self._spread()
            if len(self.scale) == before:
                break

    def _ends(self) -> None:
        graph = self.graph
        for port in (*graph.inputs, *graph.outputs):
            if port.quant is not None:
                self.scale.setdefault(port.name, f32(port.quant.scale))
                self.zero_point.setdefault(port.name, port.quant.zero_point)
        for node in graph.nodes:
            requant = node.op if isinstance(node.op, Rescale) else getattr(node.op, "requant", None)
            if isinstance(requant, Rescale):
                self.zero_point[node.output] = requant.output_zero_point
            if isinstance(node.op, KEEPING) and node.inputs[0] in self.zero_point:
                self.zero_point.setdefault(node.output, self.zero_point[node.inputs[0]])
            if isinstance(node.op, ops.Softmax):
                self.scale[node.output], self.zero_point[node.output] = 1 / 256, -128
                table = graph.constants.get(node.inputs[1])
                found = None if table is None else softmax_scale(int(v) for v in table)
                if found is not None:
                    self.scale.setdefault(node.inputs[0], found)

    def choose(self, name: str, value: float) -> None:
        """Set a tensor's scale for good."""
        self.scale[name] = value
        self.choices.pop(name, None)

    def options(self, name: str) -> list[float]:
        """Return the scales a tensor may have, the likeliest first; empty when nothing is known."""
        return [self.scale[name]] if name in self.scale else self.choices.get(name, [])

    def _spread(self) -> None:
        """Carry known scales over the ops that tie their operands, both ways, until nothing changes."""
        changed = True
        while changed:
            before = len(self.scale)
            for node in (*self.graph.nodes, *reversed(self.graph.nodes)):
                if isinstance(node.op, KEEPING):
                    self._same(node)
                elif isinstance(node.op, SUMMING):
                    self._summing(node)
            changed = len(self.scale) != before

    def _same(self, node: Node) -> None:
        names = (*node.inputs[:1], node.output) if not isinstance(node.op, ops.Concat) else (*node.inputs, node.output)
        known = next((self.scale[n] for n in names if n in self.scale), None)
        for name in names:
            if known is not None and name not in self.graph.constants:
                self.scale.setdefault(name, known)
            elif known is None and name not in self.choices and node.inputs[0] in self.choices:
                self.choices[name] = self.choices[node.inputs[0]]

    def _summing(self, node: Node) -> None:
        op, (a, b), y = node.op, node.inputs, node.output
        assert isinstance(op, ops.Add | ops.Sub)
        if not (term_ok(op.a) and term_ok(op.b) and plain(op.requant)):
            return
        assert op.a is not None
        assert op.b is not None
        assert op.requant is not None
        fa, fb, fy = (real(r.multiplier[0], r.shift[0]) for r in (op.a, op.b, op.requant))
        if 0.0 in (fa, fb, fy):
            return
        if y in self.scale and a not in self.scale and b not in self.scale:
            twice = fy * (1 << PRE_SHIFT) * self.scale[y]
            name, factor = (a, fa) if fa >= fb else (b, fb)
            self.choices[name] = near(twice * factor)
        terms = (pairs_of(op.a)[0], pairs_of(op.b)[0])
        for known, factor, other, wanted in ((a, fa, b, fb), (b, fb, a, fa)):
            if known in self.scale and other not in self.scale:
                for guess in near(self.scale[known] * wanted / factor):
                    found = (self.scale[known], guess) if known == a else (guess, self.scale[known])
                    if summing_factors(*found, 1.0)[:2] == terms:
                        self.choose(other, guess)
                        break
        if a in self.scale and b in self.scale and y not in self.scale:
            self._sum(a, b, y, op.requant)

    def _sum(self, a: str, b: str, y: str, requant: Rescale) -> None:
        """Choose the scale of a sum whose terms have theirs."""
        fy, wanted = real(requant.multiplier[0], requant.shift[0]), pairs_of(requant)[0]
        for guess in near(2 * max(self.scale[a], self.scale[b]) / ((1 << PRE_SHIFT) * fy)):
            if summing_factors(self.scale[a], self.scale[b], guess)[2] == wanted:
                self.choose(y, guess)
                break

    def _weighted(self, node: Node) -> None:
        op, x, y = node.op, node.inputs[0], node.output
        assert isinstance(op, ops.Conv2D | ops.DepthwiseConv2D)
        if not plain(op.requant):
            return
        if y in self.unsigned:
            self._product(op.requant, x, y)
            return
        assert op.requant is not None
        pairs = pairs_of(op.requant)
        if x in self.scale and y in self.scale:
            return
        if not self.options(x) and y in self.scale:
            found = list(factors.operand_scales(pairs, self.scale[y]))
            if len(found) == 1:
                self._offer(x, [math.ldexp(found[0], math.frexp(self.scale[y])[1] - 1)])
            return
        for sx in self.options(x):
            if y in self.scale:
                if factors.weight_scales(pairs, sx, self.scale[y]) is not None:
                    self.choose(x, sx)
                    return
                continue
            found = [self.exponent(op.requant, s, sx) for s in factors.result_scales(pairs, sx)]
            if found:
                self.choose(x, sx)
                self._offer(y, found)
                return

    def _offer(self, name: str, found: list[float]) -> None:
        if len(found) == 1:
            self.choose(name, found[0])
        elif found:
            self.choices[name] = found

    @staticmethod
    def exponent(r: Rescale, scale: float, like: float) -> float:
        """Return a scale times the power of two that a fused ReLU6 wants, else the one that makes it like another."""
        for e in range(-24, 8):
            candidate = math.ldexp(scale, e)
            kind = factors.activation(candidate, r.output_zero_point, r.qmin, r.qmax)
            if r.qmax < 127 and kind is not None:
                return candidate
        return math.ldexp(scale, math.frexp(like)[1] - 1)

    def _fully_connected(self, node: Node) -> None:
        op, x, y = node.op, node.inputs[0], node.output
        assert isinstance(op, ops.FullyConnected)
        if plain(op.requant, Rounding.SINGLE):
            self._product(op.requant, x, y)

    def _product(self, r: Rescale | None, x: str, y: str) -> None:
        """Choose the scale of a result whose factor is made from a float32 product of scales."""
        sx = next(iter(self.options(x)), 1.0)
        if r is None or r.per_channel or y in self.scale:
            return
        found = self.product_result(r, sx)
        if found is not None:
            self.choose(x, sx)
            self.choose(y, found)

    @staticmethod
    def product_result(r: Rescale, x: float) -> float | None:
        """Return the scale of a result for an operand's, such that weights of one scale have one."""
        for mantissa in range(_FIRST, _FIRST + (1 << 14)):
            guess = Provenance.exponent(r, math.ldexp(mantissa, -23), x)
            if factors.product_scale(pairs_of(r)[0], x, guess) is not None:
                return guess
        return None

    def _mul(self, node: Node) -> None:
        op, (a, b), y = node.op, node.inputs, node.output
        assert isinstance(op, ops.Mul)
        if not plain(op.requant):
            return
        assert op.requant is not None
        wanted = pairs_of(op.requant)
        if y in self.scale:
            self._factor(node, wanted[0])
            return
        for sa in self.options(a):
            for sb in self.options(b):
                product = float(np.float32(sa) * np.float32(sb))
                found = [s for s in near(product / max(real(*wanted[0]), 1e-30)) if mul_pair(sa, sb, s) == wanted[0]]
                if found and len(wanted) == 1:
                    self.choose(a, sa)
                    self.choose(b, sb)
                    self._offer(y, found)
                    return

    def _factor(self, node: Node, wanted: Pair) -> None:
        """Give the operand of a MUL whose scale is not known one that fits; a constant's is free to choose."""
        (a, b), y = node.inputs, self.scale[node.output]
        for known, other in ((a, b), (b, a)):
            if known in self.scale and other not in self.scale:
                guesses = near(real(*wanted) * y / self.scale[known])
                fitting = [s for s in guesses if mul_pair(self.scale[known], s, y) == wanted]
                self._offer(other, fitting[:1] if other in self.fixed else fitting)

    def _mean(self, node: Node) -> None:
        op, x, y = node.op, node.inputs[0], node.output
        assert isinstance(op, ops.ReduceSum)
        if not plain(op.requant) or y in self.scale:
            return
        assert op.requant is not None
        wanted = pairs_of(op.requant)
        count = self.graph.types[x].size // self.graph.types[y].size
        for sx in self.options(x):
            guesses = near(sx / max(real(*wanted[0]) * count, 1e-30))
            found = [s for s in guesses if mean_pair(sx, s, count) == wanted[0]]
            if found and len(wanted) == 1:
                self.choose(x, sx)
                self._offer(y, found)
                return

    def _rescale(self, node: Node) -> None:
        op, x, y = node.op, node.inputs[0], node.output
        assert isinstance(op, Rescale)
        wanted = pairs_of(op)
        if len(wanted) > 1 or not wanted[0][0]:
            return
        if x in self.scale:
            for guess in near(self.scale[x] / real(*wanted[0])):
                if pair(self.scale[x] / guess) == wanted[0]:
                    self.scale.setdefault(y, guess)
                    return
        elif y in self.scale:
            for guess in near(self.scale[y] * real(*wanted[0])):
                if pair(guess / self.scale[y]) == wanted[0]:
                    self.choose(x, guess)
                    return


_FIRST = 1 << 23
_PASSES = 8
