"""An ONNX model under construction: nodes, initializers, ports."""

from collections.abc import Sequence
from typing import Any

from bitship.errors import UnsupportedError
from bitship.extras import require
from bitship.graph import DType, Graph
from bitship.graph.base import Array

OPSET = 18
IR_VERSION = 8
LARGEST = (1 << 31) - (1 << 20)


class ModelBuilder:
    """Collects what ``encode`` writes; equal initializers are the caller's business.

    scope  what the names of nodes begin with: compilers report their work under these names
    """

    def __init__(self) -> None:
        self.onnx: Any = require("onnx", "onnx", "onnx converter")
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.scope = "n"

    def type_of(self, dtype: DType) -> int:
        """Return ONNX's number of a dtype."""
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(dtype.numpy))

    def initializer(self, array: Array, name: str = "") -> str:
        """Add a constant and return its name."""
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: Sequence[str], result: str = "", **attributes: Any) -> str:
        """Append a node and return its result's name."""
        name = result or f"t{len(self.nodes)}"
        self.nodes.append(
            self.onnx.helper.make_node(op, list(inputs), [name], name=f"{self.scope}.{len(self.nodes)}", **attributes)
        )
        return name

    def encode(self, graph: Graph, inputs: Sequence[str], outputs: Sequence[str], name: str) -> bytes:
        """Return the model's bytes; its ports have the graph's types, under these names."""
        helper = self.onnx.helper

        def ports(found: Sequence[Any], names: Sequence[str]) -> list[Any]:
            return [
                helper.make_tensor_value_info(n, self.type_of(p.type.dtype), list(p.type.shape))
                for p, n in zip(found, names, strict=True)
            ]

        made = helper.make_graph(
            self.nodes, name, ports(graph.inputs, inputs), ports(graph.outputs, outputs), self.initializers
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name = "bitship"
        if model.ByteSize() > LARGEST:
            raise UnsupportedError(f"{graph.name}: the model has {model.ByteSize()} bytes; ONNX takes {LARGEST}")
        return bytes(model.SerializeToString(deterministic=True))
