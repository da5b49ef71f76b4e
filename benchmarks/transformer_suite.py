"""DeiT-T (timm's deit_tiny_patch16_224) with random weights: bitship against other runtimes, one thread each.

The rivals quantize the same weights with their own tools, on the same calibration images. bitship's rows on more
threads stand beside them to show how it scales; no ratio to a rival is taken from them.
"""

from pathlib import Path
from typing import Any

from benchmarks import ours, rivals, timm_models
from benchmarks.latency import Runtime
from bitship.graph import Graph, spec

TITLE = "DeiT-T 224, one thread unless said, interleaved; milliseconds"
NAME, SIZE, CALIBRATION = "deit_tiny_patch16_224", 224, 8


def load_graph(module: Any) -> Graph:
    """Return the integer graph of the module."""
    import bitship

    images = timm_models.images(CALIBRATION, SIZE, seed=1)
    return bitship.quantize(module, [i[None] for i in images], "int8", NAME)


def runtimes(folder: Path) -> list[Runtime]:
    """Return every runtime."""
    module = timm_models.create(NAME, SIZE)
    graph = load_graph(module)
    x = ours.sample(graph)
    wanted = spec.run(graph, *x)
    images = timm_models.images(CALIBRATION, SIZE, seed=1).numpy()
    model = rivals.Model(lambda: module, images, lambda path: _write_onnx(module, images, path))
    return [
        *ours.tvm_rows(graph, x, wanted, folder, threads=(2,)),
        *ours.c_rows(graph, x, wanted),
        *rivals.onnxruntime_rows(model, folder, (("u8s8", "QDQ"), ("s8s8", "QDQ"))),
        Runtime("ExecuTorch XNNPACK int8", "int8", lambda: rivals.executorch_xnnpack(model, True)),
        Runtime("ExecuTorch XNNPACK float32", "float32", lambda: rivals.executorch_xnnpack(model, False)),
        Runtime("torch eager", "float32", lambda: rivals.torch_eager(model)),
    ]


def _write_onnx(module: Any, images: Any, path: Path) -> None:
    import torch
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from bitship.extras import quiet

    raw = path.with_suffix(".raw.onnx")
    with quiet():
        example = (torch.from_numpy(images[:1]),)
        torch.onnx.export(module, example, str(raw), input_names=["x"], dynamo=False, opset_version=17)
    quant_pre_process(str(raw), str(path))
