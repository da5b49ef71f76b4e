"""The stand-in of Qualcomm's hub as a process, the client's configuration for it, and a network both sides compute.

``hub.py`` is the server; it runs in the Python that has qai_hub, and inferences in this one, by onnxruntime.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from onnx_models import helper, model

from bitship.graph.base import Array

TOKEN = "secret"
EXECUTE = """
import sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
with np.load(sys.argv[2]) as given:
    inputs = {k: given[k] for k in given.files}
rows = len(next(iter(inputs.values())))
names = [o.name for o in session.get_outputs()]
found = [session.run(None, {k: v[i] for k, v in inputs.items()}) for i in range(rows)]
np.savez(sys.argv[3], **{n: np.stack([f[i] for f in found]) for i, n in enumerate(names)})
"""


@contextmanager
def hub(python: str, folder: Path) -> Iterator[Path]:
    """Run the stand-in in a Python that has qai_hub; yield the client's configuration for it."""
    words = [python, str(Path(__file__).with_name("hub.py")), "--token", TOKEN]
    process = subprocess.Popen([*words, "--execute", sys.executable, "-c", EXECUTE], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        path = folder / "client.ini"
        path.write_text(f"[api]\napi_token = {TOKEN}\napi_url = {url}\nweb_url = {url}\nverbose = False\n")
        yield path
    finally:
        process.kill()
        process.wait()


def network(path: Path) -> Path:
    """Write an ONNX network on whose every bit onnxruntime and the graph agree: none is below the zero point."""
    h = helper()
    nodes = [
        h.make_node("DequantizeLinear", ["x", "s", "z"], ["f"]),
        h.make_node("Relu", ["f"], ["m"]),
        h.make_node("QuantizeLinear", ["m", "s", "z"], ["y"]),
    ]
    constants: dict[str, Array] = {"s": np.array(0.05, np.float32), "z": np.array(3, np.int8)}
    path.write_bytes(model(nodes, {"x": ("int8", (1, 24))}, {"y": "int8"}, constants))
    return path
