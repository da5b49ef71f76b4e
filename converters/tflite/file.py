"""A .tflite file under construction: tensors, operators, buffers; equal constants are stored once.

While ``unsigned`` is set, a new int8 tensor is written as uint8, 128 higher, and so are its zero points: who writes
operators sees int8 throughout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bitship.extras import require
from bitship.graph import DType
from bitship.graph.base import Array, as_bytes

_TYPES = {
    DType.BOOL: "BOOL",
    DType.INT8: "INT8",
    DType.UINT8: "UINT8",
    DType.INT16: "INT16",
    DType.INT32: "INT32",
    DType.INT64: "INT64",
}
_OFFSET = 128
_DEPRECATED = 127  # codes above it live in the wider field alone


@dataclass(frozen=True)
class Label:
    """Scales and zero points of a tensor: one, or one per index of an axis."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0

    def moved(self, by: int) -> "Label":
        """Return it with zero points that much higher."""
        return replace(self, zero_point=tuple(z + by for z in self.zero_point))


@dataclass
class _Tensor:
    shape: tuple[int, ...]
    dtype: DType
    buffer: int
    label: Label | None
    name: str


@dataclass
class _Operator:
    code: int
    inputs: list[int]
    outputs: list[int]
    options: str | None
    fields: dict[str, Any]


@dataclass
class FileBuilder:
    """Collects what ``encode`` writes."""

    tensors: list[_Tensor] = field(default_factory=list)
    operators: list[_Operator] = field(default_factory=list)
    codes: dict[tuple[str, int], int] = field(default_factory=dict)
    buffers: dict[bytes, int] = field(default_factory=dict)
    unsigned: bool = False

    def tensor(self, shape: tuple[int, ...], dtype: DType, label: Label | None = None, name: str = "") -> int:
        """Add a computed tensor and return its number."""
        raised = self.unsigned and dtype is DType.INT8
        self.tensors.append(_Tensor(shape, DType.UINT8 if raised else dtype, 0, None, name))
        self.set_label(len(self.tensors) - 1, label, dtype)
        return len(self.tensors) - 1

    def label(self, number: int, dtype: DType) -> Label | None:
        """Return a tensor's label as codes of a dtype have it; int8 ones of a uint8 tensor are 128 lower."""
        found = self.tensors[number].label
        return found.moved(-_OFFSET) if found is not None and self._raised(number, dtype) else found

    def set_label(self, number: int, label: Label | None, dtype: DType) -> None:
        """Give a tensor the label that codes of a dtype have."""
        self.tensors[number].label = (
            label.moved(_OFFSET) if label is not None and self._raised(number, dtype) else label
        )

    def _raised(self, number: int, dtype: DType) -> bool:
        return dtype is DType.INT8 and self.tensors[number].dtype is DType.UINT8

    def constant(self, array: Array, label: Label | None = None) -> int:
        """Add a constant tensor and return its number."""
        number = self.tensor(tuple(array.shape), DType.of(array), label)
        written = array.view(np.uint8) ^ np.uint8(_OFFSET) if self._raised(number, DType.of(array)) else array
        self.tensors[number].buffer = self.buffers.setdefault(as_bytes(written), len(self.buffers) + 1)
        return number

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: str | None = None,
        version: int = 1,
        **fields: Any,
    ) -> None:
        """Append an operator; ``options`` is the schema's table and ``fields`` its members."""
        code = self.codes.setdefault((name, version), len(self.codes))
        self.operators.append(_Operator(code, list(inputs), list(outputs), options, fields))

    def last_operator(self) -> str:
        """Return the name of the operator appended last; empty when there is none."""
        return next((n for (n, _), c in self.codes.items() if self.operators and c == self.operators[-1].code), "")

    def encode(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """Return the file's bytes; MissingDependencyError without the schema's package."""
        schema: Any = require("ai_edge_litert.schema_py_generated", "litert", "tflite converter")
        flatbuffers: Any = require("flatbuffers", "litert", "tflite converter")
        model, graph = schema.ModelT(), schema.SubGraphT()
        model.version = 3
        model.buffers = [schema.BufferT()]
        for data in self.buffers:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data, np.uint8)
            model.buffers.append(buffer)
        model.operatorCodes = [self._code(schema, *key) for key in self.codes]
        graph.tensors = [self._tensor(schema, t) for t in self.tensors]
        graph.operators = [self._operator(schema, o) for o in self.operators]
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model.subgraphs = [graph]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    @staticmethod
    def _code(schema: Any, name: str, version: int) -> Any:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, _DEPRECATED)
        code.version = version
        return code

    @staticmethod
    def _tensor(schema: Any, t: _Tensor) -> Any:
        made = schema.TensorT()
        made.shape, made.type, made.buffer = list(t.shape), getattr(schema.TensorType, _TYPES[t.dtype]), t.buffer
        made.name = t.name.encode() if t.name else None
        if t.label is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = np.array(t.label.scale, np.float32)
            made.quantization.zeroPoint = np.array(t.label.zero_point, np.int64)
            made.quantization.quantizedDimension = t.label.axis
        return made

    @staticmethod
    def _operator(schema: Any, o: _Operator) -> Any:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = o.code, o.inputs, o.outputs
        if o.options:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, o.options)
            made.builtinOptions = getattr(schema, f"{o.options}T")()
            for key, value in o.fields.items():
                setattr(made.builtinOptions, key, value)
        return made
