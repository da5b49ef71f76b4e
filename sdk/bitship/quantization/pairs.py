"""Read a graph that PT2E has quantized: (dequantize, op, quantize) around every op."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitship.errors import QuantizationError
from bitship.graph.base import Array
from bitship.importers import shapes
from bitship.importers.integerize import QParams, QuantizedTensor, Weights
from bitship.importers.pending import Pending
from bitship.quantization.catalogue import op_name, where
from bitship.quantization.recipe import Recipe
from bitship.quantization.walk import Walk


@dataclass(frozen=True)
class Real:
    """A graph input before its quantize."""

    shape: tuple[int, ...]
    name: str


class PairWalk(Walk):
    """Takes scales and zero points from the quantize and dequantize calls."""

    def __init__(self, graph_module: Any, name: str) -> None:
        super().__init__(graph_module, name, Recipe())

    def placeholder(self, node: Any) -> Real:
        """Wait for the quantize that follows."""
        return Real(tuple(node.meta["val"].shape), node.name)

    def call(self, node: Any) -> Any:
        """Read a pair's half, or hand the call to its handler."""
        text = str(node.target)
        if text.startswith("quantized_decomposed.") or text.startswith("torchao."):
            return self._pair(node, text)
        return self.handle(node)

    def quantized(self, node: Any, arg: Any) -> QuantizedTensor:
        """Return an operand that a dequantize gave."""
        value = self.values.get(arg)
        if isinstance(value, QuantizedTensor):
            return value
        what = "it" if node is arg else f"operand '{getattr(arg, 'name', arg)}'"
        raise QuantizationError(f"{where(node)}: {what} stays in float; quantize it too")

    def weights(self, node: Any, arg: Any) -> Weights:
        """Return weights that a dequantize gave."""
        value = self.values[arg]
        if not isinstance(value, Weights):
            raise QuantizationError(f"{where(node)}: weights stay in float")
        return value

    def softmax(self, node: Any, axis: int) -> QuantizedTensor:
        """TFLite's softmax, whose result has scale 1/256."""
        return shapes.softmax(self.g, node.name, self.quantized(node, node.args[0]), axis)

    def _pair(self, node: Any, text: str) -> Any:
        source = self.values[node.args[0]]
        if "dequantize_per_channel" in text:
            return self._channel_weights(node, source)
        q = QParams(float(self.scalar(node.args[1])), int(self.scalar(node.args[2])))
        if node.args[3:5] not in ((-128, 127), (-127, 127)):
            raise QuantizationError(f"{where(node)}: range {node.args[3:5]}: int8 in [-128, 127] is needed")
        if "dequantize" in text:
            return source if isinstance(source, QuantizedTensor) else self._constant(node, source, q)
        return self._quantize(node, source, q)

    def _quantize(self, node: Any, source: Any, q: QParams) -> QuantizedTensor:
        if isinstance(source, Pending):
            return source.emit(q, source.limits)
        if isinstance(source, QuantizedTensor):
            return self.g.requantize(f"{node.name}.requant", source, q)
        if isinstance(source, Real):
            first = self.g.input(source.name, source.shape, q)
            self.values[node.args[0]] = first
            return first
        values = np.rint(source.double().numpy() / q.scale) + q.zero_point
        return self.g.constant(node.name, np.clip(values, -128, 127).astype(np.int8), q)

    def _constant(self, node: Any, source: Any, q: QParams) -> QuantizedTensor | Weights:
        values = source.numpy()
        if values.dtype != np.int8:
            raise QuantizationError(f"{where(node)}: constant is {values.dtype}; int8 is needed")
        users = {op_name(u) for u in node.users}
        if users <= {"conv2d", "linear"} and all(u.args[1] is node for u in node.users):
            return Weights(values, (q.scale,), q.zero_point)
        return self.g.constant(node.name, values, q)

    def _channel_weights(self, node: Any, source: Any) -> Weights:
        scales, zero_points, axis = (self.values[node.args[1]], self.values[node.args[2]], node.args[3])
        values: Array = source.numpy()
        if axis != 0 or values.dtype != np.int8 or bool(zero_points.any()):
            raise QuantizationError(f"{where(node)}: int8 weights, symmetric, per channel of axis 0 are needed")
        return Weights(values, tuple(float(s) for s in scales.double().tolist()))
