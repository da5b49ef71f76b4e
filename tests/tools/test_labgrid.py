"""A real labgrid on loopback: coordinator, exporter with ser2net, two emulated boards behind serial ports."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from test_package import graph
from tool_install import apt_program, pip_program

import bitship
from bitship import campaign
from bitship.campaign import Job, Record, Status
from bitship.device import desk
from bitship.errors import DeviceError
from bitship.measuring import Effort
from bitship.targets import Application

HOST = Path(__file__).parents[1] / "standins" / "bench_host.py"
BOARD = "mps2-an386"
PLACES = ("m4-a", "m4-b")
SECONDS = 30.0

pytestmark = [
    pytest.mark.tools,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm not installed"),
    pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc not installed"),
]


@contextmanager
def running(*words: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("ab") as out:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Lab:
    """labgrid's daemons, and two boards that ``devices.toml`` borrows as one unit."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        apt_program("ser2net", "ser2net")
        self.folder, self.stack = folder, stack
        self.client = pip_program("labgrid-client", "labgrid==26.0.1")
        self.at = f"127.0.0.1:{free_port()}"
        self.boards: list[subprocess.Popen[bytes]] = []
        lines = []
        for place in PLACES:
            control = folder / f"{place}.sock"
            port = self._board(control)
            flasher = f'flasher = {{ driver = "script", command = ["{sys.executable}", "{HOST}", "flash", '
            lines += [f"{place}:", "  RawSerialPort:", f"    port: {port}", "    speed: 115200", "  BitshipUnit:"]
            lines += [f'    toml: \'{flasher}"{control}", "{{image}}"] }}\'']
        (folder / "exporter.yaml").write_text("\n".join(lines) + "\n")
        self.coordinator = self.start_coordinator()
        self.start_exporter()
        for place in PLACES:
            for words in (["create"], ["add-match", f"*/{place}/*"], ["set-tags", f"board={BOARD}"]):
                self.ask("-p", place, *words)
        (folder / "devices.toml").write_text(
            f'[[device]]\nname = "m4"\ntarget = "{BOARD}"\n'
            f'farm = {{ driver = "labgrid", coordinator = "{self.at}", client = "{self.client}", '
            f'tags = {{ board = "{BOARD}" }}, wait_s = 60.0 }}\n'
        )

    def _board(self, control: Path) -> str:
        log = control.with_suffix(".log")
        self.boards.append(self.stack.enter_context(running(sys.executable, str(HOST), BOARD, str(control), log=log)))
        self.until(lambda: log.is_file() and log.read_text().endswith("\n"))
        return log.read_text().strip()

    def start_coordinator(self) -> "subprocess.Popen[bytes]":
        program = str(Path(self.client).with_name("labgrid-coordinator"))
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(state)  # it keeps places.yaml where it starts
            process = self.stack.enter_context(running(program, "-l", self.at, log=self.folder / "coordinator.log"))
        self.until(lambda: self.asks("places"))
        return process

    def start_exporter(self) -> None:
        program = str(Path(self.client).with_name("labgrid-exporter"))
        words = [program, "-c", self.at, "-n", "bench-1", "--hostname", "127.0.0.1", str(self.folder / "exporter.yaml")]
        self.exporter = self.stack.enter_context(running(*words, log=self.folder / "exporter.log"))
        self.until(lambda: b"NetworkSerialPort" in self.ask("resources"))

    def ask(self, *words: str) -> bytes:
        return subprocess.run(
            [self.client, "-x", self.at, *words], check=True, capture_output=True, timeout=SECONDS
        ).stdout

    def asks(self, *words: str) -> bool:
        try:
            self.ask(*words)
        except subprocess.SubprocessError:
            return False
        return True

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < end, [p.read_text()[-1000:] for p in self.folder.glob("*.log")]
            time.sleep(0.2)

    def free(self) -> bool:
        return b"acquired: None" in self.ask("-p", PLACES[0], "show") and self.ask("who").count(b"\n") <= 1


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    with ExitStack() as stack:
        made = Lab(tmp_path, stack)
        monkeypatch.setenv(desk.VARIABLE, str(tmp_path / "devices.toml"))
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
