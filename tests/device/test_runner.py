"""Runners through a transfer: damaged results, other bits when timed, the user's own executor_runner, clocks."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from op_builders import I8

from bitship.device.executor_runner import opened as opened_executor
from bitship.device.runner import RunnerSession, opened
from bitship.device.transfer import Completed, LocalTransfer, Transfer
from bitship.errors import DeviceError
from bitship.figures import FigureKind
from bitship.graph import Graph, GraphBuilder
from bitship.graph.ops import Clamp

STANDIN = Path(__file__).parents[1] / "standins" / "executor_runner.py"
RUNNER = """
import sys, time, zlib
words, options = sys.argv[1:], {}
if words == ["--clock"]:
    print("clock_ns", time.monotonic_ns() + 5_000_000_000)
    sys.exit()
while words[0].startswith("-"):
    options[words[0]], words = int(words[1]), words[2:]
data = open(words[0], "rb").read()
if "WRONG" in globals() and "-r" in options:
    data = bytes(len(data))
for _ in range(options.get("-r", 0)):
    print("run_ns 1500000")
if "--burst" in options:
    start = time.monotonic_ns() + 5_000_000_000
    print("burst_ns", start, start + 1_000_000)
print("first_ns 2000000")
print("peak_kib 1000")
open(words[1], "wb").write(data)
print("output 0", f"{zlib.crc32(data):08x}", len(data))
"""


def graph() -> Graph:
    b = GraphBuilder("same")
    return b.finish([(b.node("y", Clamp(-128, 127), b.input("x", (4, 8), I8)), None)])


ROWS = [(np.arange(32, dtype=np.int8).reshape(4, 8) + i,) for i in range(3)]


class Altered:
    """A transfer whose pulled files have one bit wrong, or end early."""

    def __init__(self, link: Transfer, cut: bool) -> None:
        self._link, self._cut = link, cut
        self.folder, self.launcher, self.emulated = link.folder, link.launcher, link.emulated

    def push(self, local: Path, remote: str) -> None:
        self._link.push(local, remote)

    def pull(self, remote: str, local: Path) -> None:
        self._link.pull(remote, local)
        data = bytearray(local.read_bytes())
        data[5] ^= 4
        local.write_bytes(data[:-1] if self._cut else data)

    def run(self, words: Sequence[str], deadline_s: float) -> Completed:
        return self._link.run(words, deadline_s)


@contextmanager
def session(tmp_path: Path, before: str = "", wrap: bool | None = None) -> Iterator[RunnerSession]:
    (tmp_path / "runner.py").write_text(before + RUNNER)
    with LocalTransfer().open() as link:
        used: Transfer = link if wrap is None else Altered(link, wrap)
        with opened(used, [tmp_path / "runner.py"], [sys.executable, "runner.py"], graph(), 60) as made:
            yield made


def test_rows_go_there_and_come_back(tmp_path: Path) -> None:
    with session(tmp_path) as made:
        for row, found in zip(ROWS, made.run(ROWS), strict=True):
            np.testing.assert_array_equal(found[0], row[0])


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_result_is_refused(cut: bool, tmp_path: Path) -> None:
    with session(tmp_path, wrap=cut) as made, pytest.raises(DeviceError, match="output 'y' came back damaged"):
        made.run(ROWS)


def test_figures_are_the_runners_own(tmp_path: Path) -> None:
    with session(tmp_path) as made:
        figures = {s.name: s for s in made.measure(ROWS[0], 4, 2)}
    assert figures["latency"].values == (1.5,) * 4
    assert figures["first inference"].values == (2.0,) * 3
    assert figures["peak memory"].values == (1024000.0,) * 3
    assert all(s.kind is FigureKind.MEASURED for s in figures.values())


def test_timed_runs_with_other_bits_are_no_figures(tmp_path: Path) -> None:
    with (
        session(tmp_path, "WRONG = 1\n") as made,
        pytest.raises(DeviceError, match="timed runs give other bits than an untimed one"),
    ):
        made.measure(ROWS[0], 4, 2)


def test_the_clock_over_there_is_five_seconds_ahead(tmp_path: Path) -> None:
    with session(tmp_path) as made:
        ahead, slack = made.clock()
        burst = made.burst(ROWS[0], 7)
    assert abs(ahead - 5) <= slack
    assert burst.runs == 7
    assert burst.seconds == pytest.approx(1e-3)
    import time

    assert burst.start_s - burst.slack_s < time.monotonic() < burst.end_s + burst.slack_s + 60


@pytest.mark.parametrize("old", [False, True])
def test_the_users_executor_runner(old: bool, tmp_path: Path) -> None:
    model = tmp_path / "model.pte"
    model.write_text("--old" if old else "new")
    starter = tmp_path / "executor_runner"
    starter.write_text(f'#!/bin/sh\nexec {sys.executable} {STANDIN} "$@"\n')
    starter.chmod(0o755)
    with LocalTransfer().open() as link, opened_executor(link, str(starter), model, graph(), 60) as made:
        for row, found in zip(ROWS, made.run(ROWS), strict=True):
            np.testing.assert_array_equal(found[0], row[0] + 1)
        figures = {s.name: s.values for s in made.measure(ROWS[0], 4, 2)}
    if old:
        assert figures == {"mean latency of 6 executions": (2.5, 2.5, 2.5)}
    else:
        assert figures == {"latency": (2.25, 2.375, 2.5, 2.625), "first inference": (2.0,), "load": (1.25,)}


def test_an_executor_runner_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "model.pte").write_text("broken")
    starter = tmp_path / "executor_runner"
    starter.write_text(f'#!/bin/sh\nexec {sys.executable} {STANDIN} "$@"\n')
    starter.chmod(0o755)
    with (
        LocalTransfer().open() as link,
        opened_executor(link, str(starter), tmp_path / "model.pte", graph(), 60) as made,
        pytest.raises(DeviceError, match=r"ended with code 1: .*Loading of method forward failed"),
    ):
        made.run(ROWS[:1])
