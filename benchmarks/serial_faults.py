"""Random corruptions of the serial link: no wrong result may be accepted, nothing may hang, the link must recover.

python -m benchmarks.serial_faults --count 10000

The device is the serial application itself as a process of this machine (firmware/app/host.c), a small convolution in
it; between it and the host's link bytes are flipped, dropped, inserted, repeated, whole stretches lost, and the device
is restarted in the middle of things.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np

from bitship import targets
from bitship.converters.firmware import FirmwareConverter
from bitship.converters.firmware.host_board import build_board
from bitship.device.board_session import Info, SerialSession
from bitship.device.console.program import Program
from bitship.device.link import Link
from bitship.errors import DeviceError
from bitship.graph import Graph, GraphBuilder
from bitship.graph.base import Array
from bitship.graph.dtypes import DType
from bitship.graph.ops import Conv2D, Rescale, Rounding

SILENCE_S, QUIET_S = 0.04, 0.01
ATTEMPTS = 8
CALL_S = 30.0  # a call's deadline: far above the attempts' silences together


class Fault(Enum):
    """What happens to the line."""

    FLIP = "flipped"
    DROP = "dropped"
    INSERT = "inserted"
    REPEAT = "repeated"
    SILENCE = "silence"
    RESET = "reset"


WEIGHTS = (6, 6, 6, 3, 1, 1)


@dataclass
class FaultyLine:
    """A console that damages what goes through it, in both directions, with a chance of ``rate`` for every transfer."""

    program: Program
    rng: random.Random
    rate: float = 0.0
    done: Counter[Fault] = field(default_factory=Counter)

    def write(self, data: bytes) -> None:
        self.program.write(self._damaged(data))

    def read(self, deadline_s: float) -> bytes:
        data = self.program.read(deadline_s)
        return (self._damaged(data) or self.program.read(deadline_s)) if data else b""

    def reset(self) -> None:
        self.program.reset()

    def _damaged(self, data: bytes) -> bytes:
        if not data or self.rng.random() >= self.rate:
            return data
        fault = self.rng.choices(list(Fault), WEIGHTS)[0]
        self.done[fault] += 1
        at, count = self.rng.randrange(len(data)), self.rng.randint(1, 8)
        match fault:
            case Fault.FLIP:
                return data[:at] + bytes([data[at] ^ 1 << self.rng.randrange(8)]) + data[at + 1 :]
            case Fault.DROP:
                return data[:at] + data[at + count :]
            case Fault.INSERT:
                return data[:at] + self.rng.randbytes(count) + data[at:]
            case Fault.REPEAT:
                return data + data[at:]
            case Fault.SILENCE:
                return b""
            case Fault.RESET:
                self.program.reset()
                return data[:at]


@dataclass
class Outcome:
    """What a test gave: calls that came back right although the line was damaged, were refused, came back wrong."""

    corruptions: int
    by_kind: dict[str, int]
    right: int = 0
    refused: int = 0
    wrong: int = 0
    lost: int = 0
    slowest_s: float = 0.0

    def closing(self, seconds: float) -> str:
        """Return the closing line."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.by_kind.items()))
        return (
            f"{self.corruptions} corruptions ({kinds}) in {seconds:.0f} s: {self.wrong} wrong results accepted, "
            f"{self.right} calls came back right, {self.refused} were refused; the link recovered after every one but "
            f"{self.lost}; the slowest call took {self.slowest_s:.1f} s of {CALL_S:.0f} s"
        )


def small_graph() -> Graph:
    """Return a network of one convolution, 144 bytes each way."""
    b, rng = GraphBuilder("faults"), np.random.default_rng(5)
    x = b.input("x", (1, 6, 6, 4), DType.INT8)
    w = b.constant("w", rng.integers(-127, 127, (4, 3, 3, 4)).astype(np.int8))
    bias = b.constant("b", rng.integers(-500, 500, 4).astype(np.int32))
    rescale = Rescale(((1 << 30) + 99,), (-7,), 0, 3, Rounding.SINGLE)
    y = b.node("y", Conv2D(padding=(1, 1, 1, 1), input_zero_point=1, requant=rescale), x, w, bias)
    return b.finish([(y, None)])


def run(count: int, seed: int = 1, streamed: bool = False) -> Outcome:
    """Damage a link ``count`` times; every call that comes back is compared with the graph.

    streamed  whether the image comes over the line while the model runs
    """
    graph, target = small_graph(), targets.load("microbit")
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="bitship-") as name:
        out = Path(name)
        lowered = FirmwareConverter(streamed=streamed or None).lower(graph, target)
        program = Program([str(build_board(lowered, target, out))])
        try:
            return _calls(graph, (out / "steps.json").read_bytes(), FaultyLine(program, rng), numbers, count)
        finally:
            program.stop()


def _calls(graph: Graph, steps: bytes, line: FaultyLine, numbers: np.random.Generator, count: int) -> Outcome:
    link = Link(line, "faulty line", SILENCE_S, ATTEMPTS, QUIET_S, line.reset)
    session = SerialSession(link, Info.of(link.handshake(5), link.where), graph, steps)
    outcome = Outcome(0, {})
    while sum(line.done.values()) < count:
        row: tuple[Array, ...] = (numbers.integers(-128, 128, (1, 6, 6, 4)).astype(np.int8),)
        (wanted,) = graph.run(*row)
        before, begin = sum(line.done.values()), time.monotonic()
        line.rate = float(numbers.choice([0.02, 0.1, 0.3]))
        try:
            ((found,),) = session.run([row]) if numbers.random() < 0.7 else [(session.look(row, 0),)]
            right = np.array_equal(found, wanted)
            outcome.wrong += not right
            outcome.right += right and sum(line.done.values()) > before
        except DeviceError:
            outcome.refused += 1
        line.rate = 0.0
        outcome.slowest_s = max(outcome.slowest_s, time.monotonic() - begin)
        if sum(line.done.values()) > before:
            try:
                ((found,),) = session.run([row])
                outcome.wrong += not np.array_equal(found, wanted)
            except DeviceError:
                outcome.lost += 1
    outcome.corruptions = sum(line.done.values())
    outcome.by_kind = {k.value: n for k, n in line.done.items()}
    return outcome


def main() -> int:
    """Run and print the closing line; 1 when anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--streamed", action="store_true", help="the image comes over the line while the model runs")
    words = parser.parse_args()
    begin = time.monotonic()
    outcome = run(words.count, words.seed, words.streamed)
    print(outcome.closing(time.monotonic() - begin))
    return int(outcome.wrong > 0 or outcome.lost > 0 or outcome.slowest_s > CALL_S)


if __name__ == "__main__":
    sys.exit(main())
