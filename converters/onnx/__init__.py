"""ONNX: an integer-only model with the graph's bits, and a QDQ model for compilers that bring arithmetic of their own.

    model.onnx                     integers only; the graph's bits under onnxruntime's CPU provider
    model.qdq.onnx                 int8 activations and weights between DequantizeLinear and QuantizeLinear; tolerant
    model.qdq.onnx.placement.json  which nodes are quantized there and which stay in float, and the difference measured
    qdq.json                       instead of both: why there is no such model

ONNX: https://onnx.ai; onnxruntime: https://onnxruntime.ai.
"""

from importlib.metadata import version
from pathlib import Path

import msgspec

from bitship.converters import placement
from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.measure import measure
from bitship.converters.onnx import qdq
from bitship.converters.onnx.lower import lower
from bitship.converters.onnx.session import OnnxSession
from bitship.converters.placement import Placement
from bitship.converters.tflite import largest_live_bytes
from bitship.errors import BitshipError, UnsupportedError
from bitship.graph import Graph
from bitship.passes.int4 import unpacked
from bitship.targets import Target

FILE = "model.onnx"
QDQ = "model.qdq.onnx"
NOTE = "qdq.json"
DELEGATE = "onnxruntime-qdq"


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``qdq.json`` says: why there is no QDQ model."""

    skipped: str


class OnnxConverter:
    """Lowers a graph to ONNX. Same graph, same models.

    qdq  whether to try the QDQ model as well; its absence is no error, ``qdq.json`` gives the reason
    """

    def __init__(self, qdq: bool = True) -> None:
        self.qdq = qdq

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write the models below ``out``, the exact one first; UnsupportedError names a node without an exact form."""
        data = lower(graph)
        out.mkdir(parents=True, exist_ok=True)
        (out / FILE).write_bytes(data)
        files, artifacts = [FILE], [Artifact(FILE, "integer", Numerics.EXACT)]
        if self.qdq:
            try:
                made = write_qdq(graph, out)
            except UnsupportedError as e:
                (out / NOTE).write_bytes(msgspec.json.encode(Note(f"{graph.name}: {e}")) + b"\n")
                files.append(NOTE)
            else:
                files += [made.path, made.placement]
                artifacts.append(made)
        return Conversion(
            files=tuple(sorted(files)),
            artifacts=tuple(artifacts),
            footprint=Footprint(unpacked(graph).constant_bytes, largest_live_bytes(graph)),
            tools={name: version(name) for name in ("onnx", "onnxruntime")},
        )


def write_qdq(graph: Graph, out: Path, numerics: Numerics = Numerics.TOLERANT) -> Artifact:
    """Write the QDQ model and its placement, measured under onnxruntime; UnsupportedError without a float form."""
    data, nodes = qdq.lower(graph)
    path = out / QDQ
    path.write_bytes(data)
    try:
        session = open_session(path, graph)
        try:
            difference, untested = measure(graph, session), ""
        finally:
            session.close()
    except BitshipError as e:
        difference, untested = None, str(e).replace(str(out), out.name)
    found = Placement(DELEGATE, nodes, parts=1, difference=difference, untested=untested)
    return Artifact(QDQ, "onnx", numerics, placement.write(path, found))


def open_session(path: Path, graph: Graph) -> OnnxSession:
    """Load a model this converter wrote; FormatError when onnxruntime refuses it."""
    return OnnxSession(path, graph)


__all__ = ["FILE", "NOTE", "QDQ", "Note", "OnnxConverter", "OnnxSession", "open_session", "write_qdq"]
