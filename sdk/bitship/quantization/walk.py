"""Read a PT2E-quantized graph (dequantize, op, quantize) and write it with the integerizer."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitship.errors import BitshipError, QuantizationError
from bitship.graph import Graph, GraphBuilder, Quant, verify
from bitship.graph.base import Array
from bitship.importers.integerize import Integerizer, QParams, QuantizedTensor, Weights
from bitship.importers.pending import Pending
from bitship.quantization.capture import fetch
from bitship.quantization.catalogue import op_name, where


@dataclass(frozen=True)
class Real:
    """A float tensor that is not quantized: a graph input before its quantize, or a constant."""

    value: Array | None = None
    shape: tuple[int, ...] = ()
    name: str = ""


Value = QuantizedTensor | Pending | Real | Weights


class Walk:
    """State of one walk: what every node of the torch graph has become."""

    def __init__(self, graph_module: Any, name: str) -> None:
        self.module = graph_module
        self.builder = GraphBuilder(name)
        self.g = Integerizer(self.builder)
        self.values: dict[Any, Any] = {}

    def run(self) -> Graph:
        """Return the verified integer graph."""
        outputs: list[tuple[str, Quant | None]] = []
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = Real(shape=tuple(node.meta["val"].shape), name=node.name)
            elif node.op == "get_attr":
                self.values[node] = fetch(self.module, node)
            elif node.op == "call_function":
                self.values[node] = self._guarded(node)
            elif node.op == "output":
                outputs = [self._output(result) for result in _flatten(node.args[0])]
        graph = self.builder.finish(outputs)
        verify(graph)
        return graph

    def _guarded(self, node: Any) -> Any:
        try:
            return self._call(node)
        except QuantizationError:
            raise
        except BitshipError as e:
            raise QuantizationError(f"{where(node)}: {e}") from None

    def _output(self, node: Any) -> tuple[str, Quant | None]:
        value = self.values[node]
        if not isinstance(value, QuantizedTensor):
            raise QuantizationError(f"output '{node.name}': it stays in float; quantize it too")
        value = self.g.port(value)
        return value.name, Quant(value.q.scale, value.q.zero_point)

    def _call(self, node: Any) -> Any:
        from bitship.quantization.handlers import HANDLERS
        from bitship.quantization.moving import MOVING

        text = str(node.target)
        if text.startswith("quantized_decomposed.") or text.startswith("torchao."):
            return self._pair(node, text)
        handler = HANDLERS.get(op_name(node)) or MOVING.get(op_name(node))
        if handler is None:
            raise QuantizationError(f"{where(node)}: no integer form")
        return handler(self, node)

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
        values = source.numpy()
        if axis != 0 or values.dtype != np.int8 or bool(zero_points.any()):
            raise QuantizationError(f"{where(node)}: int8 weights, symmetric, per channel of axis 0 are needed")
        return Weights(values, tuple(float(s) for s in scales.double().tolist()))

    # -- what handlers read with

    def scalar(self, value: Any) -> Any:
        """Return a Python number given as such, or as a tensor of one element."""
        if value in self.values:
            value = self.values[value]
        return value.item() if hasattr(value, "item") else value

    def number(self, arg: Any) -> float | None:
        """Return an operand that is one number, else None."""
        if isinstance(arg, int | float):
            return float(arg)
        value: Any = self.values.get(arg)
        if hasattr(value, "numel") and value.numel() == 1:
            return float(value.item())
        return None

    def quantized(self, node: Any, arg: Any) -> QuantizedTensor:
        """Return an operand that is quantized; QuantizationError when it is still in float."""
        value = self.values.get(arg)
        if not isinstance(value, QuantizedTensor):
            raise QuantizationError(f"{where(node)}: operand '{getattr(arg, 'name', arg)}' stays in float")
        return value

    def real_constant(self, node: Any, arg: Any) -> Array | None:
        """Return a float constant operand such as a bias; None when there is none."""
        if arg is None:
            return None
        value = self.values[arg]
        if not hasattr(value, "numpy"):
            raise QuantizationError(f"{where(node)}: operand '{arg.name}' must be a float constant")
        array: Array = value.double().numpy()
        return array


def argument(node: Any, index: int, name: str, default: Any) -> Any:
    """Return an argument by position or keyword."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _flatten(value: Any) -> list[Any]:
    return [v for item in value for v in _flatten(item)] if isinstance(value, list | tuple) else [value]
