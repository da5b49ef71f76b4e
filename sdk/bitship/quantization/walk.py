"""Walk a captured aten graph and write it with the integerizer; how tensors are quantized is the subclass's."""

from typing import Any

from bitship.errors import BitshipError, OverflowProofError, QuantizationError
from bitship.graph import Graph, GraphBuilder, Quant, verify
from bitship.graph.base import Array
from bitship.importers.integerize import Integerizer, QuantizedTensor, Weights
from bitship.quantization.capture import fetch
from bitship.quantization.catalogue import op_name, where
from bitship.quantization.recipe import Recipe


class Walk:
    """State of one walk: what every node of the torch graph has become.

    values  of a node: a QuantizedTensor, a Pending or Probabilities, a torch.Tensor where it is constant, a number
    """

    def __init__(self, graph_module: Any, name: str, recipe: Recipe) -> None:
        self.module = graph_module
        self.recipe = recipe
        self.builder = GraphBuilder(name, fold=True)
        self.g = Integerizer(self.builder)
        self.values: dict[Any, Any] = {}

    def run(self) -> Graph:
        """Return the verified integer graph."""
        outputs: list[tuple[str, Quant | None]] = []
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.placeholder(node)
            elif node.op == "get_attr":
                self.values[node] = fetch(self.module, node)
            elif node.op == "call_function":
                self.values[node] = self._guarded(node)
            elif node.op == "output":
                outputs = [self._output(result) for result in _flatten(node.args[0])]
        graph = self.builder.finish(outputs)
        try:
            verify(graph)
        except OverflowProofError as e:
            told = [where(n) for n in self.module.graph.nodes if f"node '{n.name}'" in str(e)]
            raise QuantizationError(": ".join([*told[:1], str(e)])) from None
        return graph

    # -- what a subclass decides

    def placeholder(self, node: Any) -> Any:
        """Return what a graph input is."""
        raise NotImplementedError

    def call(self, node: Any) -> Any:
        """Return what a call has become."""
        raise NotImplementedError

    def quantized(self, node: Any, arg: Any) -> QuantizedTensor:
        """Return an operand that is quantized; QuantizationError when it is still in float."""
        raise NotImplementedError

    def narrow(self, node: Any, arg: Any) -> QuantizedTensor:
        """Return an operand as an op with weights takes it."""
        return self.quantized(node, arg)

    def weights(self, node: Any, arg: Any) -> Weights:
        """Return constant weights, one scale per index of their first axis."""
        raise NotImplementedError

    def in_bits(self, x: QuantizedTensor, arg: Any, bits: int) -> QuantizedTensor:
        """Return a tensor in so many bits or fewer."""
        return x

    def fitting(self, x: QuantizedTensor, arg: Any, weight_sum: int) -> QuantizedTensor:
        """Return an operand whose products with weights of this absolute sum stay in int32."""
        return x

    def softmax(self, node: Any, axis: int) -> Any:
        """Return the softmax of a call's first operand along an axis."""
        raise NotImplementedError

    # -- what handlers read with

    def handle(self, node: Any) -> Any:
        """Return what the op's handler makes of a call; QuantizationError when there is none."""
        from bitship.quantization.handlers import handler_of

        return handler_of(node)(self, node)

    def scalar(self, value: Any) -> Any:
        """Return a Python number given as such, or as a tensor of one element."""
        if hasattr(value, "users"):
            value = self.values[value]
        return value.item() if hasattr(value, "item") else value

    def number(self, arg: Any) -> float | None:
        """Return an operand that is one number, else None."""
        if isinstance(arg, int | float):
            return float(arg)
        value: Any = self.values.get(arg)
        if hasattr(value, "numel") and value.numel() == 1:
            return float(value.item())
        return None

    def constant(self, arg: Any) -> Any | None:
        """Return the torch.Tensor of a constant operand, else None."""
        value: Any = self.values.get(arg) if hasattr(arg, "users") else None
        return value.detach() if hasattr(value, "numel") else None

    def real_constant(self, node: Any, arg: Any) -> Array | None:
        """Return a float constant operand such as a bias; None when there is none."""
        if arg is None:
            return None
        value = self.constant(arg)
        if value is None:
            raise QuantizationError(f"{where(node)}: operand '{arg.name}' must be a float constant")
        array: Array = value.double().numpy()
        return array

    def _guarded(self, node: Any) -> Any:
        try:
            return self.call(node)
        except QuantizationError:
            raise
        except BitshipError as e:
            raise QuantizationError(f"{where(node)}: {e}") from None

    def _output(self, node: Any) -> tuple[str, Quant | None]:
        value = self.quantized(node, node)
        value = self.g.port(value)
        return value.name, Quant(value.q.scale, value.q.zero_point)


def _flatten(value: Any) -> list[Any]:
    return [v for item in value for v in _flatten(item)] if isinstance(value, list | tuple) else [value]


def evaluated(walk: Walk, node: Any) -> Any | None:
    """Return the value of a call whose operands are all constant, else None."""
    from torch.fx.node import map_arg

    sources = node.all_input_nodes
    if any(not hasattr(walk.values.get(s), "numel") for s in sources) or op_name(node) == "":
        return None
    result = node.target(*map_arg(node.args, walk.values.get), **map_arg(node.kwargs, walk.values.get))
    return result if hasattr(result, "numel") else None
