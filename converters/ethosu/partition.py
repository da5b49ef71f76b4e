"""Which nodes the NPU computes: Vela is asked, node by node where it does not take the graph as a whole.

A step is a part of the graph that runs in one place. A softmax_matmul that Vela refuses is taken apart: the
exponentials and the normalisation stay on the CPU, the product, which has all the multiplications, goes to the NPU.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bitship.converters.ethosu.vela import Compiled, Vela
from bitship.converters.tosa import program
from bitship.errors import UnsupportedError
from bitship.graph import DType, Graph, GraphBuilder, Node, Port, ops
from bitship.graph.base import Interval, TensorType

LAYOUT = (ops.Reshape, ops.Transpose, ops.Slice, ops.Concat, ops.Pad, ops.Gather)
CODES, ACCUMULATOR = ".codes", ".accumulator"
ONLY_MOVES = "only moves elements between nodes of the CPU"
PRODUCT = "the product runs on the NPU, the exponentials and the normalisation on the CPU: "


class Kind(enum.Enum):
    """Where a step runs; PRODUCT is the product of a softmax_matmul, between the two halves of its node."""

    NPU = "npu"
    CPU = "cpu"
    PRODUCT = "product"


@dataclass(frozen=True)
class Step:
    """Nodes that run one after the other in one place; of the NPU's, their graph, TOSA program and command stream."""

    kind: Kind
    nodes: tuple[Node, ...]
    graph: Graph | None = None
    program: bytes = b""
    compiled: Compiled | None = None


@dataclass
class Partition:
    """The steps in order of execution, and for every node that Vela refuses the reason."""

    steps: list[Step] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def part(graph: Graph, nodes: Sequence[Node], name: str) -> Graph:
    """Return some nodes as a graph: what they read from outside are its inputs, what others read its outputs."""
    made = {n.output for n in nodes}
    inside = {id(n) for n in nodes}
    read = {i for n in graph.nodes if id(n) not in inside for i in n.inputs} | {p.name for p in graph.outputs}
    needed = list(dict.fromkeys(i for n in nodes for i in n.inputs if i not in made and i not in graph.constants))
    quants = {p.name: p.quant for p in (*graph.inputs, *graph.outputs)}

    def port(tensor: str) -> Port:
        return Port(tensor, graph.types[tensor], quants.get(tensor))

    return Graph(
        name=name,
        inputs=tuple(port(i) for i in needed),
        outputs=tuple(port(n.output) for n in nodes if n.output in read),
        nodes=tuple(nodes),
        constants={i: graph.constants[i] for n in nodes for i in n.inputs if i in graph.constants},
    )


def product_graph(graph: Graph, node: Node) -> Graph:
    """Return the product of a softmax_matmul: int8 codes (less 128) by v, int32."""
    op = node.op
    assert isinstance(op, ops.SoftmaxMatMul)
    b = GraphBuilder(f"{node.output} product")
    codes = b.input(node.output + CODES, graph.types[node.inputs[0]].shape, DType.INT8)
    v = b.input(node.inputs[1], graph.types[node.inputs[1]].shape, DType.INT8)
    product = ops.MatMul(a_zero_point=-128, b_zero_point=op.v_zero_point)
    return b.finish([(b.node(node.output + ACCUMULATOR, product, codes, v), None)])


def partition(graph: Graph, ranges: Mapping[str, Interval], vela: Vela) -> Partition:
    """Return the steps of a graph for one accelerator."""
    whole = _compiled(graph, graph.nodes, ranges, vela)
    if isinstance(whole, Step):
        return Partition([whole])
    found = Partition()
    places: dict[tuple[object, ...], str] = {}
    runs: list[tuple[bool, list[Node]]] = []
    for node in graph.nodes:
        key = (node.op, *(_kind(graph, i) for i in node.inputs))
        if key not in places:
            alone = _compiled(graph, [node], ranges, vela)
            places[key] = alone if isinstance(alone, str) else ""
        if places[key]:
            found.reasons[node.output] = places[key]
        if not runs or runs[-1][0] is bool(places[key]):
            runs.append((not places[key], []))
        runs[-1][1].append(node)
    for taken, nodes in runs:
        _add(found, graph, taken, nodes, ranges, vela)
    return found


def _kind(graph: Graph, name: str) -> tuple[TensorType, bool]:
    return graph.types[name], name in graph.constants


def _add(
    found: Partition, graph: Graph, taken: bool, nodes: list[Node], ranges: Mapping[str, Interval], vela: Vela
) -> None:
    if taken and all(isinstance(n.op, LAYOUT) for n in nodes):
        found.reasons.update({n.output: ONLY_MOVES for n in nodes})
        found.steps.append(Step(Kind.CPU, tuple(nodes)))
    elif taken:
        step = _compiled(graph, nodes, ranges, vela)
        if isinstance(step, str):  # each alone, but not together
            found.reasons.update({n.output: step for n in nodes})
            step = Step(Kind.CPU, tuple(nodes))
        found.steps.append(step)
    else:
        for node in nodes:
            found.steps.append(_refused(found, graph, node, vela))


def _refused(found: Partition, graph: Graph, node: Node, vela: Vela) -> Step:
    if isinstance(node.op, ops.SoftmaxMatMul):
        small = product_graph(graph, node)
        body = program.emit(small).finish()
        made = vela.compile(body)
        if not isinstance(made, str):
            found.reasons[node.output] = PRODUCT + found.reasons[node.output]
            return Step(Kind.PRODUCT, (node,), small, body, made)
    return Step(Kind.CPU, (node,))


def _compiled(graph: Graph, nodes: Sequence[Node], ranges: Mapping[str, Interval], vela: Vela) -> Step | str:
    """Return the nodes as a step of the NPU, or why Vela refuses them."""
    small = part(graph, nodes, f"{graph.name} part")
    try:
        body = program.emit(small, ranges).finish()
    except UnsupportedError as e:
        return str(e)
    made = vela.compile(body)
    return made if isinstance(made, str) else Step(Kind.NPU, tuple(nodes), small, body, made)
