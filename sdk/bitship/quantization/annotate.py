"""The PT2E quantizer: every float tensor of a captured graph gets a quantization, so nothing stays in float."""

from typing import Any

from bitship.quantization.catalogue import ACCUMULATING, Kind, kind_of, op_name
from bitship.quantization.observers import observer
from bitship.quantization.packages import require
from bitship.quantization.recipe import Recipe


def is_constant(node: Any) -> bool:
    """Whether a node is a parameter or buffer."""
    return bool(node.op == "get_attr")


def folds(node: Any) -> bool:
    """Whether a clamp becomes the limits of the accumulating op before it."""
    before = node.args[0]
    return (
        kind_of(node) is Kind.CLAMP
        and before.op == "call_function"
        and op_name(before) in ACCUMULATING
        and len(before.users) == 1
    )


def tensors(node: Any) -> list[Any]:
    """Return the nodes a call reads, in order, lists flattened."""
    import torch

    found: list[Any] = []
    for arg in node.args:
        for item in arg if isinstance(arg, list | tuple) else (arg,):
            if isinstance(item, torch.fx.Node) and item not in found:
                found.append(item)
    return found


class Annotator:
    """Annotates one graph with one recipe's specifications."""

    def __init__(self, recipe: Recipe) -> None:
        import torch

        pt2e, self.specs = require("torchao.quantization.pt2e"), require("torchao.quantization.pt2e.quantizer")

        kind, options = observer(recipe)
        affine = {"dtype": torch.int8, "quant_min": -128, "quant_max": 127, "qscheme": torch.per_tensor_affine}
        self.activation = self.specs.QuantizationSpec(observer_or_fake_quant_ctr=kind.with_args(**options), **affine)
        self.constant = self.specs.QuantizationSpec(observer_or_fake_quant_ctr=pt2e.MinMaxObserver, **affine)
        self.weight = self.specs.QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=pt2e.PerChannelMinMaxObserver,
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        )
        self.softmax = self.specs.FixedQParamsQuantizationSpec(
            dtype=torch.int8,
            scale=1 / 256,
            zero_point=-128,
            quant_min=-128,
            quant_max=127,
            qscheme=torch.per_tensor_affine,
        )

    def annotate(self, graph_module: Any) -> Any:
        """Annotate every placeholder and call; QuantizationError names an op outside the catalogue."""
        for node in graph_module.graph.nodes:
            if node.op == "placeholder":
                self._set(node, {}, self.activation)
            elif node.op == "call_function":
                self._call(node)
        return graph_module

    def _set(self, node: Any, inputs: dict[Any, Any], output: Any) -> None:
        node.meta["quantization_annotation"] = self.specs.QuantizationAnnotation(
            input_qspec_map=inputs, output_qspec=output, _annotated=True
        )

    def _call(self, node: Any) -> None:
        kind = kind_of(node)
        if kind is Kind.SHARED:
            self._shared(node)
            return
        output = self.softmax if kind is Kind.SOFTMAX else self.activation
        if op_name(node) in ACCUMULATING and len(node.users) == 1:
            user = next(iter(node.users))
            if user.op == "call_function" and kind_of(user) is Kind.CLAMP:
                output = None
        if kind is Kind.CLAMP and folds(node):
            self._set(node, {}, output)
            return
        inputs = {}
        for i, source in enumerate(tensors(node)):
            if not is_constant(source):
                inputs[source] = self.activation
            elif kind is Kind.WEIGHTED:
                if i == 1:
                    inputs[source] = self.weight
            elif source.meta["val"].numel() > 1:
                inputs[source] = self.constant
        self._set(node, inputs, output)

    def _shared(self, node: Any) -> None:
        sources = [s for s in tensors(node) if not is_constant(s)]
        first = sources[0]
        inputs: dict[Any, Any] = {
            first: self.activation if len(sources) > 1 else self.specs.SharedQuantizationSpec(first)
        }
        shared = self.specs.SharedQuantizationSpec((first, node))
        inputs.update(dict.fromkeys(sources[1:], shared))
        self._set(node, inputs, shared)


def pt2e_quantizer(recipe: Recipe) -> Any:
    """Return a torchao Quantizer that annotates everything."""
    specs = require("torchao.quantization.pt2e.quantizer")

    class Int8Quantizer(specs.Quantizer):  # type: ignore[misc, name-defined]
        """int8 for every tensor."""

        def annotate(self, model: Any) -> Any:
            return Annotator(recipe).annotate(model)

        def validate(self, model: Any) -> None:
            return None

    return Int8Quantizer()
