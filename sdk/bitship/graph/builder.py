"""Build a graph node by node: what importers, the quantizer and tests write with."""

import numpy as np

from bitship.errors import GraphError
from bitship.graph.base import Array, TensorType
from bitship.graph.dtypes import DType
from bitship.graph.ir import Graph, Node, Port, Quant
from bitship.graph.ops import AnyOp
from bitship.graph.packing import Packing


class GraphBuilder:
    """Collects ports, constants and nodes; types are inferred as nodes are added, names are made unique.

    fold  compute a node whose operands are all constant at once, and add a constant instead
    """

    def __init__(self, name: str, fold: bool = False) -> None:
        self.name = name
        self.fold = fold
        self.types: dict[str, TensorType] = {}
        self.constants: dict[str, Array] = {}
        self.packing: dict[str, Packing] = {}
        self._by_bytes: dict[tuple[str, tuple[int, ...], bytes, Packing | None], str] = {}
        self._inputs: list[Port] = []
        self._nodes: list[Node] = []

    def _unique(self, name: str) -> str:
        base, n = name or "t", 1
        while name in self.types or not name:
            n += 1
            name = f"{base}#{n}"
        return name

    def input(self, name: str, shape: tuple[int, ...], dtype: DType, quant: Quant | None = None) -> str:
        """Declare a graph input and return its name."""
        name = self._unique(name)
        self.types[name] = TensorType(tuple(int(n) for n in shape), dtype)
        self._inputs.append(Port(name, self.types[name], quant))
        return name

    def constant(self, name: str, value: Array, packing: Packing | None = None) -> str:
        """Add a constant (or find the equal one there is) and return its name.

        packing  store it in four bits (`bitship.graph.packing`); `verify` refuses values that need more
        """
        value = np.ascontiguousarray(value).reshape(np.shape(value))
        key = (value.dtype.name, value.shape, value.tobytes(), packing)
        if key not in self._by_bytes:
            name = self._unique(name)
            self.types[name] = TensorType(tuple(value.shape), DType.of(value))
            self.constants[name] = value
            if packing is not None:
                self.packing[name] = packing
            self._by_bytes[key] = name
        return self._by_bytes[key]

    def node(self, name: str, op: AnyOp, *inputs: str) -> str:
        """Append a node and return the name of its output; GraphError names the node when the op refuses."""
        name = self._unique(name)
        try:
            self.types[name] = op.infer(*(self.types[i] for i in inputs))
        except GraphError as e:
            raise type(e)(f"{self.name}: node '{name}': {e}") from None
        if self.fold and all(i in self.constants for i in inputs):
            del self.types[name]
            return self.constant(name, op.run(*(self.constants[i] for i in inputs)))
        self._nodes.append(Node(op, tuple(inputs), name))
        return name

    def finish(self, outputs: list[tuple[str, Quant | None]]) -> Graph:
        """Return the graph with these outputs; nodes and constants nothing needs are left out."""
        needed = {name for name, _ in outputs}
        kept: list[Node] = []
        for node in reversed(self._nodes):
            if node.output in needed:
                needed.update(node.inputs)
                kept.append(node)
        return Graph(
            name=self.name,
            inputs=tuple(self._inputs),
            outputs=tuple(Port(name, self.types[name], quant) for name, quant in outputs),
            nodes=tuple(reversed(kept)),
            constants={k: v for k, v in self.constants.items() if k in needed},
            packing=self.packing,
        )
