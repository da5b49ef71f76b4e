"""Read a model file into an integer graph, by its suffix; or a shipped one, by its name."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from bitship.errors import FormatError, UnsupportedError
from bitship.graph import Graph, store


def _tflite(path: Path, outputs: Sequence[str]) -> Graph:
    from bitship.importers import tflite

    return tflite.load(path, outputs)


def _onnx(path: Path, outputs: Sequence[str]) -> Graph:
    from bitship.importers import onnx

    return onnx.load(path, outputs)


def _pt2(path: Path, outputs: Sequence[str]) -> Graph:
    from bitship.quantization import load_pt2

    if outputs:
        raise UnsupportedError(f"{path}: --output is for .tflite and .onnx files")
    return load_pt2(path)


def _bitship(path: Path, outputs: Sequence[str]) -> Graph:
    if outputs:
        raise UnsupportedError(f"{path}: --output is for .tflite and .onnx files")
    return store.load(path)


def _shipped(name: str, outputs: Sequence[str]) -> Graph:
    from bitship import models

    if outputs:
        raise UnsupportedError(f"{name}: --output is for .tflite and .onnx files")
    return models.load_graph(name)


def _ivit(path: Path, outputs: Sequence[str]) -> Graph:
    from bitship.importers import ivit

    if outputs:
        raise UnsupportedError(f"{path}: --output is for .tflite and .onnx files")
    return ivit.load(path)


LOADERS: dict[str, Callable[[Path, Sequence[str]], Graph]] = {
    ".tflite": _tflite,
    ".onnx": _onnx,
    ".pt2": _pt2,
    ".safetensors": _ivit,
    store.SUFFIX: _bitship,
}


def load(path: str | Path, outputs: Sequence[str] = ()) -> Graph:
    """Read a quantized model (.tflite, .onnx, .pt2) or a saved graph (.bitship) into a verified integer graph.

    path     a file, or the name of a shipped graph: one of ``bitship.models.graph_names()``
    outputs  tensor names to cut the model at (.tflite and .onnx); the model's own outputs when empty

    Raises FormatError for a damaged file, an unknown suffix or name, UnsupportedError naming what is not taken.
    """
    path = Path(path)
    if path.name == str(path) and not path.suffix and not path.is_file():
        return _shipped(str(path), outputs)
    if path.suffix not in LOADERS:
        near = difflib.get_close_matches(path.suffix, LOADERS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise FormatError(f"{path}: suffix '{path.suffix}': {', '.join(LOADERS)} are read{hint}")
    if not path.is_file():
        raise FormatError(f"{path}: no such file")
    return LOADERS[path.suffix](path, outputs)
