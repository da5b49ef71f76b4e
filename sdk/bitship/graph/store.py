"""One file for one graph: a safetensors body with the constants, the graph as JSON in its metadata."""

import os
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as st

from bitship.errors import BitshipError, FormatError, GraphError
from bitship.graph.dtypes import DType
from bitship.graph.ir import Graph, Node, Port
from bitship.graph.packing import Packing, pack, unpack
from bitship.graph.verify import verify

SUFFIX = ".bitship"
SCHEMA = 1


class _Packed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A constant whose tensor in the body holds what ``packing.pack`` made of it."""

    shape: tuple[int, ...]
    packing: Packing


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The JSON part of the file; a graph without packed constants has no ``packed``."""

    schema: int
    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    packed: dict[str, _Packed] = {}


def save(graph: Graph, path: Path) -> None:
    """Write the graph to one file, under a temporary name first; the same graph gives the same bytes."""
    packed = {k: _Packed(graph.constants[k].shape, how) for k, how in sorted(graph.packing.items())}
    body = _Body(SCHEMA, graph.name, graph.inputs, graph.outputs, graph.nodes, packed)
    stored = {k: pack(v, graph.packing[k], k) if k in packed else v for k, v in graph.constants.items()}
    data = st.save(stored, metadata={"bitship": msgspec.json.encode(body).decode()})
    write_atomic(path, data)


def load(path: Path) -> Graph:
    """Read and verify a graph; FormatError when the file is damaged, GraphError when it breaks the rules."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise FormatError(f"{path}: cannot be read: {e.strerror}") from None
    return loads(data, str(path))


def loads(data: bytes, where: str) -> Graph:
    """Read and verify a graph from bytes; ``where`` opens every message."""
    try:
        header = _header(data)
        metadata = header["__metadata__"]["bitship"]
    except (ValueError, KeyError, TypeError):
        raise FormatError(f"{where}: not a bitship graph (no safetensors header with a 'bitship' entry)") from None
    try:
        body = msgspec.json.decode(metadata, type=_Body)
        constants = st.load(data)
    except (msgspec.MsgspecError, SafetensorError, ValueError, KeyError, TypeError, OverflowError, BitshipError) as e:
        raise FormatError(f"{where}: damaged bitship graph: {e}") from None
    if body.schema != SCHEMA:
        raise FormatError(f"{where}: graph schema {body.schema}, this bitship reads schema {SCHEMA}")
    allowed = {d.value for d in DType}
    for name, array in constants.items():
        if array.dtype.name not in allowed:
            raise FormatError(
                f"{where}: constant '{name}' is {array.dtype.name}; allowed: {', '.join(sorted(allowed))}"
            )
        if array.dtype == np.bool_ and int(array.view(np.uint8).max(initial=0)) > 1:
            raise FormatError(f"{where}: constant '{name}' is bool and holds a byte that is neither 0 nor 1")
    for name, how in body.packed.items():
        if name not in constants:
            raise FormatError(f"{where}: packed constant '{name}' is missing")
        try:
            constants[name] = unpack(constants[name], how.shape, how.packing, f"constant '{name}'")
        except GraphError as e:
            raise FormatError(f"{where}: {e}") from None
    packing = {name: how.packing for name, how in body.packed.items()}
    graph = Graph(body.name, body.inputs, body.outputs, body.nodes, constants, packing)
    verify(graph)
    return graph


def _header(data: bytes) -> dict[str, dict[str, str]]:
    if len(data) < 8:
        raise ValueError
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise ValueError
    header = msgspec.json.decode(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError
    return header


def write_atomic(path: Path, data: bytes) -> None:
    """Write bytes to a temporary file beside ``path``, then rename it into place; FormatError on a disk error."""
    name = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
            name = f.name
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as e:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        raise FormatError(f"{path}: cannot be written: {e.strerror}") from None
