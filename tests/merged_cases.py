"""Many cases as one graph, so that one image of a device runs them all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from device_cases import DEVICE_CASES
from op_builders import Case
from op_cases import CASES
from transformer_cases import TRANSFORMER_CASES
from vector_cases import VECTOR_CASES

from bitship.graph import Graph, Node, Port
from bitship.graph.base import Array

COMMON_CASES = CASES | TRANSFORMER_CASES  # what every back end is tested on; the others are for kernels of devices
ALL_CASES = CASES | DEVICE_CASES | TRANSFORMER_CASES | VECTOR_CASES


def _renamed(graph: Graph, prefix: str) -> Graph:
    def ports(found: Sequence[Port]) -> tuple[Port, ...]:
        return tuple(Port(f"{prefix}.{p.name}", p.type, p.quant) for p in found)

    return Graph(
        name=prefix,
        inputs=ports(graph.inputs),
        outputs=ports(graph.outputs),
        nodes=tuple(Node(n.op, tuple(f"{prefix}.{i}" for i in n.inputs), f"{prefix}.{n.output}") for n in graph.nodes),
        constants={f"{prefix}.{k}": v for k, v in graph.constants.items()},
        packing={f"{prefix}.{k}": v for k, v in graph.packing.items()},
    )


def merge(names: Sequence[str]) -> tuple[Graph, list[tuple[Array, ...]]]:
    """Return one graph of all named cases side by side, and its feeds: row i has row i of every case."""
    return join({name: ALL_CASES[name]() for name in names})


def join(made: Mapping[str, Case]) -> Case:
    """Return one graph of all graphs side by side, and its feeds: row i has row i of every graph."""
    whole = Graph(name="cases", inputs=(), outputs=(), nodes=())
    for name, (graph, _) in made.items():
        part = _renamed(graph, name)
        whole = replace(
            whole,
            inputs=whole.inputs + part.inputs,
            outputs=whole.outputs + part.outputs,
            nodes=whole.nodes + part.nodes,
            constants={**whole.constants, **part.constants},
            packing={**whole.packing, **part.packing},
        )
    rows = min(len(feeds) for _, feeds in made.values())
    return whole, [tuple(a for _, feeds in made.values() for a in feeds[i]) for i in range(rows)]


def groups(budget_bytes: int) -> list[list[str]]:
    """Split all cases, in order, so that the tensors of a group take at most about ``budget_bytes``."""
    result: list[list[str]] = [[]]
    used = 0
    for name, make in ALL_CASES.items():
        graph = make()[0]
        need = sum(t.nbytes for n, t in graph.types.items() if n not in graph.constants) + 16 * len(graph.types)
        if result[-1] and used + need > budget_bytes:
            result.append([])
            used = 0
        result[-1].append(name)
        used += need
    return result
