"""From a trained split model to a split package: integer head, the tail fitted to its codes, tables, exit.

This module imports torch at once, so it is imported inside functions only.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from bitship.errors import QuantizationError
from bitship.graph import Graph, Node, Port
from bitship.graph.base import Array
from bitship.graph.ir import Quant
from bitship.quantization import quantize
from bitship.split import tables
from bitship.split.package import (
    MARGINS,
    Exit,
    Rung,
    SplitManifest,
    SplitPackage,
    codes_of,
    margins_of,
    model_hash,
    symbols_of,
    table_hash,
    write,
)
from bitship.split.train import Batch, Data, Report, Split

CALIBRATION = 256
TABLE_IMAGES = 2000
SURE = 0.95  # from this calibrated confidence on the exit answers by itself


@dataclass(frozen=True)
class Labelled:
    """Images float32 [N, C, H, W] as the networks take them, and labels int64 [N]; NumPy arrays."""

    images: Array
    labels: Array


@dataclass(frozen=True)
class IntegerHead:
    """A head's graph, and what its features mean."""

    graph: Graph
    quant: Quant
    shifts: tuple[int, ...]

    def run(self, images: Array) -> tuple[Array, Array]:
        """Return (codes int8 [N, H, W, C], codes of the exit's logits int8 [N, classes]) of float images."""
        found = [self.graph.run(row) for row in inputs_of(self.graph, images)]
        return np.concatenate([f for f, _ in found]), np.concatenate([e for _, e in found])


def inputs_of(graph: Graph, images: Array) -> list[Array]:
    """Quantize float images [N, C, H, W] to a graph's input: one array [1, H, W, C] per image."""
    port = graph.inputs[0]
    if port.quant is None:
        raise QuantizationError(f"{graph.name}: the input has no scale; the float image cannot be brought to it")
    codes = np.rint(images.transpose(0, 2, 3, 1) / np.float32(port.quant.scale)) + port.quant.zero_point
    codes = np.clip(codes, port.type.dtype.qmin, port.type.dtype.qmax).astype(port.type.dtype.numpy)
    return [np.ascontiguousarray(c[None]) for c in codes]


def integer_head(split: Split, images: Array) -> IntegerHead:
    """Quantize the head; every rung's step becomes the nearest power of two of the features' scale."""
    graph = quantize(split.head.eval(), [torch.from_numpy(images[:CALIBRATION])], "int8", "head")
    graph = _renamed(graph, dict(zip((p.name for p in graph.outputs), ("features", "exit"), strict=True)))
    quant = graph.outputs[0].quant
    if quant is None:
        raise QuantizationError("head: its features have no scale")
    shifts = [max(0, round(float(np.log2(step / quant.scale)))) for step in split.recipe.steps]
    if len(set(shifts)) != len(shifts):
        raise QuantizationError(
            f"head: steps {split.recipe.steps} are too fine for the features' scale {quant.scale:.4g}"
        )
    return IntegerHead(graph, quant, tuple(shifts))


def _renamed(graph: Graph, names: dict[str, str]) -> Graph:
    """Return the graph with some tensors under other names."""
    if taken := set(names.values()) & set(graph.types):
        raise QuantizationError(f"{graph.name}: a tensor is called '{min(taken)}', which the head's output is to be")

    def port(p: Port) -> Port:
        return msgspec.structs.replace(p, name=names.get(p.name, p.name))

    def node(n: Node) -> Node:
        inputs = tuple(names.get(i, i) for i in n.inputs)
        return msgspec.structs.replace(n, inputs=inputs, output=names.get(n.output, n.output))

    return replace(graph, outputs=tuple(map(port, graph.outputs)), nodes=tuple(map(node, graph.nodes)))


def dequantized(head: IntegerHead, codes: Array) -> Any:
    """Return what the float tail takes for codes int8 [N, H, W, C]: float32 [N, C, H, W]."""
    values = (codes.astype(np.float32) - head.quant.zero_point) * np.float32(head.quant.scale)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def sent(head: IntegerHead, codes: Array, rung: int | Array) -> Array:
    """Return the codes the tail is given where the device sent these at a rung, one for all or one an image."""
    rungs = np.broadcast_to(rung, len(codes))
    given = np.empty_like(codes)
    for r, shift in enumerate(head.shifts):
        chosen = rungs == r
        symbols = symbols_of(codes[chosen], head.quant.zero_point, shift)
        given[chosen] = codes_of(symbols, head.quant.zero_point, shift)
    return given


def fit_tail(split: Split, head: IntegerHead, data: Data, epochs: int, report: Report) -> None:
    """Run stage 3 on codes of as many epochs' images as are given; codes are made once and used again."""
    kept = []
    for number in range(epochs):
        rows = data.epoch(5000 + number)
        kept.append((head.run(rows[0].numpy())[0], rows))

    def given(epoch: int) -> Batch:
        codes, rows = kept[epoch % len(kept)]
        rungs = np.random.default_rng(epoch).integers(0, len(head.shifts), len(codes))
        return dequantized(head, sent(head, codes, rungs)), *rows

    split.fit(given, report)


def integer_tail(split: Split, head: IntegerHead, codes: Array) -> Graph:
    """Quantize the tail; its input has the features' own scale and zero point, so that codes enter as they are."""
    rungs = np.arange(len(codes)) % len(head.shifts)
    given = sent(head, codes, rungs)
    ends = np.zeros((1, *codes.shape[1:]), np.int8) + np.int8(head.quant.zero_point)
    ends.flat[0], ends.flat[1] = -128, 127
    samples = dequantized(head, np.concatenate([ends, given]))
    graph = quantize(split.tail.eval(), [samples], "int8", "tail")
    found = graph.inputs[0].quant
    same = found is not None and found.zero_point == head.quant.zero_point
    if not same or found is None or not np.isclose(found.scale, head.quant.scale, rtol=1e-5):
        raise QuantizationError(f"tail: its input is {found}, the head's features are {head.quant}")
    return graph


def confidences(logits: Array, labels: Array) -> tuple[int, ...]:
    """Return the exit's calibrated confidence by margin: 256 values of 65,535, never falling.

    logits  codes int8 [N, classes] of images that nothing was trained on; pool adjacent violators makes it monotonic
    """
    margins, right = margins_of(logits), logits.argmax(1) == labels
    count, good = (np.bincount(margins, w, MARGINS) for w in (np.ones(len(labels)), right.astype(float)))
    pools: list[list[float]] = []  # [right + prior, count + prior, margins]
    for margin in range(MARGINS):
        pools.append([good[margin] + 1e-3 / logits.shape[1], count[margin] + 1e-3, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] >= pools[-1][0] / pools[-1][1]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    # one more wrong answer than was seen in each pool: what was seen a few times is not certain
    found = [round(65535 * a / (n + 1)) for a, n, size in pools for _ in range(int(size))]
    return tuple(itertools.accumulate(found, max))


@dataclass(frozen=True)
class Built:
    """A package's parts, before what they do was measured."""

    head: IntegerHead
    tail: Graph
    blocks: tuple[bytes, ...]
    exit: Exit


def build(split: Split, data: Data, held_out: Labelled, fit_epochs: int, report: Report) -> Built:
    """Quantize head and tail, fit the tail in between, and make tables and exit.

    held_out  what nothing was trained on: the exit's confidence comes from it
    """
    images = data.epoch(0)[0]
    head = integer_head(split, images.numpy())
    fit_tail(split, head, data, fit_epochs, report)
    codes, _ = head.run(images.numpy()[:TABLE_IMAGES])
    tail = integer_tail(split, head, codes[:CALIBRATION])
    counts = [tables.count(symbols_of(codes, head.quant.zero_point, s).transpose(0, 3, 1, 2)) for s in head.shifts]
    blocks = tuple(tables.build(c).block() for c in counts)
    _, logits = head.run(held_out.images)
    return Built(head, tail, blocks, Exit(confidences(logits, held_out.labels), round(SURE * 65535)))


def save(built: Built, path: Path, name: str) -> SplitPackage:
    """Write the package."""
    head, tail = built.head.graph, built.tail
    rungs = [Rung(s, table_hash(b).hex()) for s, b in zip(built.head.shifts, built.blocks, strict=True)]
    _, height, width, channels = head.outputs[0].type.shape
    manifest = SplitManifest(
        name=name,
        head_digest=head.digest,
        tail_digest=tail.digest,
        model_hash=model_hash(head.digest, tail.digest).hex(),
        features=(height, width, channels),
        zero_point=built.head.quant.zero_point,
        classes=head.outputs[1].type.shape[1],
        rungs=tuple(rungs),
        exit=built.exit,
    )
    return write(path, manifest, head, tail, b"".join(built.blocks))


def save_measured(package: SplitPackage, rungs: Sequence[Rung], exit_accuracy: float) -> SplitPackage:
    """Write a package again with what was measured of it."""
    manifest = msgspec.structs.replace(
        package.manifest,
        rungs=tuple(rungs),
        exit=msgspec.structs.replace(package.manifest.exit, accuracy=round(exit_accuracy, 5)),
    )
    blocks = b"".join(package.tables(r) for r in range(len(rungs)))
    return write(package.path, manifest, package.head, package.tail, blocks)
