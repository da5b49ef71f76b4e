"""How far a tolerant program's bits are from the graph's."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from bitship.converters.base import Session
from bitship.graph import Graph
from bitship.graph.base import Array

INPUTS = 4


class Difference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured on ``inputs`` inputs.

    max_lsb         largest difference of one output element
    equal           share of output elements with the same bits
    sqnr_db         signal (outputs about their mean) to difference; None when no element differs
    top1_agreement  share of rows of the first output whose largest element is at the same place
    source          what the inputs were: ``random`` ones of the whole range, or a name of real data
    """

    inputs: int
    max_lsb: int
    equal: float
    sqnr_db: float | None
    top1_agreement: float
    source: str = "random"


def random_inputs(graph: Graph, count: int, seed: int = 0) -> list[tuple[Array, ...]]:
    """Return inputs drawn evenly from the whole range of each dtype."""
    r = np.random.default_rng(seed)

    def draw(dtype: Any, shape: tuple[int, ...]) -> Array:
        return r.integers(dtype.qmin, dtype.qmax, shape, np.int64, endpoint=True).astype(dtype.numpy)

    return [tuple(draw(p.type.dtype, p.type.shape) for p in graph.inputs) for _ in range(count)]


def measure(
    graph: Graph,
    session: Session,
    rows: Sequence[tuple[Array, ...]] | None = None,
    source: str = "random",
    exact: Sequence[tuple[Array, ...]] | None = None,
) -> Difference:
    """Run a session and the graph on the same inputs and compare every output.

    rows   inputs, one tuple each; a few random ones of the whole range when None. ``source`` names them
    exact  the graph's outputs for them, where they are known already
    """
    rows = random_inputs(graph, INPUTS) if rows is None else rows
    errors, signals, same_top = [], [], []
    exact = [graph.run(*inputs) for inputs in rows] if exact is None else exact
    for inputs, outputs in zip(rows, exact, strict=True):
        pairs = list(zip(session.run(*inputs), outputs, strict=True))
        errors.append(np.concatenate([found.ravel().astype(np.int64) - wanted.ravel() for found, wanted in pairs]))
        signals.append(np.concatenate([wanted.ravel().astype(np.float64) for _, wanted in pairs]))
        sides = [side.reshape(-1, side.shape[-1] if side.shape else 1).argmax(axis=1) for side in pairs[0]]
        same_top.append(float((sides[0] == sides[1]).mean()))
    error, signal = np.concatenate(errors), np.concatenate(signals)
    noise, power = float((error**2).sum()), float(((signal - signal.mean()) ** 2).sum())
    return Difference(
        inputs=len(rows),
        max_lsb=int(np.abs(error).max()),
        equal=round(float((error == 0).mean()), 6),
        sqnr_db=round(float(10 * np.log10(power / noise)), 2) if noise and power else None,
        top1_agreement=round(float(np.mean(same_top)), 6),
        source=source,
    )
