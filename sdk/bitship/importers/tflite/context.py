"""What lowering one .tflite operator needs: tensors as graph names, their scales, and float islands as tables."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitship.errors import UnsupportedError
from bitship.graph import DType, GraphBuilder, Quant
from bitship.graph.base import Array
from bitship.graph.fixedpoint import quantize_multiplier, round_half_away
from bitship.graph.ops import Rescale, Reshape, Rounding
from bitship.importers.tflite.reader import Model, OperatorInfo, TensorInfo

EIGHT_BIT = {"INT8": 0, "UINT8": 128}
NONE, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3


@dataclass(frozen=True)
class FloatValue:
    """A float tensor that is an element-wise function of one 8-bit tensor, or a graph input (source None).

    table [256] float32: the value for every int8 code of the source, in float32 arithmetic, as LiteRT computes it
    quant  set while the value is still plain ``scale * (code - zero_point)``
    """

    source: str | None
    table: Array
    quant: Quant | None


class Context:
    """State of one import. Unsigned 8-bit tensors live in the graph as int8, 128 lower, zero points likewise."""

    def __init__(self, model: Model, builder: GraphBuilder, where: str) -> None:
        self.model = model
        self.builder = builder
        self.where = where
        self.names: dict[int, str] = {}
        self.floats: dict[int, FloatValue] = {}
        self.float_inputs: dict[int, tuple[str, Quant, DType]] = {}
        self.folded: dict[int, Array] = {}
        self.op: OperatorInfo | None = None

    def refuse(self, reason: str) -> UnsupportedError:
        """Return the error that names the operator at hand and why it is not taken."""
        at = f"operator {self.op.index} ({self.op.name})" if self.op else "model"
        return UnsupportedError(f"{self.where}: {at}: {reason}")

    def info(self, index: int) -> TensorInfo:
        """Return a tensor of the file; refuses an absent operand."""
        if index < 0:
            raise self.refuse("an operand is absent that must be there")
        return self.model.tensors[index]

    def option(self, name: str, default: Any = None) -> Any:
        """Return an option of the operator at hand."""
        assert self.op is not None
        value = self.op.options.get(name, default)
        if value is None:
            raise self.refuse(f"option {name} is missing")
        return value

    def operand(self, position: int) -> int:
        """Return the tensor index of an operand by position."""
        assert self.op is not None
        if position >= len(self.op.inputs):
            raise self.refuse(f"{len(self.op.inputs)} operands are given, number {position + 1} is needed")
        return self.op.inputs[position]

    def has_operand(self, position: int) -> bool:
        """Whether the operand is given."""
        assert self.op is not None
        return position < len(self.op.inputs) and self.op.inputs[position] >= 0

    @property
    def result(self) -> int:
        """Tensor index of the operator's first result."""
        assert self.op is not None
        return self.op.outputs[0]

    def constant(self, position: int) -> Array:
        """Return an operand's value; refuses one that is computed."""
        index = self.operand(position)
        value = self.value(index)
        if value is None:
            raise self.refuse(f"{self.info(index).where} must be a constant")
        return value

    def value(self, index: int) -> Array | None:
        """Return a tensor's value when it is known: a constant of the file, or computed from constants."""
        return self.folded.get(index, self.info(index).data)

    def known_shape(self, index: int) -> tuple[int, ...]:
        """Return a tensor's shape as the graph has it; the file's where the graph does not hold the tensor."""
        if index in self.names:
            return self.shape(self.names[index])
        if index in self.floats and self.floats[index].source is not None:
            return self.shape(str(self.floats[index].source))
        value = self.value(index)
        return self.info(index).shape if value is None else value.shape

    def ints(self, position: int) -> tuple[int, ...]:
        """Return a constant integer operand as a flat tuple."""
        value = self.constant(position)
        if value.dtype.kind != "i":
            raise self.refuse(f"{self.info(self.operand(position)).where} must hold integers")
        return tuple(int(v) for v in value.reshape(-1))

    def scale(self, index: int) -> float:
        """Return the per-tensor scale; refuses a tensor without one."""
        info = self.info(index)
        if len(info.scale) != 1 or info.scale[0] <= 0:
            raise self.refuse(f"{info.where} needs one positive scale, it has {len(info.scale)}")
        return info.scale[0]

    def zero_point(self, index: int) -> int:
        """Return the per-tensor zero point as seen by the int8 tensor of the graph."""
        info = self.info(index)
        if info.type not in EIGHT_BIT:
            raise self.refuse(
                f"{info.where} is {info.type}; int8 and uint8 are supported (a float model must be quantized first)"
            )
        self.scale(index)
        return info.zero_point[0] - EIGHT_BIT[info.type]

    def name(self, index: int) -> str:
        """Return the graph tensor that holds an 8-bit or int32 tensor of the file."""
        info = self.info(index)
        if index not in self.names:
            if info.type not in (*EIGHT_BIT, "INT32"):
                raise self.refuse(
                    f"{info.where} is {info.type}; int8 and uint8 are supported (a float model must be quantized first)"
                )
            if self.value(index) is None:
                raise self.refuse(f"{info.where} is read before anything computes it")
            self.names[index] = self.builder.constant(info.name, self.folded.get(index, self.codes(info)))
        return self.names[index]

    @staticmethod
    def codes(info: TensorInfo) -> Array:
        """Return a constant's codes, unsigned ones as int8."""
        if info.data is None:
            return np.zeros(0, np.int8)
        if info.type == "UINT8":
            return (info.data.astype(np.int16) - 128).astype(np.int8)
        return info.data

    def emit(self, op: Any, *inputs: str, result: int | None = None) -> str:
        """Append a node whose output is a result of the operator (the first unless given)."""
        index = self.result if result is None else result
        name = self.builder.node(self.info(index).name, op, *inputs)
        self.names[index] = name
        return name

    def aside(self, op: Any, *inputs: str) -> str:
        """Append a node that is a step on the way to the operator's result."""
        return self.builder.node(f"{self.info(self.result).name}/{op.name}", op, *inputs)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a graph tensor."""
        return self.builder.types[name].shape

    def same_rank(self, *names: str) -> list[str]:
        """Reshape operands to one rank by leading extents of 1, as broadcasting reads them."""
        rank = max(len(self.shape(n)) for n in names)
        result = []
        for n in names:
            shape = self.shape(n)
            result.append(n if len(shape) == rank else self.aside(Reshape((1,) * (rank - len(shape)) + shape), n))
        return result

    def activation_range(self, index: int) -> tuple[int, int]:
        """Return [qmin, qmax] of a result under the operator's fused activation (TFLite's float32 rounding)."""
        activation = self.option("FusedActivationFunction", 0)
        if activation == NONE:
            return -128, 127
        scale, zero_point = self.scale(index), self.zero_point(index)
        if scale < 1e-30:
            raise self.refuse(f"{self.info(index).where} has scale {scale}, which is too small")

        def code(value: float) -> int:
            return zero_point + round_half_away(float(np.float32(value) / np.float32(scale)))

        ranges = {RELU: (code(0), 127), RELU_N1_TO_1: (code(-1), code(1)), RELU6: (code(0), code(6))}
        if activation not in ranges:
            raise self.refuse(f"fused activation {activation} is not supported")
        low, high = ranges[activation]
        return max(-128, min(low, 127)), max(-128, min(high, 127))

    def rescale_to(
        self, index: int, factors: list[float], rounding: Rounding = Rounding.DOUBLE, activation: bool = True
    ) -> Rescale:
        """Return the epilogue that turns an accumulator into the codes of an 8-bit result."""
        low, high = self.activation_range(index) if activation else (-128, 127)
        return self.rescale(factors, self.zero_point(index), low, high, rounding)

    def rescale(
        self, factors: list[float], zero_point: int, low: int, high: int, rounding: Rounding = Rounding.DOUBLE
    ) -> Rescale:
        """Return a rescale to int8 by real factors through TFLite's QuantizeMultiplier."""
        pairs = [quantize_multiplier(f) for f in factors]
        if any(s > 30 for _, s in pairs):
            raise self.refuse("a scale ratio of 2^30 or more cannot be expressed")
        return Rescale(
            multiplier=tuple(m for m, _ in pairs),
            shift=tuple(s for _, s in pairs),
            output_zero_point=zero_point,
            rounding=rounding,
            dtype=DType.INT8,
            qmin=low,
            qmax=high,
        )
