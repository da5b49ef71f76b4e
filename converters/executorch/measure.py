"""How far a tolerant program's bits are from the graph's."""

from typing import Any

import msgspec
import numpy as np

from bitship.converters.base import Session
from bitship.graph import Graph, spec
from bitship.graph.base import Array

INPUTS = 4


class Difference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured on ``inputs`` random inputs of full range.

    max_lsb         largest difference of one output element
    equal           share of output elements with the same bits
    sqnr_db         signal (outputs about their mean) to difference; None when no element differs
    top1_agreement  share of rows of the first output whose largest element is at the same place
    """

    inputs: int
    max_lsb: int
    equal: float
    sqnr_db: float | None
    top1_agreement: float


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``xnnpack.json`` says: the difference, or why there is no such program."""

    delegates: int = 0
    difference: Difference | None = None
    skipped: str | None = None


def random_inputs(graph: Graph, count: int, seed: int = 0) -> list[tuple[Array, ...]]:
    """Return inputs drawn evenly from the whole range of each dtype."""
    r = np.random.default_rng(seed)

    def draw(dtype: Any, shape: tuple[int, ...]) -> Array:
        return r.integers(dtype.qmin, dtype.qmax, shape, np.int64, endpoint=True).astype(dtype.numpy)

    return [tuple(draw(p.type.dtype, p.type.shape) for p in graph.inputs) for _ in range(count)]


def measure(graph: Graph, session: Session, count: int = INPUTS) -> Difference:
    """Run both on random inputs and compare every output."""
    errors, signals, same_top = [], [], []
    for inputs in random_inputs(graph, count):
        pairs = list(zip(session.run(*inputs), spec.run(graph, *inputs), strict=True))
        errors.append(np.concatenate([found.ravel().astype(np.int64) - wanted.ravel() for found, wanted in pairs]))
        signals.append(np.concatenate([wanted.ravel().astype(np.float64) for _, wanted in pairs]))
        rows = [side.reshape(-1, side.shape[-1] if side.shape else 1).argmax(axis=1) for side in pairs[0]]
        same_top.append(float((rows[0] == rows[1]).mean()))
    error, signal = np.concatenate(errors), np.concatenate(signals)
    noise, power = float((error**2).sum()), float(((signal - signal.mean()) ** 2).sum())
    return Difference(
        inputs=count,
        max_lsb=int(np.abs(error).max()),
        equal=round(float((error == 0).mean()), 6),
        sqnr_db=round(float(10 * np.log10(power / noise)), 2) if noise and power else None,
        top1_agreement=round(float(np.mean(same_top)), 6),
    )
