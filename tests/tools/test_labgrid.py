"""A real labgrid on loopback: coordinator, exporter with ser2net, two emulated boards behind serial ports."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from standins.lab import BOARD, PLACES, Lab
from test_package import graph
from tool_install import apt_program, pip_program

import bitship
from bitship import campaign
from bitship.campaign import Job, Record, Status
from bitship.device import desk
from bitship.errors import DeviceError
from bitship.measuring import Effort
from bitship.targets import Application

pytestmark = [
    pytest.mark.tools,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm not installed"),
    pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc not installed"),
]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    apt_program("ser2net", "ser2net")
    with ExitStack() as stack:
        made = Lab(tmp_path, pip_program("labgrid-client", "labgrid==26.0.1"), stack)
        monkeypatch.setenv(desk.VARIABLE, str(made.devices))
        yield made


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return bitship.export(graph(), BOARD, tmp_path / "net", application=Application.SERIAL).path


def jobs(package: Path, count: int) -> list[Job]:
    unit = msgspec.json.encode(desk.read().unit("m4")).decode()
    return [Job(f"n{k}", str(package), "0", "", "m4", Effort(runs=4, warmup=1), unit=unit) for k in range(count)]


def test_a_board_is_borrowed_flashed_proven_and_given_back(lab: Lab, package: Path) -> None:
    report = bitship.bench(package, "m4", runs=4)
    assert report.bits.exact
    assert report.environment["place"] in PLACES
    assert {s.name for s in report.samples} >= {"stack", "arena"}
    assert lab.free()


def test_four_workers_share_two_places(lab: Lab, package: Path, tmp_path: Path) -> None:
    with campaign.open_results(tmp_path / "r") as results:
        records = campaign.run(jobs(package, 4), results, workers=4)
    assert [r.error for r in records] == [""] * 4
    places = {r.report.environment["place"] for r in records if r.report}
    assert places == set(PLACES)
    assert lab.free()


def test_a_coordinator_and_a_board_that_are_lost_put_their_jobs_back(lab: Lab, package: Path, tmp_path: Path) -> None:
    lost: list[str] = []

    def measure(*words: object, **more: object) -> bitship.Report:
        if not lost:
            lost.append("coordinator")
            os.killpg(lab.coordinator.pid, signal.SIGKILL)
            os.killpg(lab.exporter.pid, signal.SIGKILL)
            lab.coordinator = lab.start_coordinator()
            lab.start_exporter()
            raise DeviceError("m4: the line is gone")
        return bitship.bench(*words, **more)  # type: ignore[arg-type]

    todo = jobs(package, 3)
    with campaign.open_results(tmp_path / "r") as results:
        done = campaign.run(todo[:1], results)
        assert [r.status for r in done] == [Status.PASSED]
        records = campaign.run(todo, results, done, workers=1, measure=measure)
    assert [r.status for r in records] == [Status.PASSED] * 3
    assert records[0] == done[0]
    assert sorted(r.attempts for r in records) == [1, 1, 2]
    again: list[Record] = campaign.read(tmp_path / "r")
    assert {r.key for r in again} == {j.key for j in todo}
    for board in lab.boards:
        board.kill()
        board.wait()
    with campaign.open_results(tmp_path / "r") as results:
        (gone,) = campaign.run(jobs(package, 4)[3:], results, campaign.read(tmp_path / "r"), attempts=1)
    assert gone.status is Status.FAILED
    assert len(campaign.read(tmp_path / "r")) == 4
