"""ExecuTorch's Cortex-M back end: the graph as ``cortex_m`` ops, which a device's build computes with CMSIS-NN.

Its passes fold (dequantize, op, quantize) into one op where the op is marked for it; what is marked here is what they
replace, so that no op is left to compute on codes as if they were reals. Parameters are the graph's: weights keep
their scales, biases their codes, clamps are the range of the op's result, a mean is a depthwise convolution by ones.

The program takes an image as [N, C, H, W] in channels-last order, which is the graph's [N, H, W, C] byte for byte.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitship.converters import floats
from bitship.converters.executorch.floating import FLOAT, NAME, Builder, check_ports, node_reals, to_planes, to_rows
from bitship.converters.executorch.program import example, require
from bitship.converters.floats import TO_PLANES
from bitship.converters.measure import INPUTS, Difference, measure, random_inputs
from bitship.converters.placement import Place, Placed, placed
from bitship.converters.scales import factors, narrow, recover
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
    MatMul,
    MaxPool2D,
    Mul,
    Op,
    Pad,
    ReduceSum,
    Rescale,
    Reshape,
    Slice,
    Softmax,
    Transpose,
)

MARK = {"_arm_annotation_info": {"quantized": True}}
_MOVES = (Reshape, Transpose, Concat, Slice, Gather)
_MOVED = ("view_copy", "cat", "slice_copy", "index_select", "clone", "_clone_dim_order", "getitem", "alloc")
_SOFTMAX_SCALE, _SOFTMAX_ZERO = 1 / 256, -128
_IMAGES = ("quantized_conv2d", "quantized_depthwise_conv2d", "quantized_avg_pool2d", "quantized_max_pool2d")
_MANY_MACS = 100_000_000  # from which on one input is measured: the reference is slow
_NEARLY = 1e-6


class _Builder(Builder):
    """The float form's constants, with biases in the codes that CMSIS-NN adds."""

    def prepare(self) -> None:
        """As the float form's; UnsupportedError likewise."""
        super().prepare()
        for node in self.graph.nodes:
            if not isinstance(node.op, Conv2D | DepthwiseConv2D | FullyConnected | ReduceSum) or self.why(node):
                continue
            source, out = self.reals[node.inputs[0]].scale, self.reals[node.output].scale
            if isinstance(node.op, ReduceSum):
                channels = self.graph.types[node.inputs[0]].shape[3]
                height, width = self.graph.types[node.inputs[0]].shape[1:3]
                w = np.ones((channels, 1, height, width), np.int8)
                scales = np.full(channels, max(factors(node.op.requant)[0], floats.LEAST_FACTOR) * out / source)
                bias = np.zeros(channels, np.int32)
            else:
                w, scales, bias = floats.weights(self.graph, self.reals, node)
            if isinstance(node.op, FullyConnected):
                if (scales == scales[0]).all():
                    self.buffers[f"{node.output}_d"] = np.zeros(1, np.int8)  # it has one scale
                else:
                    w = w[..., None, None]
            self.buffers[f"{node.output}_w"] = np.ascontiguousarray(w)
            self.buffers[f"{node.output}_s"] = scales
            self.buffers[f"{node.output}_z"] = np.zeros(scales.shape, np.int64)
            self.buffers[f"{node.output}_q"] = bias.astype(np.int32)
            self.buffers[f"{node.output}_r"] = scales * source

    def weight(self, node: Node) -> tuple[Any, Any]:
        """Return (weights, bias), both dequantized by channel; float where the layer is not the back end's."""
        import torch

        if f"{node.output}_q" not in self.buffers:
            return super().weight(node)
        ops: Any = torch.ops.quantized_decomposed
        w, s, z, q, r = (self.get(f"{node.output}_{c}") for c in "wszqr")
        real = ops.dequantize_per_channel(w, s, z, 0, -128, 127, torch.int8)
        return real, ops.dequantize_per_channel(q, r, z, 0, -(1 << 31), (1 << 31) - 1, torch.int32)

    def dense(self, node: Node) -> tuple[Any, Any]:
        """Return (weights, bias) of a fully connected layer with one scale."""
        import torch

        ops: Any = torch.ops.quantized_decomposed
        s, r = (float(self.buffers[f"{node.output}_{c}"][0]) for c in "sr")
        w, q = (self.get(f"{node.output}_{c}") for c in "wq")
        real = ops.dequantize_per_tensor(w, s, 0, -128, 127, torch.int8)
        return real, ops.dequantize_per_tensor(q, r, 0, -(1 << 31), (1 << 31) - 1, torch.int32)

    def codes(self, node: Node, x: Any) -> Any:
        """Return a node's result as codes, limited to what its op allows; reals where it is wider than int8."""
        import torch

        if not narrow(self.graph, node.output):
            return self.limited(node, x)
        ops: Any = torch.ops.quantized_decomposed
        r, limits = self.reals[node.output], floats.code_limits(self.graph, node) or (-128, 127)
        return ops.quantize_per_tensor(x, r.scale, r.zero_point, *limits, torch.int8)

    def alike(self, node: Node) -> bool:
        """Whether a node's tensors are int8 with one scale and zero point."""
        names = [*(i for i in node.inputs if i not in self.graph.constants), node.output]
        first = self.reals[node.output]
        return all(
            narrow(self.graph, n)
            and abs(self.reals[n].scale / first.scale - 1) < _NEARLY
            and self.reals[n].zero_point == first.zero_point
            for n in names
        )

    def why(self, node: Node) -> str:
        """Return why a node is not the back end's; empty where it is."""
        op, shapes = node.op, [self.graph.types[i].shape for i in (*node.inputs, node.output)]
        known = [i for i in node.inputs if i not in self.graph.constants]
        if not all(narrow(self.graph, n) for n in (*known, node.output)):
            return "cortex_m ops are int8 to int8"
        if isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected):
            return "its weights are computed" if len(known) != 1 else ""
        if isinstance(op, _MOVES):
            return "" if self.alike(node) else "it moves between different scales"
        if isinstance(op, Rescale | Clamp):
            return ""
        found = _REFUSED.get(type(op))
        return f"{op.name} has no cortex_m op" if found is None else found(self, node, shapes)


Shapes = list[tuple[int, ...]]


def _add(k: _Builder, node: Node, shapes: Shapes) -> str:
    computed = not any(i in k.graph.constants for i in node.inputs)
    return "" if computed and len(set(shapes)) == 1 else "cortex_m does not broadcast, nor take a constant"


def _pool(k: _Builder, node: Node, shapes: Shapes) -> str:
    limited = isinstance(node.op, AvgPool2D) and floats.code_limits(k.graph, node) is not None
    return "" if k.alike(node) and not limited else "cortex_m pools keep scale and range"


def _mean(k: _Builder, node: Node, shapes: Shapes) -> str:
    op = node.op
    assert isinstance(op, ReduceSum)
    whole = len(shapes[0]) == 4 and op.axes == (1, 2) and op.requant is not None and len(op.requant.multiplier) == 1
    return "" if whole and shapes[0][0] == 1 else "cortex_m has sums over an image's rows and columns alone"


def _softmax(k: _Builder, node: Node, shapes: Shapes) -> str:
    r = k.reals[node.output]
    right = abs(r.scale / _SOFTMAX_SCALE - 1) < _NEARLY and r.zero_point == _SOFTMAX_ZERO
    return "" if right else "cortex_m.softmax gives steps of 1/256 from -128 on"


def _product(k: _Builder, node: Node, shapes: Shapes) -> str:
    if any(i in k.graph.constants for i in node.inputs):
        return "cortex_m multiplies computed tensors"
    if floats.product_factor(k.reals, node) != 1 or floats.code_limits(k.graph, node) is not None:
        return "cortex_m multiplies without a factor or a range of its own"
    if isinstance(node.op, MatMul):
        return "" if all(len(s) == 3 for s in shapes) else "cortex_m.quantized_batch_matmul takes rank 3"
    return "" if len(set(shapes)) == 1 else "cortex_m.quantized_mul does not broadcast"


def _pad(k: _Builder, node: Node, shapes: Shapes) -> str:
    return "" if k.alike(node) and len(shapes[0]) <= 4 else "cortex_m.pad keeps the scale, to rank 4"


_REFUSED: dict[type[Op], Any] = {
    Add: _add,
    AvgPool2D: _pool,
    MaxPool2D: _pool,
    ReduceSum: _mean,
    Softmax: _softmax,
    MatMul: _product,
    Mul: _product,
    Pad: _pad,
}


def _fully_connected(k: _Builder, node: Node, x: Any) -> Any:
    """Return codes; a layer with a scale for each channel is a convolution of 1 x 1, as cortex_m's has but one."""
    import torch

    if f"{node.output}_d" in k.buffers:
        return k.codes(node, torch.nn.functional.linear(k.real(node.inputs[0], x), *k.dense(node)))
    rows = x.reshape(-1, x.shape[-1], 1, 1)
    y = k.codes(node, torch.conv2d(k.real(node.inputs[0], rows), *k.weight(node)))
    return y.reshape(*x.shape[:-1], y.shape[1])


def _codes(k: _Builder, node: Node, values: dict[str, Any]) -> Any:
    """Return a marked node's codes."""
    import torch

    first = values.get(node.inputs[0])
    if isinstance(node.op, _MOVES):
        return FLOAT[type(node.op)](k, node, *(values[i] for i in node.inputs if i in values))
    if isinstance(node.op, FullyConnected):
        return _fully_connected(k, node, first)
    if isinstance(node.op, ReduceSum):
        x = k.real(node.inputs[0], first)
        y = torch.conv2d(x, *k.weight(node), groups=x.shape[1])
    elif isinstance(node.op, Softmax):
        ops: Any = torch.ops.quantized_decomposed
        r, step = k.reals[node.inputs[0]], floats.softmax_step(k.graph, k.reals, node)
        x = ops.dequantize_per_tensor(first, r.scale * step, r.zero_point, -128, 127, torch.int8)
        last = len(k.graph.types[node.output].shape) - 1
        y = torch.softmax(x, TO_PLANES.index(last) if x.dim() == 4 else last)
    else:
        y = FLOAT[type(node.op)](k, node, *(k.real(i, values[i]) for i in node.inputs if i in values))
    return k.codes(node, y)


def _evaluate(k: _Builder, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    import torch
    from torch.fx.traceback import annotate

    values: dict[str, Any] = {}
    for port, x in zip(k.graph.inputs, inputs, strict=True):
        r = k.reals[port.name]
        values[port.name] = x if x.dtype == torch.int8 else (x.to(torch.float32) - r.zero_point) * r.scale
    for node in k.graph.nodes:
        why = k.why(node)
        with annotate({NAME: node.output} | ({} if why else MARK)):
            value = k.codes(node, node_reals(k, node, values)) if why else _codes(k, node, values)
            if value.dim() == 4 and (why or isinstance(node.op, _MOVES)):
                value = value.clone(memory_format=torch.channels_last)  # the order CMSIS-NN reads
            values[node.output] = value
    results = []
    for port in k.graph.outputs:
        value, r, dtype = values[port.name], k.reals[port.name], port.type.dtype
        if value.dtype != torch.int8:
            q = torch.round(value * (1 / r.scale)) + r.zero_point
            value = q.clamp(dtype.qmin, dtype.qmax).to(getattr(torch, dtype.value))
        results.append(to_rows(value))
    return tuple(results)


@dataclass(frozen=True)
class Program:
    """What the back end made: the program's bytes, where the nodes run, and how far its reference is from the graph."""

    buffer: bytes
    nodes: tuple[Placed, ...]
    difference: Difference


class _Reference:
    """The lowered program through executorch's own Python reference of each cortex_m op."""

    def __init__(self, program: Any, graph: Graph) -> None:
        self._module = program.module()
        self._graph = graph

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes."""
        import torch

        found = self._module(*(_fed(torch.from_numpy(np.ascontiguousarray(x))) for x in inputs))
        return tuple(
            np.ascontiguousarray(y.numpy()).reshape(p.type.shape)
            for y, p in zip(found, self._graph.outputs, strict=True)
        )

    def close(self) -> None:
        """Nothing is held."""


def _fed(x: Any) -> Any:
    """Return an input as the program takes it: the same bytes."""
    return to_planes(x)


def _core(cpu: str) -> Any:
    config = require("executorch.backends.cortex_m.target_config")
    name = cpu.removeprefix("cortex-").upper()
    if name not in config.CortexM.__members__:
        known = ", ".join(f"cortex-{n.lower()}" for n in config.CortexM.__members__)
        raise UnsupportedError(f"cortex-m: the target's core is {cpu}; ExecuTorch's back end knows {known}")
    return config.CortexMTargetConfig(cpu=config.CortexM[name])


def lower(graph: Graph, cpu: str) -> Program:
    """Return a graph's program for one core (``cortex-m55``), measured against the graph by its Python reference.

    UnsupportedError for a core or a graph that the back end does not take.
    """
    import torch
    from torch.fx.traceback import preserve_node_meta

    exir, core = require("executorch.exir"), _core(cpu)
    passes = require("executorch.backends.cortex_m.passes.cortex_m_pass_manager")
    check_ports(graph)
    k = _Builder(graph, recover(graph))
    k.prepare()

    class Module(torch.nn.Module):  # type: ignore[misc]
        def forward(self, *inputs: Any) -> Any:
            return _evaluate(k, inputs)

    k.module = Module()
    for i, array in enumerate(k.buffers.values()):
        k.module.register_buffer(f"k{i}", torch.from_numpy(array.copy()))
    with preserve_node_meta():
        fed = tuple(_fed(example(p.type)) for p in graph.inputs)
        exported = torch.export.export(k.module, fed, strict=False)
    config = exir.EdgeCompileConfig(
        preserve_ops=[torch.ops.aten.linear.default],
        _check_ir_validity=False,
        _core_aten_ops_exception_list=[torch.ops.aten.max_pool2d.default],
    )
    edge = exir.to_edge(exported, compile_config=config)
    made = passes.CortexMPassManager(edge.exported_program(), target_config=core).transform()
    nodes = _placed(k, made)
    _check_layout(made)
    rows = random_inputs(graph, INPUTS if graph.macs < _MANY_MACS else 1)
    difference = measure(graph, _Reference(made, graph), rows)
    edge._edge_programs["forward"] = made  # as executorch's own tests of the back end do
    return Program(bytes(edge.to_executorch().buffer), nodes, difference)


def _ops(program: Any) -> Iterator[tuple[str | None, str]]:
    """Yield (the graph's node, None at the borders; the op's name) of everything that the program calls."""
    for node in program.graph_module.graph.nodes:
        if node.op == "call_function":
            name = str(getattr(node.target, "__name__", node.target)).removeprefix("aten.")
            yield (node.meta.get("custom") or {}).get(NAME), name


def _check_layout(program: Any) -> None:
    """Raise UnsupportedError where an image reaches CMSIS-NN in another order than channels last."""
    import torch

    for node in program.graph_module.graph.nodes:
        name = str(getattr(node.target, "__name__", node.target)) if node.op == "call_function" else ""
        if name.startswith("cortex_m.") and name.split(".")[1] in _IMAGES:
            x = node.args[0].meta["val"]
            if not x.is_contiguous(memory_format=torch.channels_last):
                raise UnsupportedError(f"cortex-m: {name} would read {node.args[0]} in an order that is not its own")


def _placed(k: _Builder, program: Any) -> tuple[Placed, ...]:
    """Return where every node of the graph runs: on the back end what became its ops alone.

    UnsupportedError where the passes left something of a node that is marked, or anything at a border of int8.
    """
    taken: set[str] = set()
    narrow_ports = all(p.type.dtype is DType.INT8 for p in (*k.graph.inputs, *k.graph.outputs))
    left: dict[str, list[str]] = {}
    for name, op in _ops(program):
        moves = op.startswith(_MOVED)
        if name is None and narrow_ports and not moves and not op.startswith("cortex_m."):
            raise UnsupportedError(f"cortex-m: the back end left {op}, which is no node's")
        if name is not None and op.startswith("cortex_m."):
            taken.add(name)
        elif name is not None and not moves:
            left.setdefault(name, []).append(op)
    found = []
    for node in k.graph.nodes:
        if node.output in left:
            why = k.why(node)
            if not why:
                raise UnsupportedError(f"node '{node.output}': the back end left {', '.join(left[node.output])} of it")
            said = f"{why}: the portable kernels compute {', '.join(dict.fromkeys(left[node.output]))}"
            found.append(placed(k.graph, node, Place.CPU, said))
        else:
            found.append(placed(k.graph, node, Place.DELEGATE if node.output in taken else Place.FOLDED))
    return tuple(found)
