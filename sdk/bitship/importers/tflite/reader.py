"""Read a .tflite flatbuffer into plain data; every damaged or hostile file ends in FormatError."""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitship.errors import FormatError, UnsupportedError
from bitship.extras import require
from bitship.graph.base import Array

MAX_ITEMS = 1 << 16
_DTYPES = {
    "FLOAT32": "<f4",
    "INT32": "<i4",
    "UINT8": "<u1",
    "INT64": "<i8",
    "BOOL": "|b1",
    "INT16": "<i2",
    "INT8": "<i1",
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: shape, type name of the schema, quantization (empty when none), bytes when it is a constant.

    dynamic  an extent after the first is not known before the model runs; 1 stands in for it
    """

    index: int
    name: str
    shape: tuple[int, ...]
    type: str
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int
    data: Array | None
    dynamic: bool = False

    @property
    def where(self) -> str:
        """How messages name this tensor."""
        return f"tensor {self.index} '{self.name}'"


@dataclass(frozen=True)
class OperatorInfo:
    """One operator: its name in the schema, operand and result indices (-1: absent), and its options' fields."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """The one subgraph of a .tflite file."""

    tensors: tuple[TensorInfo, ...]
    operators: tuple[OperatorInfo, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@contextlib.contextmanager
def damage_is_format_error(where: str) -> Iterator[None]:
    """Turn what the flatbuffers runtime raises on damaged bytes into FormatError."""
    try:
        yield
    except (
        struct.error,
        IndexError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
        RecursionError,
        AssertionError,
    ) as e:
        raise FormatError(f"{where}: damaged .tflite file ({type(e).__name__}: {e})") from None


def read(path: Path) -> Model:
    """Read a .tflite file."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise FormatError(f"{path}: cannot be read: {e.strerror}") from None
    return parse(data, str(path))


def parse(data: bytes, where: str) -> Model:
    """Read a .tflite file from bytes; ``where`` opens every message."""
    tflite = require("tflite", "tflite", "tflite importer")
    if len(data) < 16 or data[4:8] != b"TFL3":
        raise FormatError(f"{where}: not a .tflite file (no TFL3 identifier)")
    with damage_is_format_error(where):
        model = tflite.Model.GetRootAs(data, 0)
        if model.SubgraphsLength() != 1:
            raise UnsupportedError(f"{where}: {model.SubgraphsLength()} subgraphs; models with one are supported")
        graph = model.Subgraphs(0)
        tensors = tuple(_tensor(tflite, model, graph, i, where) for i in range(_count(graph.TensorsLength(), where)))
        operators = tuple(_operator(tflite, model, graph, i) for i in range(_count(graph.OperatorsLength(), where)))
        inputs, outputs = _indices(graph.InputsAsNumpy()), _indices(graph.OutputsAsNumpy())
        _check_indices(tensors, operators, inputs + outputs, where)
        return Model(tensors, operators, inputs, outputs)


def _count(n: int, where: str) -> int:
    if n > MAX_ITEMS:
        raise FormatError(f"{where}: damaged .tflite file ({n} items in one list, {MAX_ITEMS} are allowed)")
    return n


def _indices(array: Any) -> tuple[int, ...]:
    return () if isinstance(array, int) else tuple(int(i) for i in array)


def _names(enum: type) -> dict[int, str]:
    return {v: k for k, v in vars(enum).items() if isinstance(v, int)}


def _check_indices(
    tensors: tuple[TensorInfo, ...], operators: tuple[OperatorInfo, ...], ports: tuple[int, ...], where: str
) -> None:
    n = len(tensors)
    for index in ports:
        if not 0 <= index < n:
            raise FormatError(f"{where}: graph input or output refers to tensor {index} of {n}")
    for op in operators:
        for index in op.inputs + op.outputs:
            if not -1 <= index < n:
                raise FormatError(f"{where}: operator {op.index} ({op.name}) refers to tensor {index} of {n}")
        if any(i < 0 for i in op.outputs) or not op.outputs:
            raise FormatError(f"{where}: operator {op.index} ({op.name}) has no output")


def _tensor(tflite: Any, model: Any, graph: Any, index: int, where: str) -> TensorInfo:
    t = graph.Tensors(index)
    name = (t.Name() or b"").decode("utf-8", "replace")
    shape = tuple(int(n) for n in t.ShapeAsNumpy()) if t.ShapeLength() else ()
    type_name = _names(tflite.TensorType).get(t.Type(), f"type {t.Type()}")
    dynamic = bool(t.ShapeSignatureLength() and any(int(n) < 0 for n in t.ShapeSignatureAsNumpy()[1:]))
    if any(n < 0 for n in shape):
        raise FormatError(f"{where}: tensor {index} '{name}' has shape {list(shape)}")
    q = t.Quantization()
    scale = tuple(float(s) for s in q.ScaleAsNumpy()) if q is not None and q.ScaleLength() else ()
    zero_point = tuple(int(z) for z in q.ZeroPointAsNumpy()) if q is not None and q.ZeroPointLength() else ()
    if any(not np.isfinite(s) or s < 0 for s in scale):
        raise FormatError(f"{where}: tensor {index} '{name}' has a scale that is not a positive number")
    data = _data(model, t, shape, type_name, f"{where}: tensor {index} '{name}'")
    axis = q.QuantizedDimension() if q is not None else 0
    return TensorInfo(index, name, shape, type_name, scale, zero_point or (0,) * len(scale), axis, data, dynamic)


def _data(model: Any, t: Any, shape: tuple[int, ...], type_name: str, where: str) -> Array | None:
    if not 0 <= t.Buffer() < model.BuffersLength():
        raise FormatError(f"{where} refers to buffer {t.Buffer()} of {model.BuffersLength()}")
    buffer = model.Buffers(t.Buffer())
    if buffer is None or buffer.DataLength() == 0:
        return None
    if type_name not in _DTYPES:
        return np.zeros(0, np.uint8)  # never read: the type is refused where an operator meets it
    raw = buffer.DataAsNumpy().tobytes()
    dtype = np.dtype(_DTYPES[type_name])
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(raw) != wanted:
        raise FormatError(f"{where} holds {len(raw)} bytes, its shape {list(shape)} needs {wanted}")
    return np.frombuffer(raw, dtype).reshape(shape)


def _operator(tflite: Any, model: Any, graph: Any, index: int) -> OperatorInfo:
    op = graph.Operators(index)
    code = model.OperatorCodes(op.OpcodeIndex())
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    name = _names(tflite.BuiltinOperator).get(number, f"operator {number}")
    if name == "CUSTOM":
        name = f"CUSTOM {(code.CustomCode() or b'').decode('utf-8', 'replace')}"
    inputs = _indices(op.InputsAsNumpy()) if op.InputsLength() else ()
    outputs = _indices(op.OutputsAsNumpy()) if op.OutputsLength() else ()
    return OperatorInfo(index, name, inputs, outputs, _options(tflite, op))


def _options(tflite: Any, op: Any) -> dict[str, Any]:
    """Return the scalar and vector fields of the operator's options table by their schema names."""
    kind = _names(tflite.BuiltinOptions).get(op.BuiltinOptionsType(), "NONE")
    table = op.BuiltinOptions()
    if kind == "NONE" or table is None or not hasattr(tflite, kind):
        return {}
    options = getattr(tflite, kind)()
    options.Init(table.Bytes, table.Pos)
    result: dict[str, Any] = {}
    for name in dir(options):
        if name.startswith(("_", "Init", "GetRoot")) or name.endswith(("Length", "IsNone", "AsNumpy")):
            continue
        if not callable(getattr(options, name)) or "BufferHasIdentifier" in name:
            continue
        if hasattr(options, f"{name}AsNumpy"):
            result[name] = _indices(getattr(options, f"{name}AsNumpy")())
        else:
            value = getattr(options, name)()
            result[name] = value
    return result
