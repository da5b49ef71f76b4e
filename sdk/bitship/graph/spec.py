"""Run a graph through its executable specification: slow, in int64, the judge of everything else."""

from collections.abc import Iterator

import numpy as np

from bitship.graph.base import Array
from bitship.graph.ir import Graph


def trace(graph: Graph, *inputs: Array) -> Iterator[tuple[str, Array]]:
    """Yield (tensor name, value) for every node in execution order."""
    graph.check_inputs(inputs)
    values: dict[str, Array] = dict(graph.constants)
    values.update((p.name, a) for p, a in zip(graph.inputs, inputs, strict=True))
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    keep = {p.name for p in graph.outputs}
    for i, node in enumerate(graph.nodes):
        values[node.output] = np.asarray(node.op.run(*(values[name] for name in node.inputs)))
        yield node.output, values[node.output]
        for name in node.inputs:
            if last_use[name] == i and name not in keep:
                values.pop(name, None)


def run(graph: Graph, *inputs: Array) -> tuple[Array, ...]:
    """Return the outputs of a graph for inputs of its exact shapes and dtypes; GraphError otherwise."""
    wanted = {p.name for p in graph.outputs}
    found: dict[str, Array] = {k: v for k, v in graph.constants.items() if k in wanted}
    found.update((p.name, a) for p, a in zip(graph.inputs, inputs, strict=False))
    for name, value in trace(graph, *inputs):
        if name in wanted:
            found[name] = value
    return tuple(found[p.name] for p in graph.outputs)
