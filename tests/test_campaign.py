"""Suites: every job once, in parallel over devices, resumable, nothing finished is lost."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from fake_device import Playback
from test_cli import run as command
from test_package import graph, make

import bitship
from bitship import campaign
from bitship.campaign import Job, Record, Status
from bitship.campaign.run import lane
from bitship.device.desk import Unit
from bitship.device.farm import LabgridFarm
from bitship.errors import BitshipError, DeviceError, FormatError, TargetError
from bitship.measuring import Effort
from bitship.report import Report

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

SUITE = """
name = "small"
[effort]
runs = 6
warmup = 0
[[model]]
name = "net"
file = "net.bitship"
[[run]]
targets = ["host"]
devices = ["host"]
converter = "firmware"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bitship.save(graph(), tmp_path / "net.bitship")
    (tmp_path / "suite.toml").write_text(SUITE)
    return tmp_path


def job(name: str, device: str = "a", source: Path = Path("/nowhere")) -> Job:
    return Job(name, str(source), "0" * 64, "", device, Effort(runs=4))


class Counter:
    """Stands in for ``bench``: counts, waits, loses devices, and knows how many ran at once."""

    def __init__(self, package: Path, lose: int = 0, seconds: float = 0.0) -> None:
        self.package, self.lose, self.seconds = package, lose, seconds
        self.calls: list[str | None] = []
        self.now = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, package: object, device: str | None, **more: object) -> Report:
        with self.lock:
            self.calls.append(device)
            self.now += 1
            self.most = max(self.most, self.now)
            lose, self.lose = self.lose > 0, max(self.lose - 1, 0)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        if lose:
            raise DeviceError("a: the line is gone")
        return bitship.bench(self.package, Playback(), runs=3)


def test_a_suite_is_expanded_once_per_model_target_and_device(folder: Path) -> None:
    (folder / "suite.toml").write_text(
        SUITE.replace('["host"]\nconv', '["host", "emulator"]\nconv') + SUITE[SUITE.index("[[run]]") :]
    )
    suite = campaign.read_suite(folder / "suite.toml")
    found = campaign.jobs(suite, folder)
    assert [(j.name, j.target, j.device) for j in found[:2]] == [("net", "host", "host"), ("net", "host", "emulator")]
    assert len({j.key for j in found}) == len(found)
    assert len({j.build_key for j in found}) == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("warmup", "warmpu"), FormatError, "did you mean 'warmup'"),
        (('file = "net', 'file = "not'), FormatError, "not.bitship: cannot be read"),
        (('file = "net', 'file = "$BITSHIP_NO_SUCH/net'), FormatError, "BITSHIP_NO_SUCH, which is not set"),
        (('targets = ["host"]', 'targets = ["hots"]'), TargetError, "nearest: host"),
        (('devices = ["host"]', 'devices = ["board"]'), DeviceError, "device 'board': unknown"),
        (('targets = ["host"]', 'models = ["nett"]\ntargets = ["host"]'), FormatError, "there are: net"),
        (('targets = ["host"]', ""), FormatError, "neither targets nor packages"),
        (("runs = 6", "runs = 0"), DeviceError, "0 runs"),
        (("[effort]", "attempts = 0\n[effort]"), FormatError, "attempts is 0; 1 or more"),
    ],
)
def test_a_wrong_suite_is_one_clear_error(
    folder: Path, change: tuple[str, str], error: type[BitshipError], message: str
) -> None:
    (folder / "suite.toml").write_text(SUITE.replace(*change))
    with pytest.raises(error, match=message):
        campaign.jobs(campaign.read_suite(folder / "suite.toml"), folder)


def test_a_suite_runs_on_the_command_line_and_a_second_run_has_nothing_to_do(folder: Path) -> None:
    out = folder / "results"
    words = ("bench", str(folder / "suite.toml"), "-o", str(out), "--json")
    first = json.loads(command(*words))
    assert [r["status"] for r in first] == ["passed"]
    lines = (out / "runs.jsonl").read_text()
    assert json.loads(command(*words)) == first
    assert (out / "runs.jsonl").read_text() == lines
    html, table = folder / "r.html", folder / "r.md"
    assert "net" in command("report", str(out), "--html", str(html), "--markdown", str(table))
    assert "| net | host |" in table.read_text()
    assert "0 worse" in command("compare", str(out), str(out))
    with sqlite3.connect(out / "index.sqlite") as db:
        assert db.execute("SELECT package, status FROM runs").fetchall() == [("net", "passed")]
        ((count,),) = db.execute("SELECT count FROM figures WHERE name = 'latency'").fetchall()
        assert count == 6


def test_devices_run_side_by_side_and_jobs_of_one_follow_each_other(tmp_path: Path) -> None:
    package = make(tmp_path / "net").path
    todo = [job(f"n{k}", device, package) for k in range(3) for device in ("a", "b")]
    counter = Counter(package, seconds=0.05)
    with campaign.open_results(tmp_path / "r") as results:
        records = campaign.run(todo, results, workers=4, measure=counter)
    assert [r.key for r in records] == [j.key for j in todo]
    assert counter.most == 2
    alone = Counter(package, seconds=0.02)
    with campaign.open_results(tmp_path / "h") as results:
        campaign.run([job(f"n{k}", "host", package) for k in range(3)], results, workers=4, measure=alone)
    assert alone.most == 1
    assert len({lane(job(f"n{k}", "emulator")) for k in range(3)}) == 3
    lent = Unit(name="m4", target="mps2-an386", farm=LabgridFarm({"board": "m4"}))
    unit = msgspec.json.encode(lent).decode()
    assert len({lane(msgspec.structs.replace(job(f"n{k}", "m4"), unit=unit)) for k in range(3)}) == 3


def test_a_lost_device_is_tried_again_and_what_was_finished_stays(tmp_path: Path) -> None:
    package = make(tmp_path / "net").path
    todo = [job("n0", "a", package), job("n1", "a", package)]
    with campaign.open_results(tmp_path / "r") as results:
        first = campaign.run(todo, results, attempts=2, measure=Counter(package, lose=1))
    assert [(r.status, r.attempts) for r in first] == [(Status.PASSED, 2), (Status.PASSED, 1)]
    with campaign.open_results(tmp_path / "s") as results:
        gone = campaign.run(todo, results, attempts=2, measure=Counter(package, lose=2))
    assert [r.status for r in gone] == [Status.FAILED, Status.PASSED]
    assert "the line is gone" in gone[0].error
    again = Counter(package)
    with campaign.open_results(tmp_path / "s") as results:
        finished = campaign.read(tmp_path / "s")
        records = campaign.run(todo, results, finished, measure=again)
    assert len(again.calls) == 1
    assert [r.status for r in records] == [Status.PASSED, Status.PASSED]
    assert [r.status for r in campaign.read(tmp_path / "s")] == [Status.PASSED, Status.PASSED]


def test_wrong_bits_are_recorded_with_their_report_and_not_tried_again(tmp_path: Path) -> None:
    package = make(tmp_path / "net").path
    calls = []

    def wrong(package: object, device: object, **more: object) -> Report:
        calls.append(device)
        return bitship.bench(tmp_path / "net", Playback(wrong=True))

    with campaign.open_results(tmp_path / "r") as results:
        (record,) = campaign.run([job("n", "a", package)], results, attempts=3, measure=wrong)
    assert record.status is Status.DIFFERS
    assert len(calls) == 1
    assert record.report is not None
    assert record.report.samples == ()
    assert "vector 1" in record.report.difference


def test_a_line_that_was_cut_short_is_dropped_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    record = Record("k", job("n"), Status.FAILED, 1.0, 1, "lost")
    line = msgspec.json.encode(record)
    (tmp_path / "runs.jsonl").write_bytes(line + b"\n" + line[:-20])
    with campaign.open_results(tmp_path) as results:
        assert [r.key for r in campaign.read(tmp_path)] == ["k"]
        results.add(msgspec.structs.replace(record, key="l"))
    assert [r.key for r in campaign.read(tmp_path)] == ["k", "l"]
    (tmp_path / "runs.jsonl").write_bytes(b"{}\n" + line + b"\n")
    with pytest.raises(FormatError, match="line 1: damaged"):
        campaign.read(tmp_path)
    with pytest.raises(FormatError, match="makes it"):
        campaign.read(tmp_path / "nowhere")


def test_a_results_folder_has_one_writer(tmp_path: Path) -> None:
    with campaign.open_results(tmp_path), pytest.raises(FormatError, match="another run is writing here"):
        campaign.open_results(tmp_path).__enter__()


def test_a_killed_run_keeps_what_was_finished_and_goes_on(folder: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from test_campaign import Counter, job\nfrom bitship import campaign\n"
        "folder = Path(sys.argv[1])\ntodo = [job(f'n{k}', 'a', folder / 'pkg') for k in range(50)]\n"
        "with campaign.open_results(folder / 'r') as results:\n"
        "    campaign.run(todo, results, measure=Counter(folder / 'pkg', seconds=0.1))\n"
    )
    make(folder / "pkg")
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], env={**os.environ, "PYTHONPATH": path})
    lines = folder / "r" / "runs.jsonl"
    end = time.monotonic() + 60
    while not (lines.is_file() and lines.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    todo = [job(f"n{k}", "a", folder / "pkg") for k in range(50)]
    finished = campaign.read(folder / "r")
    counter = Counter(folder / "pkg")
    with campaign.open_results(folder / "r") as results:
        records = campaign.run(todo[:8], results, finished, measure=counter)
    assert len(records) == 8
    assert len(counter.calls) == max(8 - len(finished), 0)
