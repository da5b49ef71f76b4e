"""Read an .onnx file into plain data; every damaged or hostile file ends in FormatError."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitship.errors import BitshipError, FormatError, UnsupportedError
from bitship.extras import require
from bitship.graph.base import MAX_RANK, Array

MAX_BYTES = 1 << 31
MAX_EXTENT = 1 << 20
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_LOWEST_OPSET = 10


@dataclass(frozen=True)
class Port:
    """An input or output the file declares: name, element type as in NumPy, static shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """One node: its place in the file, op, operand names ("" where absent), result names, attributes."""

    index: int
    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def where(self) -> str:
        """How messages name this node."""
        return f"node {self.index} ({self.op} '{self.name}')"

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute."""
        return self.attributes.get(name, default)


@dataclass(frozen=True)
class Model:
    """The graph of an .onnx file, in execution order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: tuple[Operator, ...]
    constants: Mapping[str, Array]
    opset: int


@contextlib.contextmanager
def damage_is_format_error(where: str) -> Iterator[None]:
    """Turn whatever a file's contents can provoke in parsing or lowering into FormatError."""
    try:
        yield
    except BitshipError:
        raise
    except Exception as e:
        text = " ".join(str(e).split())[:160]
        raise FormatError(f"{where}: damaged or not an ONNX model ({type(e).__name__}: {text})") from None


def read(path: Path) -> Model:
    """Read a file; FormatError when it cannot be read or is damaged."""
    try:
        if path.stat().st_size >= MAX_BYTES:
            raise FormatError(f"{path}: {path.stat().st_size} bytes; less than 2 GiB is allowed")
        data = path.read_bytes()
    except OSError as e:
        raise FormatError(f"{path}: {e.strerror}") from None
    return parse(data, str(path))


def parse(data: bytes, where: str) -> Model:
    """Read a model from bytes.

    Raises FormatError for damage, UnsupportedError for dynamic shapes, external data, subgraphs and old opsets.
    """
    onnx = require("onnx", "onnx", "onnx importer")
    require("onnx.numpy_helper", "onnx", "onnx importer")
    with damage_is_format_error(where):
        proto = onnx.ModelProto()
        proto.ParseFromString(data)
        graph = proto.graph
        if not graph.node or not graph.output:
            raise FormatError(f"{where}: damaged or not an ONNX model (it has no nodes or no outputs)")
        constants = {t.name: _tensor(onnx, t, where) for t in graph.initializer}
        return Model(
            inputs=tuple(_port(onnx, v, where) for v in graph.input if v.name not in constants),
            outputs=tuple(_declared(onnx, v) for v in graph.output),
            operators=tuple(_operator(onnx, n, i, where) for i, n in enumerate(graph.node)),
            constants=constants,
            opset=_opset(proto, where),
        )


def _opset(proto: Any, where: str) -> int:
    found = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    if not found or found[0] < _LOWEST_OPSET:
        raise UnsupportedError(f"{where}: opset {found[0] if found else 'unknown'}; {_LOWEST_OPSET} or later is needed")
    return int(found[0])


def _tensor(onnx: Any, t: Any, where: str) -> Array:
    if t.data_location == onnx.TensorProto.EXTERNAL or t.external_data:
        raise UnsupportedError(f"{where}: constant '{t.name}' is in another file; save the model as one file")
    dims = [int(d) for d in t.dims]
    if len(dims) > MAX_RANK or any(not 0 <= d < MAX_BYTES for d in dims):
        raise FormatError(f"{where}: constant '{t.name}' has shape {dims}")
    array: Array = np.array(onnx.numpy_helper.to_array(t))
    if array.dtype.kind not in "iufb" or list(array.shape) != dims:
        raise UnsupportedError(f"{where}: constant '{t.name}' is {array.dtype}; numbers are supported")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FormatError(f"{where}: constant '{t.name}' holds values that are not finite")
    return array


def _port(onnx: Any, value: Any, where: str) -> Port:
    port = _declared(onnx, value)
    dims = value.type.tensor_type.shape.dim
    for dim in dims:
        if dim.WhichOneof("value") != "dim_value" or not 1 <= dim.dim_value < MAX_BYTES:
            found = dim.dim_param or dim.dim_value or "unknown"
            raise UnsupportedError(
                f"{where}: input '{value.name}' has dynamic or empty axis '{found}'; export with fixed shapes"
            )
    if len(dims) > MAX_RANK:
        raise UnsupportedError(f"{where}: input '{value.name}' has rank {len(dims)}; {MAX_RANK} is the highest")
    return port


def _declared(onnx: Any, value: Any) -> Port:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else np.dtype("float32")
    return Port(value.name, str(dtype), tuple(int(d.dim_value) for d in tensor.shape.dim))


def _operator(onnx: Any, node: Any, index: int, where: str) -> Operator:
    name = node.name or (node.output[0] if node.output else "")
    if node.domain not in _DOMAINS:
        raise UnsupportedError(
            f"{where}: node {index} ({node.op_type} '{name}'): domain '{node.domain}' is not supported"
        )
    attributes: dict[str, Any] = {}
    for a in node.attribute:
        if a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            raise UnsupportedError(f"{where}: node {index} ({node.op_type} '{name}'): subgraphs are not supported")
        value = onnx.helper.get_attribute_value(a)
        if a.type == onnx.AttributeProto.TENSOR:
            value = _tensor(onnx, value, where)
        elif isinstance(value, bytes):
            value = value.decode()
        elif a.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
            value = list(value)
        attributes[a.name] = value
    return Operator(index, node.op_type, name, tuple(node.input), tuple(node.output), attributes)
