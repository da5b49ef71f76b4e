"""Run a .tflite on this machine through LiteRT's reference kernels, with one thread."""

from pathlib import Path
from typing import Any

import numpy as np

from bitship.errors import FormatError
from bitship.extras import require
from bitship.graph import Graph
from bitship.graph.base import Array


class LiteRtSession:
    """A loaded file; inputs and outputs are those of the graph it was made from."""

    def __init__(self, path: Path, graph: Graph) -> None:
        interpreter: Any = require("ai_edge_litert.interpreter", "litert", "tflite session")
        self._graph = graph
        try:
            self._interpreter: Any = interpreter.Interpreter(
                model_content=path.read_bytes(),
                experimental_op_resolver_type=interpreter.OpResolverType.BUILTIN_REF,
                num_threads=1,
            )
            self._interpreter.allocate_tensors()
        except OSError as e:
            raise FormatError(f"{path}: {e.strerror}") from None
        except (RuntimeError, ValueError) as e:
            raise FormatError(f"{path}: LiteRT does not load it ({str(e).splitlines()[0]})") from None

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes; GraphError when they are of others."""
        self._graph.check_inputs(inputs)
        if self._interpreter is None:
            raise ValueError("the session is closed")
        for detail, value in zip(self._interpreter.get_input_details(), inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], value)
        try:
            self._interpreter.invoke()
        except RuntimeError as e:
            raise FormatError(f"{self._graph.name}: LiteRT stopped ({str(e).splitlines()[0]})") from None
        details = self._interpreter.get_output_details()
        return tuple(
            np.asarray(self._interpreter.get_tensor(d["index"])).reshape(p.type.shape)
            for d, p in zip(details, self._graph.outputs, strict=True)
        )

    def close(self) -> None:
        """Release the file's memory."""
        self._interpreter = None
