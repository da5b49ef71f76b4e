"""A small split package of random weights, for tests and benchmarks of everything around a model.

Its answers mean nothing; its bits, its bytes and its times are as good as any.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitship.graph import DType, Graph, GraphBuilder
from bitship.graph.base import Array
from bitship.graph.ir import Quant
from bitship.graph.ops import AvgPool2D, Conv2D, FullyConnected, Rescale, Reshape
from bitship.split import package, tables
from bitship.split.package import Exit, Rung, SplitManifest, SplitPackage

CLASSES, ZERO_POINT = 10, -3
ALWAYS, NEVER = 0, 65535  # thresholds of the local exit


@dataclass(frozen=True)
class Size:
    """Features [side, side, channels], and the width and depth of the tail."""

    side: int = 8
    channels: int = 8
    width: int = 16
    depth: int = 1


SMALL, LARGE = Size(), Size(width=96, depth=5)


def _rescale(channels: int, fan_in: int, spread: float = 60.0) -> Rescale:
    """Bring sums of ``fan_in`` products of codes back to codes of about the given spread."""
    mantissa, exponent = np.frexp(spread / (70 * 70 * np.sqrt(fan_in)))
    return Rescale(
        multiplier=(round(mantissa * (1 << 31)),) * channels,
        shift=(int(exponent),) * channels,
        output_zero_point=ZERO_POINT,
        dtype=DType.INT8,
        qmin=-128,
        qmax=127,
    )


class _Maker:
    def __init__(self, name: str, seed: int, shape: tuple[int, int, int, int]) -> None:
        self.r = np.random.default_rng(seed)
        self.b = GraphBuilder(name)
        self.last = self.b.input("x", shape, DType.INT8)

    def _weights(self, *shape: int) -> tuple[str, str]:
        w = self.r.integers(-127, 128, shape).astype(np.int8)
        return self.b.constant("w", w), self.b.constant("b", np.zeros(shape[0], np.int32))

    def conv(self, name: str, channels: int, stride: int, spread: float = 60.0) -> str:
        c = self.b.types[self.last].shape[3]
        op = Conv2D(
            padding=(1, 1, 1, 1),
            stride=(stride, stride),
            input_zero_point=ZERO_POINT,
            requant=_rescale(channels, 9 * c, spread),
        )
        self.last = self.b.node(name, op, self.last, *self._weights(channels, 3, 3, c))
        return self.last

    def classify(self, name: str) -> str:
        _, h, w, c = self.b.types[self.last].shape
        pooled = self.b.node(f"{name}_pool", AvgPool2D((h, w), (1, 1)), self.last)
        flat = self.b.node(f"{name}_flat", Reshape((1, c)), pooled)
        op = FullyConnected(input_zero_point=ZERO_POINT, requant=_rescale(1, c, 400.0))
        return self.b.node(name, op, flat, *self._weights(CLASSES, c))


def head(size: Size, seed: int = 0) -> Graph:
    """Image [1, 2 * side, 2 * side, 3] to features and exit."""
    m = _Maker(f"head{seed}", seed, (1, 2 * size.side, 2 * size.side, 3))
    features = m.conv("features", size.channels, 2, 6.0)
    local = m.classify("exit")
    return m.b.finish([(features, Quant(0.1, ZERO_POINT)), (local, Quant(0.1, ZERO_POINT))])


def tail(size: Size, seed: int = 1) -> Graph:
    """Codes [1, side, side, channels] to logits."""
    m = _Maker(f"tail{seed}", seed, (1, size.side, size.side, size.channels))
    for i in range(size.depth):
        m.conv(f"conv{i}", size.width, 1)
    return m.b.finish([(m.classify("logits"), Quant(0.05, ZERO_POINT))])


def images(size: Size, count: int, seed: int = 5) -> list[Array]:
    """Random images."""
    r = np.random.default_rng(seed)
    side = 2 * size.side
    return [r.integers(-128, 128, (1, side, side, 3)).astype(np.int8) for _ in range(count)]


def make(
    path: Path, size: Size = SMALL, threshold: int = NEVER, seed: int = 0, shifts: tuple[int, ...] = (0, 2)
) -> SplitPackage:
    """Write a package whose tables fit the features of random images."""
    h, t = head(size, seed), tail(size, seed + 1)
    codes = np.concatenate([h.run(x)[0] for x in images(size, 32)])
    blocks, rungs = [], []
    for i, shift in enumerate(shifts):
        symbols = package.symbols_of(codes, ZERO_POINT, shift).transpose(0, 3, 1, 2)
        blocks.append(tables.build(tables.count(symbols)).block())
        rungs.append(Rung(shift, package.table_hash(blocks[-1]).hex(), accuracy=0.9 - 0.02 * i, measured_on=0))
    manifest = SplitManifest(
        name="parts",
        head_digest=h.digest,
        tail_digest=t.digest,
        model_hash=package.model_hash(h.digest, t.digest).hex(),
        features=(size.side, size.side, size.channels),
        zero_point=ZERO_POINT,
        classes=CLASSES,
        rungs=tuple(rungs),
        exit=Exit(tuple(int(n) for n in np.linspace(6553, 65000, package.MARGINS)), threshold),
    )
    return package.write(path, manifest, h, t, b"".join(blocks))
