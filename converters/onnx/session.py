"""Run an ONNX model on this machine through onnxruntime's CPU provider, with one thread."""

from pathlib import Path
from typing import Any

import numpy as np

from bitship.errors import FormatError
from bitship.extras import require
from bitship.graph import Graph
from bitship.graph.base import Array


class OnnxSession:
    """A loaded model; inputs and outputs are those of the graph it was made from.

    Constant folding is left out: onnxruntime's own kernels do it, at the price of a slow start.
    """

    def __init__(self, path: Path, graph: Graph) -> None:
        runtime: Any = require("onnxruntime", "onnx", "onnx session")
        self._graph = graph
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            data = path.read_bytes()
            self._session: Any = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except OSError as e:
            raise FormatError(f"{path}: {e.strerror}") from None
        except Exception as e:  # onnxruntime's errors have no common class
            raise FormatError(f"{path}: onnxruntime does not load it ({_first_line(e)})") from None

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes; GraphError when they are of others."""
        self._graph.check_inputs(inputs)
        if self._session is None:
            raise ValueError("the session is closed")
        feed = {p.name: np.ascontiguousarray(x) for p, x in zip(self._session.get_inputs(), inputs, strict=True)}
        try:
            results = self._session.run(None, feed)
        except Exception as e:
            raise FormatError(f"{self._graph.name}: onnxruntime stopped ({_first_line(e)})") from None
        return tuple(np.asarray(r).reshape(p.type.shape) for r, p in zip(results, self._graph.outputs, strict=True))

    def close(self) -> None:
        """Release the model."""
        self._session = None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
