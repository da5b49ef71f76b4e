"""Packages on a computer behind a real sshd on loopback: bits, figures, and connections that die."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_nets import small_net
from standins import sshd as standin

import bitship
from bitship.device.base import Bursts, Conditioned
from bitship.device.desk import Unit, connect
from bitship.device.meters.sysfs import SysfsMeter, SysfsSource
from bitship.device.transfer import SshTransfer
from bitship.device.transfer.shell import host_name
from bitship.errors import DeviceError
from bitship.figures import FigureKind
from bitship.package import Package
from bitship.targets import ConverterName

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(standin.MISSING is not None, reason=str(standin.MISSING)),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="openssh-client is not installed"),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[standin.Daemon]:
    with standin.sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture
def transfer(daemon: standin.Daemon, tmp_path: Path) -> SshTransfer:
    (tmp_path / "there").mkdir()
    return SshTransfer(
        host="127.0.0.1",
        user=daemon.user,
        port=daemon.port,
        key=str(daemon.key),
        known_hosts=str(daemon.known_hosts),
        config="/dev/null",
        folder=str(tmp_path / "there"),
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")
    return bitship.export(small_net(), "host", tmp_path_factory.mktemp("p") / "pkg", converter=ConverterName.FIRMWARE)


def test_a_package_is_proven_and_measured_over_ssh(transfer: SshTransfer, package: Package) -> None:
    device = connect(Unit(name="box", target="host", transfer=transfer))
    report = bitship.bench(package, device, runs=6, warmup=1, role="runner")
    assert report.bits.exact
    assert report.device == "box"
    figures = {s.name: s for s in report.samples}
    assert set(figures) == {"latency", "first inference", "load", "peak memory", "arena"}
    assert len(figures["latency"].values) == 6
    assert all(s.kind is FigureKind.MEASURED and min(s.values) > 0 for s in report.samples)
    assert figures["arena"].values[0] <= package.manifest.footprint.arena_bytes
    assert report.environment["machine"] == os.uname().machine
    assert os.listdir(transfer.folder) == []


def test_files_come_back_whole_with_their_mode_and_words_are_not_a_shell_line(
    transfer: SshTransfer, tmp_path: Path
) -> None:
    data = os.urandom(300_000)
    (tmp_path / "a b").write_bytes(data)
    (tmp_path / "a b").chmod(0o750)
    with transfer.open() as link:
        remote = f"{link.folder}/it's; $HOME"
        link.push(tmp_path / "a b", remote)
        link.pull(remote, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data
        assert Path(remote).stat().st_mode & 0o777 == 0o750
        done = link.run(["printf", "%s|", "$HOME", "a b", "'", ";", "\n"], 10)
        assert (done.code, done.stdout) == (0, "$HOME|a b|'|;|\n|")
        assert link.run(["sh", "-c", "echo no >&2; exit 255"], 10) == (255, "", "no\n")
        with pytest.raises(DeviceError, match=r"no-such-file: cannot be read: .*No such file"):
            link.pull(f"{link.folder}/no-such-file", tmp_path / "back")


def test_a_command_past_its_deadline_is_stopped_over_there_too(transfer: SshTransfer) -> None:
    with transfer.open() as link:
        with pytest.raises(DeviceError, match="silent for 1 s"):
            link.run(["sleep", "1234.5"], 1)
        assert not running("sleep\0001234.5")
        assert link.run(["echo", "still there"], 10).stdout == "still there\n"


def running(words: str) -> bool:
    """Whether a process with this command line (words parted by zero bytes) is there."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words.encode() in path.read_bytes():
                return True
        except OSError:
            continue
    return False


def test_a_connection_killed_in_the_middle_is_one_clear_error(transfer: SshTransfer, tmp_path: Path) -> None:
    def kill() -> None:
        time.sleep(1)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes()
            except OSError:
                continue
            if str(transfer.known_hosts).encode() in words and b"ControlMaster=yes" in words:
                os.kill(int(path.parent.name), signal.SIGKILL)

    def use() -> None:
        with transfer.open() as link:
            folders.append(link.folder)
            threading.Thread(target=kill).start()
            link.run(["sleep", "600.25"], 30)

    folders: list[str] = []
    with pytest.raises(DeviceError, match=r"127\.0\.0\.1: the connection was lost.*run it again"):
        use()
    assert Path(folders[0]).is_dir()
    with transfer.open() as link:
        assert os.listdir(transfer.folder) == [Path(link.folder).name]
    assert not running("sleep\000600.25")


def test_what_a_killed_session_left_is_removed_by_the_next_one(transfer: SshTransfer) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ours, other = f"bitship.{host_name()}.{dead.pid}.0", f"bitship.another-host.{dead.pid}.0"
    for name in (ours, other, f"bitship.{host_name()}.{os.getppid()}.0"):
        (Path(transfer.folder) / name).mkdir()
    with transfer.open():
        left = set(os.listdir(transfer.folder))
    assert ours not in left
    assert {other, f"bitship.{host_name()}.{os.getppid()}.0"} <= left


def test_an_unknown_host_key_and_a_wrong_key_are_refused_in_one_line(transfer: SshTransfer, tmp_path: Path) -> None:
    import msgspec

    (tmp_path / "none").write_text("")
    with (
        pytest.raises(DeviceError, match=r"cannot connect: .*[Hh]ost key verification failed"),
        msgspec.structs.replace(transfer, known_hosts=str(tmp_path / "none")).open(),
    ):
        pass
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "wrong")], check=True)
    with (
        pytest.raises(DeviceError, match=r"cannot connect: .*Permission denied"),
        msgspec.structs.replace(transfer, key=str(tmp_path / "wrong")).open(),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_named(transfer: SshTransfer) -> None:
    import msgspec

    with (
        pytest.raises(DeviceError, match=r"/no/such/folder/bitship.* cannot be made"),
        msgspec.structs.replace(transfer, folder="/no/such/folder").open(),
    ):
        pass


def test_a_burst_has_both_clocks_and_conditions_are_read(transfer: SshTransfer, package: Package) -> None:
    device = connect(Unit(name="box", target="host", transfer=transfer))
    inputs, _ = package.vectors()
    with device.open(package, "runner") as session:
        assert isinstance(session, Bursts)
        before = time.monotonic()
        burst = session.burst(inputs[2], 2000)
        after = time.monotonic()
    assert burst.seconds is not None
    assert burst.seconds == pytest.approx(burst.end_s - burst.start_s, abs=1e-6)
    assert before - burst.slack_s <= burst.start_s < burst.end_s <= after + burst.slack_s
    assert 0 < burst.slack_s < 0.5
    assert isinstance(device, Conditioned)
    assert device.conditions().when.startswith("20")


def test_the_wrong_processor_is_said_before_anything_runs(transfer: SshTransfer, package: Package) -> None:
    device = connect(Unit(name="box", target="linux-riscv64", transfer=transfer))
    with pytest.raises(DeviceError, match=r"its processor is .*is for riscv64"), device.open(package, "runner"):
        pass


def test_a_meter_of_the_far_side_is_sampled_over_ssh(transfer: SshTransfer, tmp_path: Path) -> None:
    chip = tmp_path / "hwmon0"
    chip.mkdir()
    (chip / "power1_input").write_text("2500000\n")
    before = time.monotonic()
    with SysfsMeter(SysfsSource.HWMON, str(chip), rate_hz=200, transfer=transfer).record() as recording:
        time.sleep(1.0)
        trace = recording.stop()
    after = time.monotonic()
    assert len(trace.seconds) > 20
    assert set(trace.watts) == {2.5}
    assert 0 < trace.slack_s < 1
    assert before - trace.slack_s <= trace.start_s
    assert trace.start_s + trace.seconds[-1] <= after + trace.slack_s
    assert os.listdir(transfer.folder) == []
