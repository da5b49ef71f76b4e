"""What a split package does on labelled images: right answers and wire bytes, with and without the exit."""

from collections.abc import Sequence

import msgspec
import numpy as np

from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.split.frame import EXTRA_BYTES
from bitship.split.package import Rung, SplitPackage, margins_of
from bitship.split.wire import Wire


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
    wire, tail = Wire(package), package.tail
    rungs = tuple(_rung(wire, tail, r, codes, labels, sure, local) for r in range(len(wire.tables)))
    return Result(len(labels), float(local.mean()), rungs)


def _rung(wire: Wire, tail: Graph, rung: int, codes: Array, labels: Array, sure: Array, local: Array) -> RungResult:
    sent = [wire.pack(c[None], rung, 0) for c in codes]
    right = np.array([int(tail.run(wire.unpack(f))[0].argmax()) for f in sent]) == labels
    frames = np.array([EXTRA_BYTES + len(f.payload) for f in sent])
    return RungResult(
        rung=rung,
        shift=wire.manifest.rungs[rung].shift,
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
