"""The graph as (dequantize, float op, quantize): what a delegate with arithmetic of its own is given.

Quantization parameters are those of the graph. Each node's torch ops carry its name, so that what a delegate took and
what it left can be told node by node.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bitship.converters import floats
from bitship.converters.executorch.program import require
from bitship.converters.floats import TO_PLANES, TO_ROWS
from bitship.converters.scales import WEIGHTED, Real, narrow, recover
from bitship.errors import UnsupportedError
from bitship.graph import DType, Graph, Node
from bitship.graph.base import Array
from bitship.graph.ops import (
    Add,
    AvgPool2D,
    Clamp,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Gather,
    LayerNorm,
    MatMul,
    MaxPool2D,
    Mul,
    Op,
    Pad,
    ReduceMax,
    ReduceSum,
    Rescale,
    Reshape,
    RmsNorm,
    Slice,
    Softmax,
    SoftmaxMatMul,
    Sub,
    Table,
    TableSoftmax,
    Transpose,
)

NAME = "bitship"  # the key of a torch node's metadata under which the graph's node is named


class Builder:
    """Prepares the constants of one program and computes its nodes in float."""

    def __init__(self, graph: Graph, reals: Mapping[str, Real]) -> None:
        self.graph = graph
        self.reals = reals
        self.buffers: dict[str, Array] = {}
        self.module: Any = None
        self.float_borders = False
        self._once: dict[str, tuple[Any, Any]] = {}

    def prepare(self) -> None:
        """Compute every constant tensor; UnsupportedError where one has no symmetric form."""
        for node in self.graph.nodes:
            if isinstance(node.op, WEIGHTED):
                self._weights(node)
            elif isinstance(node.op, LayerNorm | RmsNorm):
                self._affine(node)
            elif isinstance(node.op, Table):
                self._table(node)
        for name, real in self.reals.items():
            if name in self.graph.constants:
                value = floats.reals_of(self.graph.constants[name], real)
                self.buffers[name] = np.ascontiguousarray(value.transpose(TO_PLANES) if value.ndim == 4 else value)

    def _weights(self, node: Node) -> None:
        op, x = node.op, node.inputs[0]
        assert isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected)
        if op.weight_zero_point:
            raise UnsupportedError(f"node '{node.output}': weights must have zero point 0")
        w, scales, bias = floats.weights(self.graph, self.reals, node)
        self.buffers[f"{node.output}_b"] = (bias * scales * self.reals[x].scale).astype(np.float32)
        if not (narrow(self.graph, x) and narrow(self.graph, node.output)):
            real = (w * floats.along_channels(scales, w)).astype(np.float32)
            self.buffers[f"{node.output}_f"] = np.ascontiguousarray(real)
            return
        self.buffers[f"{node.output}_w"] = np.ascontiguousarray(w)
        self.buffers[f"{node.output}_s"] = scales.astype(np.float32)
        self.buffers[f"{node.output}_z"] = np.zeros(scales.shape, np.int64)

    def _affine(self, node: Node) -> None:
        gain, bias, _ = floats.norm(self.graph, self.reals, node)
        self.buffers[f"{node.output}_g"], self.buffers[f"{node.output}_b"] = gain, bias

    def _table(self, node: Node) -> None:
        self.buffers[f"{node.output}_t"] = floats.table(self.graph, self.reals, node)

    def begin(self) -> None:
        """Forget what an earlier evaluation computed."""
        self._once.clear()

    def get(self, name: str) -> Any:
        """Return a buffer of the module by the name it was prepared under."""
        return self.module.get_buffer(f"k{list(self.buffers).index(name)}")

    def weight(self, node: Node) -> tuple[Any, Any]:
        """Return (dequantized weights, float bias); weights of a layer with a wide operand or result are float."""
        import torch

        bias = self.get(f"{node.output}_b")
        if f"{node.output}_f" in self.buffers:
            return self.get(f"{node.output}_f"), bias
        quantized: Any = torch.ops.quantized_decomposed
        w, scales = self.get(f"{node.output}_w"), self.get(f"{node.output}_s")
        zeros = self.get(f"{node.output}_z")
        return quantized.dequantize_per_channel(w, scales, zeros, 0, -128, 127, torch.int8), bias

    def quantized(self, name: str, x: Any) -> Any:
        """Return x as int8 of a tensor's scale and zero point; x itself where the tensor is wider."""
        import torch

        if not narrow(self.graph, name):
            return x
        ops: Any = torch.ops.quantized_decomposed
        r = self.reals[name]
        return ops.quantize_per_tensor(x, r.scale, r.zero_point, -128, 127, torch.int8)

    def real(self, name: str, q: Any) -> Any:
        """Return the reals of an int8 tensor: one dequantization for every reader, as XNNPACK's patterns want.

        With ``float_borders`` one for all, so that no reader in another part needs the codes.
        """
        import torch

        if not narrow(self.graph, name):
            return q
        known = self._once.get(name)
        if known is not None and known[0] is q:
            return known[1]
        ops: Any = torch.ops.quantized_decomposed
        r = self.reals[name]
        found = ops.dequantize_per_tensor(q, r.scale, r.zero_point, -128, 127, torch.int8)
        if self.float_borders:
            self._once[name] = q, found
        return found

    def limited(self, node: Node, x: Any) -> Any:
        """Clamp to the reals of a range that is narrower than the dtype."""
        import torch

        limits = floats.code_limits(self.graph, node)
        if limits is None:
            return x
        r = self.reals[node.output]
        return torch.nn.functional.hardtanh(x, *((q - r.zero_point) * r.scale for q in limits))


def _axis(x: Any, axis: int) -> int:
    """Return where an axis of the graph is: rank 4 is kept as [N, C, H, W]."""
    return TO_PLANES.index(axis) if x.dim() == 4 else axis


def to_rows(x: Any) -> Any:
    """Return a tensor of rank 4 as the graph has it, [N, H, W, C]; others as they are."""
    return x.permute(TO_ROWS) if x.dim() == 4 else x


def to_planes(x: Any) -> Any:
    """Return a tensor of rank 4 as [N, C, H, W]; others as they are."""
    return x.permute(TO_PLANES) if x.dim() == 4 else x


def _convolution(k: Builder, node: Node, x: Any) -> Any:
    import torch

    op = node.op
    assert isinstance(op, Conv2D | DepthwiseConv2D)
    groups = op.groups if isinstance(op, Conv2D) else x.shape[1]
    top, bottom, left, right = op.padding
    if (top, left) != (bottom, right):
        x = torch.nn.functional.pad(x, (left, right, top, bottom))
        x, top, left = k.real(node.inputs[0], k.quantized(node.inputs[0], x)), 0, 0
    return torch.conv2d(x, *k.weight(node), op.stride, (top, left), op.dilation, groups)


def _fully_connected(k: Builder, node: Node, x: Any) -> Any:
    import torch

    return torch.nn.functional.linear(x, *k.weight(node))


def _pool(k: Builder, node: Node, x: Any) -> Any:
    import torch

    op, f = node.op, torch.nn.functional
    assert isinstance(op, AvgPool2D | MaxPool2D)
    (top, bottom, left, right), kernel = op.padding, op.kernel
    if (top, left) != (bottom, right) or 2 * top > kernel[0] or 2 * left > kernel[1]:
        raise UnsupportedError(f"node '{node.output}': {op.name} with uneven padding")
    if isinstance(op, MaxPool2D):
        return f.max_pool2d(x, kernel, op.stride, (top, left))
    return f.avg_pool2d(x, kernel, op.stride, (top, left), count_include_pad=False)


def _reduced(k: Builder, node: Node, x: Any) -> Any:
    assert isinstance(node.op, ReduceSum | ReduceMax)
    axes = [_axis(x, a) for a in node.op.axes]
    return x.mean(axes, keepdim=True) if isinstance(node.op, ReduceSum) else x.amax(axes, keepdim=True)


def _pad(k: Builder, node: Node, x: Any) -> Any:
    import torch

    assert isinstance(node.op, Pad)
    r = k.reals[node.inputs[0]]
    order = TO_PLANES if x.dim() == 4 else range(x.dim())
    flat = [n for axis in reversed(order) for n in node.op.padding[axis]]
    return torch.nn.functional.pad(x, flat, value=(node.op.value - r.zero_point) * r.scale)


def _slice(k: Builder, node: Node, x: Any) -> Any:
    op = node.op
    assert isinstance(op, Slice)
    for axis, (b, n, s) in enumerate(zip(op.start, op.size, op.steps(), strict=True)):
        place = _axis(x, axis)
        if (b, n, s) != (0, x.shape[place], 1):
            x = x[(slice(None),) * place + (slice(b, b + (n - 1) * s + 1, s),)]
    return x


def _gather(k: Builder, node: Node, x: Any) -> Any:
    import torch

    assert isinstance(node.op, Gather)
    return torch.index_select(x, _axis(x, node.op.axis), torch.from_numpy(floats.indices(k.graph, node)))


def _softmax(k: Builder, node: Node, x: Any) -> Any:
    import torch

    step = floats.softmax_step(k.graph, k.reals, node)
    return torch.softmax(x * step, _axis(x, len(k.graph.types[node.inputs[0]].shape) - 1))


def _softmax_matmul(k: Builder, node: Node, x: Any, v: Any) -> Any:
    import torch

    return torch.bmm(_softmax(k, node, x), v)


def _scaled(k: Builder, node: Node, y: Any) -> Any:
    factor = floats.product_factor(k.reals, node)
    return y if factor == 1 else y * factor


def _matmul(k: Builder, node: Node, a: Any, b: Any) -> Any:
    import torch

    return _scaled(k, node, torch.bmm(a, b))


def _mul(k: Builder, node: Node, a: Any, b: Any) -> Any:
    return _scaled(k, node, a * b)


def _norm(k: Builder, node: Node, x: Any) -> Any:
    import torch

    op, rows = node.op, to_rows(x)
    assert isinstance(op, LayerNorm | RmsNorm)
    epsilon = floats.norm(k.graph, k.reals, node)[2]
    gain, bias = k.get(f"{node.output}_g"), k.get(f"{node.output}_b")
    shape = (rows.shape[-1],)
    if isinstance(op, LayerNorm):
        return to_planes(torch.nn.functional.layer_norm(rows, shape, gain, bias, epsilon))
    return to_planes(torch.nn.functional.rms_norm(rows, shape, gain, epsilon) + bias)


def _reshape(k: Builder, node: Node, x: Any) -> Any:
    assert isinstance(node.op, Reshape)
    rows = x if x.dim() == 4 and x.shape[2:] == (1, 1) else to_rows(x)
    return to_planes(rows.reshape(node.op.shape))


def _concat(k: Builder, node: Node, *xs: Any) -> Any:
    import torch

    assert isinstance(node.op, Concat)
    return torch.cat(xs, _axis(xs[0], node.op.axis))


FLOAT: dict[type[Op], Callable[..., Any]] = {
    Conv2D: _convolution,
    DepthwiseConv2D: _convolution,
    FullyConnected: _fully_connected,
    MatMul: _matmul,
    Add: lambda k, node, a, b: a + b,
    Sub: lambda k, node, a, b: a - b,
    Mul: _mul,
    AvgPool2D: _pool,
    MaxPool2D: _pool,
    ReduceSum: _reduced,
    ReduceMax: _reduced,
    Rescale: lambda k, node, x: x,
    Clamp: lambda k, node, x: x,
    Reshape: _reshape,
    Transpose: lambda k, node, x: to_planes(to_rows(x).permute(node.op.perm)),
    Concat: _concat,
    Pad: _pad,
    Slice: _slice,
    Gather: _gather,
    Softmax: _softmax,
    TableSoftmax: _softmax,
    SoftmaxMatMul: _softmax_matmul,
    LayerNorm: _norm,
    RmsNorm: _norm,
}


def _looked_up(k: Builder, node: Node, q: Any) -> Any:
    """Return a table's reals for int8 codes; by way of their reals where int8 must not pass a delegate's border."""
    import torch

    if k.float_borders:
        r = k.reals[node.inputs[0]]
        codes = torch.round(k.real(node.inputs[0], q) * (1 / r.scale)) + (r.zero_point + 128)
        return k.get(f"{node.output}_t")[codes.to(torch.int64)]
    return k.get(f"{node.output}_t")[q.to(torch.int64) + 128]


def node_reals(k: Builder, node: Node, values: dict[str, Any]) -> Any:
    """Return a node's reals, before they are limited and quantized; UnsupportedError for an op without a float form."""
    if isinstance(node.op, Table):
        return _looked_up(k, node, values[node.inputs[0]])
    if type(node.op) not in FLOAT:
        raise UnsupportedError(f"node '{node.output}': {node.op.name} has no float form")
    operands = [k.real(i, values[i]) if i in values else k.get(i) for i in node.inputs if i in values or i in k.reals]
    return FLOAT[type(node.op)](k, node, *operands)


def _evaluate(k: Builder, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    import torch
    from torch.fx.traceback import annotate

    values: dict[str, Any] = {}
    k.begin()
    for port, x in zip(k.graph.inputs, inputs, strict=True):
        r = k.reals[port.name]
        values[port.name] = k.quantized(port.name, (to_planes(x).to(torch.float32) - r.zero_point) * r.scale)
    for node in k.graph.nodes:
        with annotate({NAME: node.output}):
            values[node.output] = k.quantized(node.output, k.limited(node, node_reals(k, node, values)))
    results = []
    for port in k.graph.outputs:
        r, dtype = k.reals[port.name], port.type.dtype
        q = torch.round(k.real(port.name, values[port.name]) * (1 / r.scale)) + r.zero_point
        results.append(to_rows(q.clamp(dtype.qmin, dtype.qmax).to(getattr(torch, dtype.value))))
    return tuple(results)


def check_ports(graph: Graph) -> None:
    """Raise UnsupportedError for inputs or outputs that no float form has."""
    allowed = (DType.INT8, DType.UINT8, DType.INT16)
    if any(p.type.dtype not in allowed for p in (*graph.inputs, *graph.outputs)):
        raise UnsupportedError("its inputs and outputs must be int8, uint8 or int16")
    if any(p.name in graph.constants for p in graph.outputs):
        raise UnsupportedError("its outputs must be computed")


def build_module(graph: Graph, float_borders: bool = False) -> Any:
    """Return the graph as a torch.nn.Module of (dequantize, float op, quantize): the graph's dtypes in and out.

    float_borders  whether int8 stays within a delegate's parts: what it leaves, and other parts, read reals
    Raises UnsupportedError where the graph has no float form (shifts, casts, I-ViT's own ops, tables of int16).
    """
    import torch

    require("torch.ao.quantization.fx._decomposed")
    check_ports(graph)
    builder = Builder(graph, recover(graph))
    builder.float_borders = float_borders
    builder.prepare()

    class Program(torch.nn.Module):  # type: ignore[misc]
        def forward(self, *inputs: Any) -> Any:
            return _evaluate(builder, inputs)

    module = Program()
    for i, array in enumerate(builder.buffers.values()):
        module.register_buffer(f"k{i}", torch.from_numpy(array.copy()))
    builder.module = module
    return module
