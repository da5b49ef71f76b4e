"""A second program for speed: the graph as (dequantize, float op, quantize), delegated to XNNPACK.

XNNPACK requantizes in float32, so its bits are close to the graph's and not the graph's: the artifact is marked
tolerant and the difference is measured on the machine that converts. XNNPACK: https://github.com/google/XNNPACK.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bitship.converters.executorch.program import example, require
from bitship.converters.executorch.scales import Real, epilogue, factors, recover
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
    MaxPool2D,
    Mul,
    Op,
    Pad,
    ReduceSum,
    Rescale,
    Reshape,
    Slice,
    Softmax,
    Sub,
    Transpose,
)

_TO_PLANES = (0, 3, 1, 2)
_TO_ROWS = (0, 2, 3, 1)


class Builder:
    """Prepares the constants of one program and computes its nodes in float."""

    def __init__(self, graph: Graph, reals: Mapping[str, Real]) -> None:
        self.graph = graph
        self.reals = reals
        self.buffers: dict[str, Array] = {}
        self.module: Any = None

    def prepare(self) -> None:
        """Compute every weight tensor; UnsupportedError where one has no symmetric form."""
        for node in self.graph.nodes:
            if isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected):
                self._weights(node)

    def _weights(self, node: Node) -> None:
        op, (x, w_name, b_name) = node.op, node.inputs
        assert isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected)
        if op.weight_zero_point or w_name not in self.graph.constants or b_name not in self.graph.constants:
            raise UnsupportedError(f"node '{node.output}': weights must be constant, with zero point 0")
        w = self.graph.constants[w_name]
        if isinstance(op, Conv2D):
            w = w.transpose(0, 3, 1, 2)
        elif isinstance(op, DepthwiseConv2D):
            w = w.transpose(2, 3, 0, 1).reshape(-1, 1, *w.shape[:2])
        out = self.reals[node.output]
        real = factors(epilogue(node))
        scales = np.array([f * out.scale / self.reals[x].scale for f in real] * (w.shape[0] // len(real)))
        bias = self.graph.constants[b_name] * scales * self.reals[x].scale
        self.buffers[f"{node.output}_w"] = np.ascontiguousarray(w)
        self.buffers[f"{node.output}_s"] = np.maximum(scales, 1e-30).astype(np.float32)
        self.buffers[f"{node.output}_z"] = np.zeros(scales.shape, np.int64)
        self.buffers[f"{node.output}_b"] = bias.astype(np.float32)

    def get(self, name: str) -> Any:
        """Return a buffer of the module by the name it was prepared under."""
        return self.module.get_buffer(f"k{list(self.buffers).index(name)}")

    def weight(self, node: Node) -> tuple[Any, Any]:
        """Return (dequantized weights, float bias)."""
        import torch

        quantized: Any = torch.ops.quantized_decomposed
        w, scales = self.get(f"{node.output}_w"), self.get(f"{node.output}_s")
        zeros = self.get(f"{node.output}_z")
        return (
            quantized.dequantize_per_channel(w, scales, zeros, 0, -128, 127, torch.int8),
            self.get(f"{node.output}_b"),
        )

    def quantized(self, name: str, x: Any) -> Any:
        """Return x as int8 of a tensor's scale and zero point."""
        import torch

        ops: Any = torch.ops.quantized_decomposed
        r = self.reals[name]
        return ops.quantize_per_tensor(x, r.scale, r.zero_point, -128, 127, torch.int8)

    def real(self, name: str, q: Any) -> Any:
        """Return the reals of an int8 tensor: one dequantization for every reader, as XNNPACK's patterns want."""
        import torch

        ops: Any = torch.ops.quantized_decomposed
        r = self.reals[name]
        return ops.dequantize_per_tensor(q, r.scale, r.zero_point, -128, 127, torch.int8)

    def limited(self, name: str, x: Any, qmin: int, qmax: int) -> Any:
        """Clamp to the reals of an int8 range that is narrower than int8."""
        import torch

        if (qmin, qmax) == (-128, 127):
            return x
        r = self.reals[name]
        return torch.nn.functional.hardtanh(x, (qmin - r.zero_point) * r.scale, (qmax - r.zero_point) * r.scale)


def _axis(x: Any, axis: int) -> int:
    """Return where an axis of the graph is: rank 4 is kept as [N, C, H, W]."""
    return _TO_PLANES.index(axis) if x.dim() == 4 else axis


def _rows(x: Any) -> Any:
    return x.permute(_TO_ROWS) if x.dim() == 4 else x


def _stored(x: Any) -> Any:
    return x.permute(_TO_PLANES) if x.dim() == 4 else x


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
    return f.avg_pool2d(x, kernel, op.stride, (top, left), count_include_pad=not (top or left))


def _mean(k: Builder, node: Node, x: Any) -> Any:
    assert isinstance(node.op, ReduceSum)
    return x.mean([_axis(x, a) for a in node.op.axes], keepdim=True)


def _pad(k: Builder, node: Node, x: Any) -> Any:
    import torch

    assert isinstance(node.op, Pad)
    r = k.reals[node.inputs[0]]
    order = _TO_PLANES if x.dim() == 4 else range(x.dim())
    flat = [n for axis in reversed(order) for n in node.op.padding[axis]]
    return torch.nn.functional.pad(x, flat, value=(node.op.value - r.zero_point) * r.scale)


def _slice(k: Builder, node: Node, x: Any) -> Any:
    assert isinstance(node.op, Slice)
    for axis, (b, n, s) in enumerate(zip(node.op.start, node.op.size, node.op.steps(), strict=True)):
        x = x[(slice(None),) * _axis(x, axis) + (slice(b, b + (n - 1) * s + 1, s),)]
    return x


def _softmax(k: Builder, node: Node, x: Any) -> Any:
    import torch

    second = int(k.graph.constants[node.inputs[1]][1])
    if second < 1:
        raise UnsupportedError(f"node '{node.output}': the softmax is too steep to have a scale")
    step = -math.log(second / 2**31) / k.reals[node.inputs[0]].scale
    return torch.softmax(x * step, _axis(x, x.dim() - 1))


def _reshape(k: Builder, node: Node, x: Any) -> Any:
    assert isinstance(node.op, Reshape)
    rows = x if x.dim() == 4 and x.shape[2:] == (1, 1) else _rows(x)
    return _stored(rows.reshape(node.op.shape))


def _concat(k: Builder, node: Node, *xs: Any) -> Any:
    import torch

    assert isinstance(node.op, Concat)
    return torch.cat(xs, _axis(xs[0], node.op.axis))


FLOAT: dict[type[Op], Callable[..., Any]] = {
    Conv2D: _convolution,
    DepthwiseConv2D: _convolution,
    FullyConnected: _fully_connected,
    Add: lambda k, node, a, b: a + b,
    Sub: lambda k, node, a, b: a - b,
    Mul: lambda k, node, a, b: a * b,
    AvgPool2D: _pool,
    MaxPool2D: _pool,
    ReduceSum: _mean,
    Rescale: lambda k, node, x: x,
    Clamp: lambda k, node, x: x,
    Reshape: _reshape,
    Transpose: lambda k, node, x: _stored(_rows(x).permute(node.op.perm)),
    Concat: _concat,
    Pad: _pad,
    Slice: _slice,
    Softmax: _softmax,
}


def _evaluate(k: Builder, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    import torch

    values: dict[str, Any] = {}
    for port, x in zip(k.graph.inputs, inputs, strict=True):
        r = k.reals[port.name]
        values[port.name] = k.quantized(port.name, (_stored(x).to(torch.float32) - r.zero_point) * r.scale)
    for node in k.graph.nodes:
        operands = [k.real(i, values[i]) for i in node.inputs if i in values]
        y = FLOAT[type(node.op)](k, node, *operands)
        clamping = isinstance(node.op, Clamp | Rescale | MaxPool2D | AvgPool2D)
        limits: Any = node.op if clamping else getattr(node.op, "requant", None)
        if limits is not None:
            y = k.limited(node.output, y, limits.qmin, limits.qmax)
        values[node.output] = k.quantized(node.output, y)
    results = []
    for port in k.graph.outputs:
        r = k.reals[port.name]
        q = torch.round(k.real(port.name, values[port.name]) * (1 / r.scale)) + r.zero_point
        results.append(_rows(q.clamp(-128, 127).to(torch.int8)))
    return tuple(results)


def _check(graph: Graph) -> None:
    constants = {i for n in graph.nodes if not isinstance(n.op, Softmax) for i in n.inputs[:1] if i in graph.constants}
    ports = [p for p in (*graph.inputs, *graph.outputs) if p.type.dtype is not DType.INT8]
    if constants or ports or any(p.name in graph.constants for p in graph.outputs):
        raise UnsupportedError("its ports must be int8 and its operands computed")


def build_module(graph: Graph) -> Any:
    """Return the graph as a torch.nn.Module of (dequantize, float op, quantize): int8 in and out, shapes kept.

    Raises UnsupportedError where the graph has no float form (tables, shifts, int16, weights with a zero point).
    """
    import torch

    require("torch.ao.quantization.fx._decomposed")
    _check(graph)
    builder = Builder(graph, recover(graph))
    builder.prepare()

    class Program(torch.nn.Module):  # type: ignore[misc]
        def forward(self, *inputs: Any) -> Any:
            return _evaluate(builder, inputs)

    module = Program()
    for i, array in enumerate(builder.buffers.values()):
        module.register_buffer(f"k{i}", torch.from_numpy(array.copy()))
    builder.module = module
    return module


def lower(graph: Graph) -> Any:
    """Return the graph as an ExecutorchProgramManager that calls XNNPACK; UnsupportedError as ``build_module``."""
    import torch

    module = build_module(graph)
    exir, partition = require("executorch.exir"), require("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    exported = torch.export.export(module, tuple(example(p.type) for p in graph.inputs), strict=False)
    edge = exir.to_edge_transform_and_lower(exported, partitioner=[partition.XnnpackPartitioner()])
    return edge.to_executorch()


def delegates(program: Any) -> int:
    """Return how many parts of a lowered program run in a delegate."""
    return sum(len(plan.delegates) for plan in program.executorch_program.execution_plan)
