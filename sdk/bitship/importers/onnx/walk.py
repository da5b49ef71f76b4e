"""Walk an ONNX model node by node: what every value has become, and how handlers read operands."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitship.errors import BitshipError, FormatError, UnsupportedError
from bitship.graph import DType, Graph, GraphBuilder, Quant, verify
from bitship.graph.base import Array
from bitship.graph.ops import Rescale
from bitship.importers.integerize import Integerizer, QParams, QuantizedTensor, Weights
from bitship.importers.onnx.reader import Model, Operator, Port
from bitship.importers.pending import Pending

_MAX_COMPUTED = 1 << 24
_EIGHT_BIT = ("int8", "uint8")
_TO_INT8 = Rescale((1 << 30,), (1,), 128, 0)
_TO_UINT8 = Rescale((1 << 30,), (1,), 0, 128, dtype=DType.UINT8, qmin=0, qmax=255)


@dataclass(frozen=True)
class Open:
    """A graph input whose quantization is read from the first node that uses it."""

    port: Port


@dataclass(frozen=True)
class Quantized:
    """A constant with its scales and zero points: one, or one per index of ``axis``. uint8 is kept as it is."""

    values: Array
    scales: Array
    zero_points: Array
    axis: int

    @property
    def real(self) -> Array:
        """The float64 values it stands for."""
        shape = [1] * self.values.ndim
        if self.scales.size > 1:
            shape[self.axis] = self.scales.size
        scales, zeros = self.scales.reshape(shape), self.zero_points.astype(np.float64).reshape(shape)
        result: Array = (self.values.astype(np.float64) - zeros) * scales
        return result


Value = QuantizedTensor | Pending | Open | Quantized | Array


class Walk:
    """State of one import."""

    def __init__(self, model: Model, where: str, name: str) -> None:
        self.model = model
        self.where = where
        self.builder = GraphBuilder(name)
        self.g = Integerizer(self.builder)
        self.values: dict[str, Any] = dict(model.constants)
        self.unsigned: dict[str, bool] = {}
        self.node: Operator | None = None

    def refuse(self, what: str) -> UnsupportedError:
        """Return the error that names the node at hand."""
        place = f"{self.where}: {self.node.where}" if self.node else self.where
        return UnsupportedError(f"{place}: {what}")

    def run(self, outputs: list[str]) -> Graph:
        """Lower every node the outputs need and return the verified graph."""
        from bitship.importers.onnx.handlers import HANDLERS

        for port in self.model.inputs:
            if port.dtype not in (*_EIGHT_BIT, "float32"):
                raise self.refuse(f"input '{port.name}' is {port.dtype}; int8, uint8 and float32 are supported")
            self.values[port.name] = Open(port)
        needed = self._needed(outputs)
        for node in self.model.operators:
            if node.index not in needed:
                continue
            self.node = node
            handler = HANDLERS.get(node.op)
            if handler is None:
                raise self.refuse("this op is not supported; --output NAME cuts the model before it")
            self._apply(handler, node)
        self.node = None
        graph = self.builder.finish([self._output(name) for name in outputs])
        verify(graph)
        return graph

    def _apply(self, handler: Any, node: Operator) -> None:
        try:
            results = handler(self)
        except BitshipError as e:
            text = str(e)
            raise type(e)(text if text.startswith(self.where) else f"{self.where}: {node.where}: {text}") from None
        for name, value in zip(node.outputs, results if isinstance(results, list) else [results], strict=False):
            if not name:
                continue
            if isinstance(value, np.ndarray) and value.size > _MAX_COMPUTED:
                raise self.refuse(f"constant '{name}' has {value.size} elements; {_MAX_COMPUTED} are allowed here")
            if name in self.values:
                raise FormatError(f"{self.where}: {node.where}: value '{name}' is defined twice")
            self.values[name] = value
            self.unsigned.setdefault(name, any(self.unsigned.get(i, False) for i in node.inputs))

    def _needed(self, outputs: list[str]) -> set[int]:
        wanted, found = set(outputs), set()
        for node in reversed(self.model.operators):
            if wanted.intersection(node.outputs):
                found.add(node.index)
                wanted.update(node.inputs)
        return found

    def _output(self, name: str) -> tuple[str, Quant | None]:
        value = self.values.get(name)
        if not isinstance(value, QuantizedTensor):
            raise self.refuse(f"output '{name}' is not an integer tensor; name a quantized one with --output NAME")
        value = self.g.port(value)
        if not self.unsigned.get(name, False):
            return value.name, Quant(value.q.scale, value.q.zero_point)
        name = self.builder.node(f"{value.name}.uint8", _TO_UINT8, value.name)
        return name, Quant(value.q.scale, value.q.zero_point + 128)

    # -- what handlers read with

    def has(self, index: int) -> bool:
        """Whether an operand is given."""
        assert self.node is not None
        return index < len(self.node.inputs) and bool(self.node.inputs[index])

    def value(self, index: int) -> Any:
        """Return what an operand has become; FormatError when nothing before defines it."""
        assert self.node is not None
        name = self.node.inputs[index] if index < len(self.node.inputs) else ""
        if name not in self.values:
            raise FormatError(f"{self.where}: {self.node.where}: operand {index} '{name}' is not defined before it")
        return self.values[name]

    def array(self, index: int) -> Array:
        """Return a constant operand."""
        value = self.value(index)
        if isinstance(value, Quantized):
            return value.real
        if not isinstance(value, np.ndarray):
            raise self.refuse(f"operand {index} must be a constant")
        return value

    def ints(self, index: int) -> list[int]:
        """Return a constant operand of integers, flattened."""
        return [int(v) for v in self.array(index).reshape(-1).tolist()]

    def tensor(self, index: int, q: QParams | None = None, dtype: str | None = None) -> QuantizedTensor:
        """Return a quantized operand.

        q, dtype  how the node reads it where the node says so: a graph input is declared by it
        """
        assert self.node is not None
        value = self.value(index)
        if isinstance(value, Open):
            value = self._declare(value.port, q, dtype)
        elif isinstance(value, Quantized):
            value = self.constant(value)
        elif isinstance(value, np.ndarray) and q is not None:
            value = self.constant(Quantized(value, np.array([q.scale]), np.array([_file_zero(q, value.dtype)]), 0))
        if not isinstance(value, QuantizedTensor):
            raise self.refuse(f"operand {index} '{self.node.inputs[index]}' is float; quantize the whole model")
        return value if q is None or q == value.q else replace(value, q=q)

    def image_operand(self, index: int) -> QuantizedTensor:
        """Return a quantized operand of rank 4, stored as NHWC."""
        return self.g.image(self.tensor(index))

    def _declare(self, port: Port, q: QParams | None, dtype: str | None) -> QuantizedTensor:
        if q is None or dtype not in _EIGHT_BIT or (port.dtype != "float32" and port.dtype != dtype):
            raise self.refuse(f"input '{port.name}' ({port.dtype}) is not quantized to int8 or uint8 here")
        if dtype == "int8":
            declared = self.g.input(port.name, port.shape, q)
        else:
            raw = self.g.input(port.name, port.shape, q, DType.UINT8)
            declared = replace(raw, name=self.builder.node(f"{port.name}.int8", _TO_INT8, raw.name))
        self.values[port.name] = declared
        self.unsigned[port.name] = dtype == "uint8"
        return declared

    def constant(self, c: Quantized) -> QuantizedTensor:
        """Add a constant of one scale to the graph as int8."""
        if c.scales.size != 1 or c.values.dtype.name not in _EIGHT_BIT:
            raise self.refuse("a constant operand must be int8 or uint8 with one scale")
        shift = 128 if c.values.dtype == np.uint8 else 0
        values = (c.values.astype(np.int16) - shift).astype(np.int8)
        assert self.node is not None
        q = QParams(self._scale(c.scales), int(c.zero_points.reshape(-1)[0]) - shift)
        return self.g.constant(f"{self.node.name}.constant", values, q)

    def check_scales(self, scales: Array) -> None:
        """Raise FormatError unless every scale is finite and positive."""
        if not scales.size or not (np.isfinite(scales).all() and (scales > 0).all()):
            raise FormatError(f"{self.where}: a scale is not finite and positive")

    def _scale(self, scales: Array) -> float:
        self.check_scales(scales)
        return float(scales.reshape(-1)[0])

    def qparams(self, scale: int, zero_point: int) -> tuple[QParams, str]:
        """Return the parameters two operands give, as int8, and the file's dtype; uint8 when no zero point is given."""
        scales = self.array(scale)
        if scales.size != 1:
            raise self.refuse("activations must have one scale")
        zero = self.array(zero_point) if self.has(zero_point) else np.zeros(1, np.uint8)
        dtype = zero.dtype.name
        if dtype not in _EIGHT_BIT or zero.size != 1:
            raise self.refuse(f"quantized to {dtype}; int8 and uint8 with one zero point are supported")
        z = int(zero.reshape(-1)[0]) - (128 if dtype == "uint8" else 0)
        return QParams(self._scale(scales), z), dtype

    def weights(self, c: Any, channel: int) -> Weights:
        """Return a constant as int8 weights with its output channels first; ``channel`` is their axis."""
        if not isinstance(c, Quantized) or c.values.dtype.name not in _EIGHT_BIT:
            raise self.refuse("weights must be constant int8 or uint8")
        shift = 128 if c.values.dtype == np.uint8 else 0
        if c.scales.size > 1 and (c.axis % c.values.ndim != channel or c.scales.size != c.values.shape[channel]):
            raise self.refuse("weights must have one scale, or one per output channel")
        zeros = {int(z) - shift for z in c.zero_points.reshape(-1).tolist()}
        if len(zeros) != 1:
            raise self.refuse("weights must have the same zero point in every channel")
        self.check_scales(c.scales)
        values = np.moveaxis(c.values, channel, 0).astype(np.int16) - shift
        return Weights(values.astype(np.int8), tuple(float(s) for s in c.scales.reshape(-1)), zeros.pop())

    def result(self, value: Any, dtype: str) -> Any:
        """Return a node's quantized result, having noted its dtype in the file."""
        assert self.node is not None
        self.unsigned[self.node.outputs[0]] = dtype == "uint8"
        return value


def _file_zero(q: QParams, dtype: Any) -> int:
    return q.zero_point + (128 if dtype == np.uint8 else 0)
