"""The graph as (DequantizeLinear, float op, QuantizeLinear): what vendors' compilers take for quantized networks.

Quantization parameters are those of the graph: int8 activations per tensor, int8 weights per channel and symmetric,
int32 biases of the product's scale. Rank 4 is planes, [N, C, H, W]; the ports keep the graph's layout and integers.
The compilers bring arithmetic of their own, so bits are close to the graph's and not the graph's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bitship.converters import floats
from bitship.converters.floats import TO_PLANES, TO_ROWS
from bitship.converters.onnx.model import ModelBuilder
from bitship.converters.placement import Place, Placed, placed
from bitship.converters.scales import WEIGHTED, Real, epilogue, narrow, recover
from bitship.errors import UnsupportedError
from bitship.graph import DType, Graph, Node, Port, Quant, ops
from bitship.graph.base import Array, TensorType


class Builder:
    """Writes one model. ``real`` names are float tensors, ``coded`` ones hold int8."""

    def __init__(self, graph: Graph, reals: Mapping[str, Real]) -> None:
        self.graph = graph
        self.reals = reals
        self.model = ModelBuilder()
        self.coded: dict[str, str] = {}
        self.real: dict[str, str] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def constant(self, array: Array) -> str:
        """Return the initializer that holds an array."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.model.initializer(array)
        return self._constants[key]

    def number(self, value: float) -> str:
        """Return a float32 constant."""
        return self.constant(np.array(value, np.float32))

    def ints(self, values: Sequence[int]) -> str:
        """Return an int64 vector."""
        return self.constant(np.array(values, np.int64))

    def op(self, name: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return its result."""
        return self.model.node(name, inputs, **attributes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the graph's shape of a tensor."""
        return self.graph.types[name].shape

    def rank(self, name: str) -> int:
        """Return a tensor's rank."""
        return len(self.shape(name))

    def axis(self, name: str, axis: int) -> int:
        """Return where an axis of the graph's tensor is."""
        return TO_PLANES.index(axis) if self.rank(name) == 4 else axis

    def rows(self, name: str, x: str) -> str:
        """Return a tensor in the graph's layout."""
        return self.op("Transpose", x, perm=list(TO_ROWS)) if self.rank(name) == 4 else x

    def stored(self, name: str, x: str) -> str:
        """Return a tensor of the graph's layout in the model's."""
        return self.op("Transpose", x, perm=list(TO_PLANES)) if self.rank(name) == 4 else x

    def parameters(self, name: str) -> tuple[str, str]:
        """Return the scale and int8 zero point of a tensor."""
        r = self.reals[name]
        if not -128 <= r.zero_point <= 127:
            raise UnsupportedError(f"tensor '{name}': its zero point {r.zero_point} is no int8")
        return self.number(r.scale), self.constant(np.array(r.zero_point, np.int8))

    def read(self, name: str) -> str:
        """Return the reals of a tensor."""
        if name not in self.real:
            if name in self.graph.constants:
                array = self.graph.constants[name]
                self.coded[name] = self.constant(array.transpose(TO_PLANES) if array.ndim == 4 else array)
                if array.dtype != np.int8:
                    self.real[name] = self.constant(floats.reals_of(array, self.reals[name]))
                    return self.real[name]
            self.real[name] = self.op("DequantizeLinear", self.coded[name], *self.parameters(name))
        return self.real[name]

    def write(self, name: str, x: str) -> None:
        """Define a tensor by its reals: quantized where it is int8."""
        if narrow(self.graph, name):
            self.coded[name] = self.op("QuantizeLinear", x, *self.parameters(name))
        else:
            self.real[name] = x

    def limited(self, node: Node, x: str) -> str:
        """Clamp to the reals of a range that is narrower than the dtype; Relu where that is what it is."""
        limits, r = floats.code_limits(self.graph, node), self.reals[node.output]
        if limits is None:
            return x
        if limits[0] == r.zero_point and limits[1] >= self.graph.types[node.output].dtype.qmax:
            return self.op("Relu", x)
        low, high = ((q - r.zero_point) * r.scale for q in limits)
        return self.op("Clip", x, self.number(low), self.number(high))

    def weights(self, node: Node) -> tuple[str, str]:
        """Return (weights, bias) as reals: dequantized int8 and int32, or float where the layer has a wide tensor."""
        op, x = node.op, node.inputs[0]
        assert isinstance(op, ops.Conv2D | ops.DepthwiseConv2D | ops.FullyConnected)
        w, scales, bias = floats.weights(self.graph, self.reals, node)
        source, zero_point = self.reals[x].scale, op.weight_zero_point
        if not narrow(self.graph, x):
            real = (w.astype(np.int64) - zero_point) * floats.along_channels(scales, w)
            wide = (bias * scales * source).astype(np.float32)
            return self.constant(real.astype(np.float32)), self.constant(wide)
        each = self.constant(scales.astype(np.float32)), self.constant(np.full(scales.size, zero_point, np.int8))
        products = self.constant((scales.astype(np.float32) * np.float32(source)).astype(np.float32))
        return (
            self.op("DequantizeLinear", self.constant(w), *each, axis=0),
            self.op("DequantizeLinear", self.constant(bias), products, axis=0),
        )


def scope(index: int) -> str:
    """Return what the names of the model's nodes that stand for a node of the graph begin with."""
    return f"node{index}"


def _place(graph: Graph, node: Node) -> Placed:
    """Say whether a node has a quantized form or stays in float, and why."""
    wide = [n for n in (*node.inputs[:1], node.output) if not narrow(graph, n)]
    if isinstance(node.op, ops.Table):
        return placed(graph, node, Place.CPU, "a table has no quantized form in ONNX; it is a Gather of reals")
    if isinstance(node.op, ops.RmsNorm | ops.LayerNorm):
        return placed(graph, node, Place.CPU, "a norm's gain and bias stay in float")
    if wide:
        kinds = ", ".join(sorted({graph.types[n].dtype.value for n in wide}))
        return placed(graph, node, Place.CPU, f"reads or writes {kinds}; QDQ here is int8, so it stays in float")
    return placed(graph, node, Place.DELEGATE)


def _check(graph: Graph) -> None:
    if any(p.type.dtype not in (DType.INT8, DType.UINT8) for p in graph.inputs):
        raise UnsupportedError("its inputs must be int8 or uint8")
    if any(p.name in graph.constants for p in graph.outputs):
        raise UnsupportedError("its outputs must be computed")


def _flips(node: Node, dtype: DType, source: int, result: int) -> bool:
    """Whether a node only moves codes by 128, from or to unsigned ones."""
    op = node.op
    return (
        isinstance(op, ops.Rescale)
        and (op.multiplier, op.shift, op.pre_shift) == ((1 << 30,), (1,), 0)
        and (op.dtype, op.input_zero_point, op.output_zero_point) == (dtype, source, result)
        and (op.qmin, op.qmax) == (dtype.qmin, dtype.qmax)
    )


def signed_ports(graph: Graph) -> Graph:
    """Return the graph with int8 ports where uint8 ones only pass through a move by 128; the node goes."""
    nodes = list(graph.nodes)
    ports = {}
    for port in graph.inputs:
        readers = [n for n in nodes if port.name in n.inputs]
        if port.type.dtype is DType.UINT8 and len(readers) == 1 and _flips(readers[0], DType.INT8, 128, 0):
            ports[port.name] = _moved(port, readers[0].output, -128)
            nodes.remove(readers[0])
    outputs = {}
    for port in graph.outputs:
        made = [n for n in nodes if n.output == port.name]
        read = any(port.name in n.inputs for n in nodes)
        if port.type.dtype is DType.UINT8 and made and not read and _flips(made[0], DType.UINT8, 0, 128):
            outputs[port.name] = _moved(port, made[0].inputs[0], -128)
            nodes.remove(made[0])
    if not ports and not outputs:
        return graph
    return replace(
        graph,
        inputs=tuple(ports.get(p.name, p) for p in graph.inputs),
        outputs=tuple(outputs.get(p.name, p) for p in graph.outputs),
        nodes=tuple(nodes),
    )


def _moved(port: Port, name: str, by: int) -> Port:
    quant = port.quant and Quant(port.quant.scale, port.quant.zero_point + by)
    return Port(name, TensorType(port.type.shape, DType.INT8), quant)


def _inputs(k: Builder, whole: Graph, names: Sequence[str]) -> None:
    for port, outer, name in zip(k.graph.inputs, whole.inputs, names, strict=True):
        planes = k.stored(port.name, name)
        if outer.type.dtype is DType.INT8:
            k.coded[port.name] = planes
            continue
        r = k.reals[port.name]
        at = r.zero_point + (128 if port.type.dtype is DType.INT8 else 0)
        real = k.op("DequantizeLinear", planes, k.number(r.scale), k.constant(np.array(at, np.uint8)))
        k.write(port.name, real)


def _outputs(k: Builder, whole: Graph, names: Sequence[str]) -> None:
    for port, outer, name in zip(k.graph.outputs, whole.outputs, names, strict=True):
        dtype, r = outer.type.dtype, k.reals[port.name]
        if dtype is DType.INT8 and port.name in k.coded:
            found = k.coded[port.name]
        elif dtype is DType.UINT8:
            at = r.zero_point + (128 if port.type.dtype is DType.INT8 else 0)
            found = k.op("QuantizeLinear", k.read(port.name), k.number(r.scale), k.constant(np.array(at, np.uint8)))
        else:
            scaled = k.op("Mul", k.read(port.name), k.number(1 / r.scale))
            code = k.op("Add", k.op("Round", scaled), k.number(r.zero_point))
            clipped = k.op("Clip", code, k.number(dtype.qmin), k.number(dtype.qmax))
            found = k.op("Cast", clipped, to=k.model.type_of(dtype))
        k.model.node("Identity", [k.rows(port.name, found)], name)


def lower(graph: Graph) -> tuple[bytes, tuple[Placed, ...]]:
    """Return the QDQ model and what becomes of every node; UnsupportedError where the graph has no float form."""
    from bitship.converters.onnx.floating import FLOAT

    _check(graph)
    whole, graph = graph, signed_ports(graph)
    k = Builder(graph, recover(graph))
    inputs = [f"input_{i}" for i in range(len(graph.inputs))]
    outputs = [f"output_{i}" for i in range(len(graph.outputs))]
    _inputs(k, whole, inputs)
    for i, node in enumerate(graph.nodes):
        k.model.scope = scope(i)
        if type(node.op) not in FLOAT:
            raise UnsupportedError(f"node '{node.output}': {node.op.name} has no float form")
        if not isinstance(node.op, WEIGHTED) and len(getattr(epilogue(node), "multiplier", ())) > 1:
            raise UnsupportedError(f"node '{node.output}': a {node.op.name} that is rescaled per channel")
        k.write(node.output, k.limited(node, FLOAT[type(node.op)](k, node)))
    k.model.scope = "ports"
    _outputs(k, whole, outputs)
    kept = {n.output for n in graph.nodes}
    nodes = tuple(
        _place(graph, n)
        if n.output in kept
        else placed(whole, n, Place.FOLDED, "unsigned codes become signed at a port")
        for n in whole.nodes
    )
    return k.model.encode(whole, inputs, outputs, "qdq"), nodes


__all__ = ["Builder", "lower"]
