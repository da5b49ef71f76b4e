"""The real models and images under BITSHIP_DATA, and inputs made from them."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitship.errors import BitshipError
from bitship.graph import Graph
from bitship.graph.base import Array

MOVENET_CUT = (
    "ArgMax",
    "Sigmoid1",
    "kpt_offset_0/conv2d_7/BiasAdd;kpt_regress_0/conv2d_6/Conv2D;kpt_offset_0/conv2d_7/Conv2D;conv2d_7/bias1",
    "kpt_regress_0/conv2d_6/BiasAdd;kpt_regress_0/conv2d_6/Conv2D;conv2d_6/bias1",
)


@dataclass(frozen=True)
class RealModel:
    """One file, and the tensors it is cut at (none: its own outputs)."""

    name: str
    path: str
    outputs: tuple[str, ...] = ()


MODELS = (
    RealModel("ResNet8 (IC)", "mlperf_tiny/ic01_resnet8_int8.tflite"),
    RealModel("DS-CNN (KWS)", "mlperf_tiny/kws01_dscnn_int8.tflite"),
    RealModel("MobileNetV1-0.25 (VWW)", "mlperf_tiny/vww01_mobilenetv1_int8.tflite"),
    RealModel("Autoencoder (AD)", "mlperf_tiny/ad01_autoencoder_int8.tflite"),
    RealModel("Streaming wake word", "mlperf_tiny/sww01_streaming_wakeword_int8.tflite"),
    RealModel("MCUNet VWW", "mcunet/mcunet_vww1_int8.tflite"),
    RealModel("MCUNetV2-style, SE", "mcunet/mcunetv2_large_int8.tflite"),
    RealModel("MobileNetV2-0.35 144", "mcunet/mobilenet_v2_w035_144_random_int8.tflite"),
    RealModel("MobileNetV2-1.0 224", "coral/tf2_mobilenet_v2_1.0_224_ptq.tflite"),
    RealModel("MobileNetV1-0.25 128 uint8", "coral/mobilenet_v1_0.25_128_quant.tflite"),
    RealModel("MoveNet, cut", "coral/movenet_single_pose_lightning_ptq.tflite", MOVENET_CUT),
)


def data_folder(given: Path | None) -> Path:
    """Return the data folder: the one given, else $BITSHIP_DATA; BitshipError when there is none."""
    folder = given or (Path(os.environ["BITSHIP_DATA"]) if "BITSHIP_DATA" in os.environ else None)
    if folder is None or not folder.is_dir():
        raise BitshipError("data: no folder; give --data FOLDER or set BITSHIP_DATA")
    return folder


def jpegs(path: Path) -> Iterator[tuple[Array, int]]:
    """Yield (image [H, W, 3] uint8, label) from one of the .npz files of JPEGs."""
    from PIL import Image

    with np.load(path, allow_pickle=False) as data:
        body, offsets, labels = data["jpeg"].tobytes(), data["offsets"], data["labels"]
    for i, label in enumerate(labels):
        with Image.open(io.BytesIO(body[offsets[i] : offsets[i + 1]])) as image:
            yield np.asarray(image.convert("RGB")), int(label)


def inputs(graph: Graph, count: int, folder: Path) -> list[tuple[Array, ...]]:
    """Return ``count`` inputs: lowest, highest, photographs where the input is an image, and random codes."""
    from PIL import Image

    port = graph.inputs[0]
    dtype, shape = port.type.dtype, port.type.shape
    rows = [np.full(shape, dtype.qmin, dtype.numpy), np.full(shape, dtype.qmax, dtype.numpy)]
    if len(shape) == 4 and shape[3] == 3:
        for image, _ in jpegs(folder / "imagenet_samples" / "samples.npz"):
            if len(rows) >= max(2, count // 2):
                break
            sized = Image.fromarray(image).resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
            rows.append((np.asarray(sized, np.int16) + dtype.qmin).astype(dtype.numpy)[None])
    rng = np.random.default_rng(0)
    while len(rows) < count:
        rows.append(rng.integers(dtype.qmin, dtype.qmax, shape, np.int64, endpoint=True).astype(dtype.numpy))
    return [(row,) for row in rows[:count]]
