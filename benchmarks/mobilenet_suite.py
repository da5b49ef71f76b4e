"""MobileNetV2 1.0 at 224, one thread: bitship against other runtimes.

bitship and LiteRT run the .tflite file below the data folder (random weights without it, and no LiteRT); the others
run the same architecture with random weights, quantized by their own tools.
"""

from pathlib import Path

from benchmarks import ours, rivals
from benchmarks.latency import Run, Runtime
from benchmarks.mobilenet import onnx_model, torch_module
from bitship.errors import BitshipError, MissingDependencyError
from bitship.graph import Graph, spec
from bitship.models.untrained import SIZE, mobilenet_v2

TITLE = "MobileNetV2 1.0 224, one thread, interleaved; milliseconds"
MODEL = Path("coral/tf2_mobilenet_v2_1.0_224_ptq.tflite")


def load_graph(path: Path | None) -> Graph:
    """Return the imported model, or the same architecture with random weights."""
    if path is None:
        return mobilenet_v2()
    from bitship.importers.tflite import load

    return load(path)


def _write_onnx(path: Path) -> None:
    import onnx

    onnx.save(onnx_model(), str(path))


def runtimes(data: Path | None, folder: Path) -> list[Runtime]:
    """Return every runtime."""
    path = data / MODEL if data is not None else None
    if path is not None and not path.is_file():
        raise BitshipError(f"data: no {MODEL} below {data}")
    graph = load_graph(path)
    x = ours.sample(graph)
    wanted = spec.run(graph, *x)
    model = rivals.Model(torch_module, rivals.noise(SIZE), _write_onnx)

    def litert(name: str, resolver: str, slow: bool = False) -> Runtime:
        def open_it() -> Run:
            if path is None:
                raise MissingDependencyError("no data folder; give --data or set BITSHIP_DATA")
            return rivals.litert(path, resolver)

        return Runtime(f"LiteRT {name}", "int8", open_it, slow)

    return [
        *ours.tvm_rows(graph, x, wanted, folder),
        *ours.c_rows(graph, x, wanted),
        *rivals.onnxruntime_rows(model, folder, (("u8s8", "QDQ"), ("u8s8", "QOperator"), ("s8s8", "QDQ"))),
        Runtime("ExecuTorch XNNPACK", "int8", lambda: rivals.executorch_xnnpack(model, True)),
        litert("XNNPACK", "AUTO"),
        litert("built-in", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"),
        litert("reference", "BUILTIN_REF", slow=True),
        Runtime("torch eager", "float32", lambda: rivals.torch_eager(model)),
    ]
