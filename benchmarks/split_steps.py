"""A link whose bandwidth steps: does the rung follow, and is that better than any fixed one?

With a package whose rungs' accuracies were measured, its own images over frames, through a gateway; without one a
package of random weights over gRPC, and accuracies that are assumed.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.split_ask import Figure, client_of, late_of, listening
from benchmarks.split_load import serving
from benchmarks.split_parts import NEVER, Size, images, make
from bitship.errors import BitshipError
from bitship.graph.base import Array
from bitship.split import package, scenes
from bitship.split.client import Result
from bitship.split.frame import Source
from bitship.split.gateway import Gateway
from bitship.split.link import Link, Shape
from bitship.split.package import SplitPackage
from bitship.split.policy import OFFLOAD, Choice, LinkEstimate, Policy
from bitship.split.remote import FramedRemote, GrpcRemote, Remote, SocketLine
from bitship.split.wire import Wire

BIG = Size(side=16, channels=16)  # features of 4,096 symbols, so that rungs differ by more than a request's headers
ASSUMED, ASSUMED_LOCAL = (0.92, 0.90, 0.86, 0.80), 0.5
DELAY_S, PER_STEP = 0.02, 12
TRAINED_IMAGES = 24


@dataclass(frozen=True)
class Scenario:
    """What is asked and through which link.

    rates       of the steps, bits a second
    accuracy    of the rungs, ``local`` of the exit; ``said`` names where they are from
    framed      frames through a gateway; else gRPC
    """

    made: SplitPackage
    inputs: Sequence[Array]
    rates: tuple[float, ...]
    deadline_s: float
    accuracy: tuple[float, ...]
    local: float
    framed: bool
    said: str

    def expected(self, found: Sequence[Result]) -> float:
        """Return the share of right answers inside the deadline that the accuracies promise."""
        inside = [r for r in found if r.latency.total <= self.deadline_s]
        return sum(self.local if r.rung is None else self.accuracy[r.rung] for r in inside) / len(found)


def assumed(folder: Path) -> Scenario:
    """Return random weights and assumed accuracies."""
    made = make(folder / "steps", BIG, shifts=(0, 2, 3, 4))
    said = f"assumed accuracies {ASSUMED}, local {ASSUMED_LOCAL}"
    rates = (400_000.0, 60_000.0, 30_000.0, 120_000.0, 400_000.0)
    return Scenario(made, images(BIG, 8), rates, 0.5, ASSUMED, ASSUMED_LOCAL, False, said)


def trained(path: Path) -> Scenario:
    """Return a package of DigitScenes-64 with what was measured of it; BitshipError where nothing was."""
    from bitship.split import build

    made = package.read(path)
    accuracy, local = tuple(r.accuracy for r in made.manifest.rungs), made.manifest.exit.accuracy
    if not all(accuracy) or not local:
        raise BitshipError(
            f"{path}: its accuracies were not measured; python -m benchmarks.split --scenes measures them"
        )
    seen = scenes.normalise(scenes.held_out(1).images[:TRAINED_IMAGES])
    said = f"accuracies measured on {made.manifest.rungs[0].measured_on} images: {accuracy}, local {local}"
    rates = (40_000.0, 4_600.0, 2_900.0, 6_500.0, 40_000.0)
    return Scenario(made, build.inputs_of(made.head, seen), rates, 0.5, accuracy, local, True, said)


@dataclass(frozen=True)
class _Fixed(Policy):
    """Always the same rung."""

    rung: int = 0

    def choose(self, local: Any, request_bytes: list[int], left_s: float, link: LinkEstimate) -> Choice:
        """Return the rung."""
        return Choice(self.rung, OFFLOAD)


@contextmanager
def _reached(scenario: Scenario) -> Iterator[int]:
    """A server of the package, behind a gateway where frames are asked for; gives the port to go to."""
    wire = Wire(scenario.made)
    with serving(scenario.made, "host") as server:
        if not scenario.framed:
            yield server.port
            return
        gateway = Gateway(wire, GrpcRemote(wire, server.address))
        try:
            with listening(gateway) as port:
                yield port
        finally:
            gateway.remote.close()


def _through(scenario: Scenario, port: int, policy: Policy) -> tuple[list[Result], list[int]]:
    """Ask through a link whose rate changes; the results, and after how many requests the rung changed."""
    found: list[Result] = []
    changed: list[int] = []
    wire, inputs = Wire(scenario.made), scenario.inputs
    with Link("127.0.0.1", port, Shape(scenario.rates[0], DELAY_S)) as link:
        remote: Remote = GrpcRemote(wire, link.address)
        if scenario.framed:
            remote = FramedRemote(wire, lambda: SocketLine.connect("127.0.0.1", link.listen))
        client = client_of(scenario.made, remote, policy)
        try:
            for step, rate in enumerate(scenario.rates):
                link.shape.rate_bps = rate
                rungs = []
                for i in range(PER_STEP):
                    found.append(client.infer(inputs[(step * PER_STEP + i) % len(inputs)], scenario.deadline_s))
                    rungs.append(found[-1].rung)
                    time.sleep(0.02)
                if step:
                    settled = statistics.mode(rungs[3:])
                    changed.append(next(i for i, r in enumerate(rungs) if r == settled))
        finally:
            client.close()
    return found, changed


def steps(scenario: Scenario) -> list[Figure]:
    """Steps of bandwidth: the rung follows, and that is better than any fixed one."""
    accuracy, deadline = scenario.accuracy, scenario.deadline_s
    with _reached(scenario) as port:
        adaptive, changed = _through(scenario, port, Policy(NEVER, accuracy))
        fixed = [
            scenario.expected(_through(scenario, port, _Fixed(NEVER, accuracy, rung=r))[0])
            for r in range(len(accuracy))
        ]
    inside = 1 - late_of(adaptive, deadline) / len(adaptive)
    every = ", ".join(f"{s:.3f}" for s in fixed)
    tail = sum(r.source is Source.TAIL for r in adaptive) / len(adaptive)
    found = scenario.expected(adaptive)
    return [
        Figure(
            "bandwidth steps: requests until the new rung",
            f"{max(changed)} at most of {len(changed)}",
            "3",
            max(changed) <= 3,
        ),
        Figure("bandwidth steps: inside the deadline", f"{inside:.1%}; {tail:.1%} by the tail", "95 %", inside >= 0.95),
        Figure(
            "bandwidth steps: expected right answers",
            f"{found:.3f}; fixed rungs {every} ({scenario.said})",
            "above every fixed rung",
            found > max(fixed),
        ),
    ]
