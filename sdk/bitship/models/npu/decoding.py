"""Greedy decoding with a step graph through anything that runs it: the host, a library, a ``.pte``, a device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bitship.device.base import DeviceSession
from bitship.errors import GraphError
from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.models.npu.integer import MASKED

_OWN = 2  # outputs before the states: the next token and the logits


class Runs(Protocol):
    """What decoding needs of a session, or of a graph itself."""

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes."""


@dataclass(frozen=True)
class Decoded:
    """What decoding gave.

    tokens  the generated ones, without the prompt
    states  after the last step that ran; decoding goes on from them with the last token
    """

    tokens: tuple[int, ...]
    states: tuple[Array, ...]


def check_step(graph: Graph) -> None:
    """Raise GraphError unless the graph is a decoding step: each state comes out as it goes in."""
    inputs, outputs = graph.inputs, graph.outputs
    names = [p.name for p in inputs[:3]]
    if names != ["token", "position", "mask"] or len(outputs) != len(inputs) - 1 + _OWN:
        raise GraphError(f"{graph.name}: no decoding step: inputs {names}...; token, position, mask, states needed")
    for a, b in zip(inputs[1:], outputs[_OWN:], strict=True):
        if a.type != b.type or a.quant != b.quant:
            raise GraphError(f"{graph.name}: state '{a.name}' goes in as {a.type} and comes out as {b.type} '{b.name}'")


def initial(graph: Graph) -> tuple[Array, ...]:
    """Return the states before the first token: zeros, and a mask that hides every entry of the memory."""
    check_step(graph)
    return tuple(np.full(p.type.shape, MASKED if p.name == "mask" else 0, p.type.dtype.numpy) for p in graph.inputs[1:])


def positions(graph: Graph) -> int:
    """Return how many tokens one sequence may have: rows of the rotary tables."""
    table = graph.constants.get("cos.table")
    return table.shape[0] if table is not None else 1 << 30


def decode(
    graph: Graph, session: Runs, prompt: Sequence[int], count: int, states: tuple[Array, ...] | None = None
) -> Decoded:
    """Feed a prompt and return ``count`` greedy tokens; ties go to the lower token, as ``argmax`` has it.

    session  runs the graph: the graph itself, or an open session of any converter
    states   to go on from, ``initial(graph)`` when not given
    """
    states = initial(graph) if states is None else states
    begun = int(states[0][0])
    most, vocabulary = positions(graph), graph.outputs[1].type.shape[-1]
    if not prompt or count < 1 or begun + len(prompt) + count - 1 > most:
        raise GraphError(
            f"{graph.name}: {len(prompt)} tokens of prompt and {count} more from position {begun}; at least 1 each and "
            f"{most} in all are allowed"
        )
    if min(prompt) < 0 or max(prompt) >= vocabulary:
        raise GraphError(f"{graph.name}: tokens [{min(prompt)}, {max(prompt)}]; [0, {vocabulary - 1}] are known")
    found: list[int] = []
    feed = list(prompt)
    while len(found) < count:
        token = feed.pop(0) if feed else found[-1]
        outputs = session.run(np.array([token], np.int32), *states)
        states = tuple(outputs[_OWN:])
        if not feed:
            found.append(int(outputs[0][0]))
    return Decoded(tuple(found), states)


@dataclass(frozen=True)
class OnDevice:
    """A device's session as decoding takes it: one run for every token."""

    session: DeviceSession

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs of one run on the device."""
        return self.session.run([inputs])[0]
