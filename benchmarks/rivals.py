"""A torch model in other runtimes, one thread each: a function opens one and returns what runs it once."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency import Run, Runtime
from bitship.graph.base import Array

ACTIVATIONS = {"u8s8": "QUInt8", "s8s8": "QInt8"}


@dataclass(frozen=True)
class Model:
    """What the rivals run.

    module      gives the module in eval mode
    images      [N, C, H, W] float32: the first is timed, all calibrate
    write_onnx  writes the float32 model with input ``x`` to a file
    """

    module: Callable[[], Any]
    images: Array
    write_onnx: Callable[[Path], None]


def noise(size: int) -> Array:
    """Return one random image."""
    return np.random.default_rng(1).uniform(-2, 2, (1, 3, size, size)).astype(np.float32)


def torch_eager(model: Model) -> Run:
    """PyTorch eager, float32."""
    import torch

    torch.set_num_threads(1)
    module, x = model.module(), torch.from_numpy(model.images[:1])

    def run() -> object:
        with torch.inference_mode():
            return module(x)

    return run


def onnxruntime_session(path: Path, image: Array) -> Run:
    """Any ONNX file in onnxruntime, all graph optimisations on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {"x": image}
    return lambda: session.run(None, feed)


def _float_onnx(model: Model, folder: Path) -> Path:
    path = folder / "float.onnx"
    if not path.exists():
        model.write_onnx(path)
    return path


def onnx_float(model: Model, folder: Path) -> Run:
    """onnxruntime, float32."""
    return onnxruntime_session(_float_onnx(model, folder), model.images[:1])


def onnx_int8(model: Model, folder: Path, activations: str, layout: str) -> Run:
    """onnxruntime after its own static quantization: per-channel int8 weights; activations QInt8 or QUInt8."""
    from onnxruntime import quantization as q

    source, path = _float_onnx(model, folder), folder / f"{activations}-{layout}.onnx"

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": image[None]} for image in model.images]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    q.quantize_static(
        str(source),
        str(path),
        Reader(),
        quant_format=q.QuantFormat[layout],
        per_channel=True,
        activation_type=q.QuantType[activations],
        weight_type=q.QuantType.QInt8,
    )
    return onnxruntime_session(path, model.images[:1])


def onnxruntime_rows(model: Model, folder: Path, kinds: Sequence[tuple[str, str]]) -> list[Runtime]:
    """onnxruntime's rows: every (activations and weights, layout), then float32."""
    rows = [
        Runtime(f"onnxruntime {types} {layout}", "int8", partial(onnx_int8, model, folder, ACTIVATIONS[types], layout))
        for types, layout in kinds
    ]
    return [*rows, Runtime("onnxruntime float32", "float32", partial(onnx_float, model, folder))]


def litert(path: Path, resolver: str) -> Run:
    """LiteRT on the .tflite file. AUTO delegates to XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = getattr(OpResolverType, resolver)
    interpreter = Interpreter(model_path=str(path), num_threads=1, experimental_op_resolver_type=kind)
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, detail["shape"]).astype(np.uint8).view(detail["dtype"])

    def run() -> object:
        interpreter.set_tensor(detail["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run


def executorch_xnnpack(model: Model, quantized: bool) -> Run:
    """ExecuTorch with the XNNPACK delegate, float32 or int8 by its own quantizer."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings import _portable_lib
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    torch.set_num_threads(1)
    images = torch.from_numpy(model.images)
    x = images[:1].clone()
    exported = torch.export.export(model.module(), (x,))
    if quantized:
        quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        prepared = prepare_pt2e(exported.module(check_guards=False), quantizer)
        for image in images:
            prepared(image[None])
        exported = torch.export.export(convert_pt2e(prepared), (x,))
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    _portable_lib._unsafe_reset_threadpool(1)
    buffer = program.buffer
    module = _portable_lib._load_for_executorch_from_buffer(buffer)
    kept = (buffer, module)  # the module reads the buffer for as long as it lives
    return lambda: kept[1].forward([x])


def pin_to_one_core() -> None:
    """Keep this process on one core, so that no runtime gains from a second."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def leave_the_core(thread: int) -> None:
    """Keep another thread off the core that ``pin_to_one_core`` takes, where there is more than one."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(thread, cores - {max(cores)} or cores)
