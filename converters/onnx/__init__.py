"""ONNX: an integer-only model with the graph's bits, and a QDQ model for compilers that bring arithmetic of their own.

    model.onnx      integers only; the graph's bits under onnxruntime's CPU provider

ONNX: https://onnx.ai; onnxruntime: https://onnxruntime.ai.
"""

from importlib.metadata import version
from pathlib import Path

from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.converters.onnx.lower import lower
from bitship.converters.onnx.session import OnnxSession
from bitship.converters.tflite import largest_live_bytes
from bitship.graph import Graph
from bitship.targets import Target

FILE = "model.onnx"


class OnnxConverter:
    """Lowers a graph to ONNX. Same graph, same bytes.

    qdq  whether to try the QDQ model as well
    """

    def __init__(self, qdq: bool = True) -> None:
        self.qdq = qdq

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write the models below ``out``; UnsupportedError names a node without an exact form."""
        data = lower(graph)
        out.mkdir(parents=True, exist_ok=True)
        (out / FILE).write_bytes(data)
        return Conversion(
            files=(FILE,),
            artifacts=(Artifact(FILE, "onnx", Numerics.EXACT),),
            footprint=Footprint(graph.constant_bytes, largest_live_bytes(graph)),
            tools={name: version(name) for name in ("onnx", "onnxruntime")},
        )


def open_session(path: Path, graph: Graph) -> OnnxSession:
    """Load a model this converter wrote; FormatError when onnxruntime refuses it."""
    return OnnxSession(path, graph)


__all__ = ["FILE", "OnnxConverter", "OnnxSession", "open_session"]
