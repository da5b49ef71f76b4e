"""Run a plan on this machine: TOSA's reference model in the NPU's place, the specification in the CPU's."""

from pathlib import Path

import numpy as np

from bitship.converters.ethosu import plan as plans
from bitship.converters.ethosu.partition import ACCUMULATOR, CODES, Kind, part, product_graph
from bitship.converters.tosa.session import TosaSession
from bitship.errors import FormatError
from bitship.graph import Graph, Node, ops
from bitship.graph.base import Array
from bitship.graph.ops.attention import codes, row_reciprocal


class PlanSession:
    """The steps of a plan, one after the other. It proves the programs and the hand-overs, not the command streams."""

    def __init__(self, path: Path, graph: Graph) -> None:
        self._graph = graph
        self._plan = plans.read(path)
        self._nodes = {n.output: n for n in graph.nodes}
        if self._plan.graph != graph.digest:
            raise FormatError(f"{path}: it is another graph's plan; export the package again")
        self._sessions: list[TosaSession | None] = []
        for run in self._plan.runs:
            nodes = [self._nodes[n] for n in run.nodes]
            small = product_graph(graph, nodes[0]) if run.kind is Kind.PRODUCT else part(graph, nodes, run.program)
            self._sessions.append(TosaSession(path.parent / run.program, small) if run.program else None)

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes; GraphError when they are of others."""
        self._graph.check_inputs(inputs)
        known: dict[str, Array] = dict(self._graph.constants)
        known.update(zip((p.name for p in self._graph.inputs), inputs, strict=True))
        for run, session in zip(self._plan.runs, self._sessions, strict=True):
            if session is None:
                for name in run.nodes:
                    node = self._nodes[name]
                    known[name] = node.op.run(*(known[i] for i in node.inputs))
            elif run.kind is Kind.PRODUCT:
                node = self._nodes[run.nodes[0]]
                known[node.output] = _around(node, known, session)
            else:
                found = session.run(*(known[t.name] for t in run.inputs))
                known.update(zip((t.name for t in run.outputs), found, strict=True))
        return tuple(known[p.name] for p in self._graph.outputs)

    def close(self) -> None:
        """End every process."""
        for session in self._sessions:
            if session is not None:
                session.close()


def _around(node: Node, known: dict[str, Array], session: TosaSession) -> Array:
    """Return a softmax_matmul whose product a session computes; the rest as the specification has it."""
    op = node.op
    assert isinstance(op, ops.SoftmaxMatMul)
    assert session.reads == (node.output + CODES, node.inputs[1])
    assert session.gives == (node.output + ACCUMULATOR,)
    x, v, table = (known[i] for i in node.inputs)
    e, r = codes(x, table, op.masked), op.requant
    (acc,) = session.run((e - 128).astype(np.int8), v)
    inverse, b = row_reciprocal(np.maximum(e.sum(axis=-1, keepdims=True), 1))
    m = (inverse * np.array(r.multiplier, np.int64) + (1 << 29)) >> 30
    down = 31 - np.array(r.shift, np.int64) + b
    y = (acc * m + (np.int64(1) << (down - 1))) >> down
    return np.asarray(np.clip(y + r.output_zero_point, r.qmin, r.qmax).astype(r.dtype.numpy))
