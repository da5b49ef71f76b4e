"""LiteRT as the judge of imported models: its reference kernels, fed with the graph's own codes."""

from pathlib import Path

import numpy as np

from bitship.errors import MissingDependencyError
from bitship.graph import Graph
from bitship.graph.base import Array


class LiteRtReference:
    """A .tflite file under BUILTIN_REF, one thread; takes and gives the integer codes of the imported graph."""

    def __init__(self, path: Path, graph: Graph, names: tuple[str, ...]) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError:
            raise MissingDependencyError("ai-edge-litert is missing; pip install 'bitship[litert]'") from None
        self.graph = graph
        self.interpreter = Interpreter(
            model_path=str(path),
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=bool(names),
            num_threads=1,
        )
        self.interpreter.allocate_tensors()
        by_name = {d["name"]: d["index"] for d in self.interpreter.get_tensor_details()}
        details = self.interpreter.get_output_details()
        self.outputs = [by_name[n] for n in names] if names else [d["index"] for d in details]

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs as codes; floats at the ends of the file are converted exactly."""
        for port, detail, codes in zip(self.graph.inputs, self.interpreter.get_input_details(), inputs, strict=True):
            value = codes
            if detail["dtype"] == np.float32:
                assert port.quant is not None
                value = (codes.astype(np.float32) - port.quant.zero_point) * np.float32(port.quant.scale)
            self.interpreter.set_tensor(detail["index"], value)
        self.interpreter.invoke()
        results = []
        for port, index in zip(self.graph.outputs, self.outputs, strict=True):
            value = np.asarray(self.interpreter.get_tensor(index))
            if value.dtype == np.float32:
                assert port.quant is not None
                value = np.rint(value / np.float32(port.quant.scale)) + port.quant.zero_point
            results.append(value.astype(port.type.dtype.numpy))
        return tuple(results)
