"""A PT2E quantizer that annotates every float tensor: makes the programs the .pt2 importer is tested with."""

import enum
from typing import Any

from bitship.quantization.catalogue import ACCUMULATING, folds, is_constant, op_name, tensors
from bitship.quantization.packages import require


class Kind(enum.Enum):
    """How an op is annotated.

    WEIGHTED  its second operand is a constant, quantized per output channel
    OWN       inputs and result have parameters of their own
    CLAMP     folds into an accumulating op before it, else OWN
    UNARY     any function of one variable: a table
    SHARED    the result has the input's parameters: elements are moved, chosen or mixed
    SOFTMAX   the result has scale 1/256 and zero point -128
    """

    WEIGHTED = "weighted"
    OWN = "own"
    CLAMP = "clamp"
    UNARY = "unary"
    SHARED = "shared"
    SOFTMAX = "softmax"


_BY_KIND: dict[Kind, tuple[str, ...]] = {
    Kind.WEIGHTED: ("conv2d", "linear"),
    Kind.OWN: ("add", "sub", "rsub", "mul", "div", "mean", "adaptive_avg_pool2d", "matmul", "bmm"),
    Kind.CLAMP: ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max"),
    Kind.UNARY: (
        "hardswish",
        "hardsigmoid",
        "silu",
        "sigmoid",
        "tanh",
        "gelu",
        "leaky_relu",
        "elu",
        "neg",
        "abs",
        "exp",
        "square",
        "pow",
    ),
    Kind.SHARED: (
        "max_pool2d",
        "avg_pool2d",
        "cat",
        "pad",
        "constant_pad_nd",
        "upsample_nearest2d",
        "upsample_bilinear2d",
        "flatten",
        "reshape",
        "view",
        "permute",
        "transpose",
        "squeeze",
        "unsqueeze",
        "slice",
        "pixel_shuffle",
    ),
    Kind.SOFTMAX: ("softmax", "_softmax"),
}

CATALOGUE: dict[str, Kind] = {name: kind for kind, names in _BY_KIND.items() for name in names}


def kind_of(node: Any) -> Kind:
    """How a call is annotated."""
    return CATALOGUE[op_name(node)]


class Annotator:
    """Annotates one graph with one recipe's specifications."""

    def __init__(self) -> None:
        import torch

        pt2e, self.specs = require("torchao.quantization.pt2e"), require("torchao.quantization.pt2e.quantizer")

        affine = {"dtype": torch.int8, "quant_min": -128, "quant_max": 127, "qscheme": torch.per_tensor_affine}
        self.activation = self.specs.QuantizationSpec(observer_or_fake_quant_ctr=pt2e.MinMaxObserver, **affine)
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


def pt2e_quantizer() -> Any:
    """Return a torchao Quantizer that annotates everything."""
    specs = require("torchao.quantization.pt2e.quantizer")

    class Int8Quantizer(specs.Quantizer):  # type: ignore[misc, name-defined]
        def annotate(self, model: Any) -> Any:
            return Annotator().annotate(model)

        def validate(self, model: Any) -> None:
            return None

    return Int8Quantizer()


def simulate(module: Any, calibration: Any) -> Any:
    """Return the PT2E-converted program of (dequantize, float op, quantize)."""
    import torch

    from bitship.quantization import items_of
    from bitship.quantization.capture import capture

    pt2e = require("torchao.quantization.pt2e.quantize_pt2e")
    items = list(items_of(calibration))
    prepared = pt2e.prepare_pt2e(capture(module.eval(), items[0]), pt2e_quantizer())
    with torch.no_grad():
        for item in items:
            prepared(*item)
    return pt2e.convert_pt2e(prepared)
