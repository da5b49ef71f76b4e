"""What a split package does on labelled images: right answers and wire bytes, with and without the exit."""

from collections.abc import Sequence

import msgspec
import numpy as np

from bitship.graph.base import Array
from bitship.split import rans, tables
from bitship.split.package import Rung, SplitPackage, codes_of, margins_of, symbols_of

FRAME = 19  # header and CRC


class RungResult(msgspec.Struct, frozen=True):
    """One rung, measured: every image sent (``accuracy``, ``frames``), and with the local exit taking the easy ones.

    frames      bytes of each image's frame, header and CRC included
    right       of each image, whether head and tail gave its label
    mixed_*     the exit answers where it is sure enough; such an image costs no byte
    """

    rung: int
    shift: int
    frames: tuple[int, ...]
    right: tuple[bool, ...]
    mixed_accuracy: float
    mixed_bytes: float
    local_share: float

    @property
    def accuracy(self) -> float:
        """Share of right answers where every image is sent."""
        return float(np.mean(self.right))

    @property
    def mean_bytes(self) -> float:
        """Mean frame."""
        return float(np.mean(self.frames))

    @property
    def p99_bytes(self) -> float:
        """The frame that one in a hundred is larger than."""
        return float(np.percentile(self.frames, 99))


class Result(msgspec.Struct, frozen=True):
    """A package on a set of images. ``exit_accuracy``: the exit answering every image."""

    images: int
    exit_accuracy: float
    rungs: tuple[RungResult, ...]


def evaluate(package: SplitPackage, inputs: Sequence[Array], labels: Array) -> Result:
    """Run head and tail of a package, host C kernels, on quantized images, each [1, H, W, C] of the head's dtype."""
    found = [package.head.run(row) for row in inputs]
    codes = np.concatenate([f for f, _ in found])
    logits = np.concatenate([e for _, e in found])
    sure = np.array(package.manifest.exit.confidence)[margins_of(logits)] >= package.manifest.exit.threshold
    local = logits.argmax(1) == labels
    rungs = tuple(_rung(package, r, codes, labels, sure, local) for r in range(len(package.manifest.rungs)))
    return Result(len(labels), float(local.mean()), rungs)


def frame_bytes(table: tables.Tables, symbols: Array) -> int:
    """Return the size of the frame for one image's symbols [C, H, W]: rANS, or raw where that is smaller."""
    return FRAME + min(len(rans.encode(table, symbols)), symbols.size)


def _rung(package: SplitPackage, rung: int, codes: Array, labels: Array, sure: Array, local: Array) -> RungResult:
    manifest = package.manifest
    shift, zero_point = manifest.rungs[rung].shift, manifest.zero_point
    table = tables.parse(package.tables(rung), manifest.features[2])
    symbols = symbols_of(codes, zero_point, shift)
    given = codes_of(symbols, zero_point, shift)
    right = np.array([int(package.tail.run(c[None])[0].argmax()) for c in given]) == labels
    frames = np.array([frame_bytes(table, s) for s in np.ascontiguousarray(symbols.transpose(0, 3, 1, 2))])
    return RungResult(
        rung=rung,
        shift=shift,
        frames=tuple(int(n) for n in frames),
        right=tuple(bool(r) for r in right),
        mixed_accuracy=float(np.where(sure, local, right).mean()),
        mixed_bytes=float(np.where(sure, 0, frames).mean()),
        local_share=float(sure.mean()),
    )


def measured(package: SplitPackage, result: Result) -> tuple[Rung, ...]:
    """Return the package's rungs with what was measured."""
    return tuple(
        msgspec.structs.replace(
            rung,
            mean_bytes=round(r.mean_bytes, 2),
            p99_bytes=round(r.p99_bytes, 2),
            accuracy=round(r.accuracy, 5),
            measured_on=result.images,
        )
        for rung, r in zip(package.manifest.rungs, result.rungs, strict=True)
    )
