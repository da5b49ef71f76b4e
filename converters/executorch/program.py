"""From an integer graph to an ExecuTorch program: a torch module of the graph, exported and lowered."""

import sys
from functools import partial
from typing import Any

import numpy as np

from bitship import extras
from bitship.converters.executorch.arithmetic import Constants, torch_dtype
from bitship.converters.executorch.ops import LOWERINGS
from bitship.converters.executorch.values import Value
from bitship.errors import UnsupportedError
from bitship.graph import Graph
from bitship.graph.base import TensorType

_DEEP = 100_000


require = partial(extras.require, extra="executorch", what="executorch converter")


def evaluate(graph: Graph, constants: Constants, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the graph's outputs in torch ops; UnsupportedError names a node without a lowering.

    Tensors of rank 0 have shape (1,) in between: torch would promote their dtype as it does a Python number's.
    """
    values = {
        name: Value.constant(constants, np.atleast_1d(array), graph.packing.get(name))
        for name, array in graph.constants.items()
    }
    values.update((p.name, Value(x if x.dim() else x.reshape(1))) for p, x in zip(graph.inputs, inputs, strict=True))
    computed = {n.output for n in graph.nodes}
    for node in graph.nodes:
        lower = LOWERINGS.get(type(node.op))
        if lower is None:
            raise UnsupportedError(f"executorch: node '{node.output}': no lowering for {node.op.name}")
        found = lower(constants, node.op, *(values[i] for i in node.inputs))
        values[node.output] = found if graph.types[node.output].shape else Value(found.rows.reshape(1))
    results, seen = [], set()
    for port in graph.outputs:
        rows = values[port.name].rows
        tensor = rows if port.type.shape else rows.reshape(())
        results.append(tensor if port.name in computed and port.name not in seen else tensor.clone())
        seen.add(port.name)
    return tuple(results)


def example(t: TensorType) -> Any:
    """Return a tensor of zeros of the type."""
    import torch

    return torch.zeros(t.shape, dtype=torch_dtype(t.dtype))


def build_module(graph: Graph) -> Any:
    """Return a torch.nn.Module that computes the graph's bits, with its constants as buffers."""
    import torch
    from torch._subclasses import FakeTensorMode

    constants = Constants()

    class Program(torch.nn.Module):  # type: ignore[misc]
        def forward(self, *inputs: Any) -> Any:
            return evaluate(graph, constants, inputs)

    module = Program()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        module(*(mode.from_tensor(example(p.type)) for p in graph.inputs))
    constants.bind(module)
    return module


def export(graph: Graph) -> Any:
    """Return the graph as a torch.export.ExportedProgram."""
    import torch

    module = build_module(graph)
    return torch.export.export(module, tuple(example(p.type) for p in graph.inputs), strict=False)


def lower(graph: Graph) -> Any:
    """Return the graph as an ExecutorchProgramManager of portable kernels alone."""
    import torch

    exir = require("executorch.exir")
    aten: Any = torch.ops.aten
    kept = [
        aten.bitwise_right_shift.Tensor,
        aten.bitwise_right_shift.Tensor_Scalar,
        aten.bitwise_left_shift.Tensor,
    ]
    config = exir.EdgeCompileConfig(_check_ir_validity=False, _core_aten_ops_exception_list=kept)
    depth = sys.getrecursionlimit()
    sys.setrecursionlimit(max(depth, _DEEP))
    try:
        return exir.to_edge(export(graph), compile_config=config).to_executorch()
    finally:
        sys.setrecursionlimit(depth)


def arena_bytes(program: Any) -> int:
    """Bytes of planned memory a lowered program needs for its tensors."""
    return sum(int(n) for plan in program.executorch_program.execution_plan for n in plan.non_const_buffer_sizes)
