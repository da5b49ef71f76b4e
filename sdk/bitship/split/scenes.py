"""DigitScenes-64: scikit-learn's digits pasted on photographs that scikit-image and scikit-learn ship; no download."""

import enum
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from bitship.extras import require
from bitship.graph.base import Array

SIZE, DIGIT = 64, 40
TRAIN_DIGITS = 1297  # the first ones; the last 500 test
CLASSES = 10


@dataclass(frozen=True)
class Scenes:
    """``images`` uint8 [N, 64, 64, 3] and ``labels`` int64 [N]."""

    images: Array
    labels: Array


def training(passes: int = 6, seed: int = 0) -> Scenes:
    """Return ``passes`` scenes of each of the 1,297 training digits; six passes of seed 0 are the published set.

    Raises MissingDependencyError without scikit-learn, scikit-image or Pillow.
    """
    return _scenes(slice(0, TRAIN_DIGITS), _train_photographs(), passes, seed)


def held_out(passes: int = 1, seed: int = 1) -> Scenes:
    """Return ``passes`` scenes of each of the 500 test digits, on other photographs.

    Scenes of one digit are alike, so the errors of more passes than one are correlated.
    """
    return _scenes(slice(TRAIN_DIGITS, None), _test_photographs(), passes, seed)


def normalise(images: Array) -> Array:
    """Return float32 [N, 3, 64, 64] in [-1, 1] for uint8 [N, 64, 64, 3]: what the networks take."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1))


def _train_photographs() -> list[Array]:
    data, samples = _photographs()
    return [data.astronaut(), data.coffee(), data.chelsea(), samples[0], data.rocket()]


def _test_photographs() -> list[Array]:
    data, samples = _photographs()
    return [samples[1], data.immunohistochemistry(), data.retina()[300:1100, 300:1100]]


def _photographs() -> tuple[Any, list[Array]]:
    data = require("skimage.data", "split-train", "DigitScenes")
    return data, require("sklearn.datasets", "split-train", "DigitScenes").load_sample_images().images


def _digits() -> tuple[list[Array], Array]:
    image = require("PIL.Image", "split-train", "DigitScenes")
    found = require("sklearn.datasets", "split-train", "DigitScenes").load_digits()

    def large(digit: Array) -> Array:
        grey = image.fromarray((digit.astype(np.float32) / 16 * 255).astype(np.uint8))
        return np.asarray(grey.resize((DIGIT, DIGIT), image.Resampling.BILINEAR), np.float32) / 255

    return [large(d) for d in found.images], found.target


def _scenes(chosen: slice, photographs: list[Array], passes: int, seed: int) -> Scenes:
    digits, labels = _digits()
    r = np.random.default_rng(seed)
    pairs = list(zip(digits[chosen], labels[chosen], strict=True)) * passes
    images = np.stack([_scene(r, digit, photographs) for digit, _ in pairs])
    return Scenes(images, np.array([label for _, label in pairs], np.int64))


def _scene(r: np.random.Generator, digit: Array, photographs: list[Array]) -> Array:
    photograph = photographs[r.integers(len(photographs))]
    stride = int(r.integers(1, 4))
    height, width = photograph.shape[:2]
    y, x = (int(r.integers(n - SIZE * stride + 1)) for n in (height, width))
    r.uniform(0, 255, 3)  # drawn and not used: the published draws have it
    jitter = r.uniform(-30, 30, 3)
    size = int(r.integers(34, 41))
    oy, ox = (int(r.integers(SIZE - size + 1)) for _ in range(2))
    noise = r.normal(0, 4, (SIZE, SIZE, 3))
    crop = photograph[y : y + SIZE * stride : stride, x : x + SIZE * stride : stride].astype(np.float32)
    luminance = crop.mean(axis=(0, 1)).mean()
    colour = np.clip(jitter + (luminance + 120 if luminance < 128 else luminance - 120), 0, 255)
    at = np.round(np.linspace(0, DIGIT - 1, size)).astype(int)
    alpha = np.zeros((SIZE, SIZE, 1), np.float32)
    alpha[oy : oy + size, ox : ox + size, 0] = np.clip(1.6 * digit[np.ix_(at, at)], 0, 1)
    scene: Array = np.clip(crop * (1 - alpha) + colour * alpha + noise, 0, 255).astype(np.uint8)
    return scene


class Codec(enum.Enum):
    """An image codec of Pillow's."""

    JPEG = "JPEG"
    WEBP = "WEBP"
    PNG = "PNG"


class FilePoint(msgspec.Struct, frozen=True):
    """What a model makes of images that went through a codec's files."""

    codec: str
    quality: int
    mean_bytes: float
    accuracy: float


def files(images: Array, codec: Codec, quality: int = 0) -> Iterator[tuple[int, Array]]:
    """Yield each image's size in bytes as a whole file, and the image as it is decoded from it."""
    image = require("PIL.Image", "split-train", "image files")
    options: dict[str, int] = {"method": 6} if codec is Codec.WEBP else {"optimize": 1}
    for picture in images:
        buffer = io.BytesIO()
        image.fromarray(picture).save(buffer, codec.value, quality=quality, **options)
        size = buffer.tell()
        buffer.seek(0)
        yield size, np.asarray(image.open(buffer).convert("RGB"))
