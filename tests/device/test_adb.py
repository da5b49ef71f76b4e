"""Packages on a phone: the real adb client against a stand-in of adb's daemon; bits, figures, connections that die."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from small_nets import small_net
from standins.adbd import Adbd, adbd
from standins.sshd import free_port
from tool_install import environment

import bitship
from bitship.device.desk import Unit, connect
from bitship.device.transfer import AdbTransfer
from bitship.errors import DeviceError
from bitship.figures import FigureKind
from bitship.package import Package
from bitship.targets import ConverterName

pytestmark = [pytest.mark.tools, pytest.mark.skipif(shutil.which("adb") is None, reason="adb is not installed")]


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """An adb server of this module's own, so that the user's is left alone."""
    port = free_port()
    yield port
    subprocess.run(["adb", "-P", str(port), "kill-server"], capture_output=True, timeout=30, check=False)


@pytest.fixture(params=[False, True], ids=["shell_v2", "shell_v1"])
def phone(request: pytest.FixtureRequest, server: int) -> Iterator[Adbd]:
    with adbd(old_shell=request.param) as daemon:
        yield daemon
    subprocess.run(
        ["adb", "-P", str(server), "disconnect", daemon.serial], capture_output=True, timeout=30, check=False
    )


@pytest.fixture
def transfer(phone: Adbd, server: int, tmp_path: Path) -> AdbTransfer:
    (tmp_path / "there").mkdir()
    return AdbTransfer(serial=phone.serial, folder=str(tmp_path / "there"), server_port=server)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")
    return bitship.export(small_net(), "host", tmp_path_factory.mktemp("p") / "pkg", converter=ConverterName.FIRMWARE)


def test_a_package_is_proven_and_measured_over_adb(transfer: AdbTransfer, package: Package) -> None:
    report = bitship.bench(
        package, connect(Unit(name="phone", target="host", transfer=transfer)), runs=5, warmup=1, role="runner"
    )
    assert report.bits.exact
    figures = {s.name: s for s in report.samples}
    assert len(figures["latency"].values) == 5
    assert set(figures) == {"latency", "first inference", "load", "peak memory", "arena"}
    assert all(s.kind is FigureKind.MEASURED for s in report.samples)
    assert os.listdir(transfer.folder) == []


def test_files_and_exit_codes_come_back_whole(transfer: AdbTransfer, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "a").chmod(0o750)
    with transfer.open() as link:
        link.push(tmp_path / "a", f"{link.folder}/it is")
        link.pull(f"{link.folder}/it is", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data
        assert Path(f"{link.folder}/it is").stat().st_mode & 0o777 == 0o750
        assert link.run(["sh", "-c", "exit 7"], 10).code == 7
        done = link.run(["printf", "%s|", "$HOME", "a b", "'"], 10)
        assert (done.code, done.stdout) == (0, "$HOME|a b|'|")
        with pytest.raises(DeviceError, match=r"no-such-file: cannot be read"):
            link.pull(f"{link.folder}/no-such-file", tmp_path / "back")
        with pytest.raises(DeviceError, match="were not copied to /no/such/place"):
            link.push(tmp_path / "a", "/no/such/place")


def test_a_phone_that_goes_away_in_the_middle_is_one_clear_error(
    transfer: AdbTransfer, phone: Adbd, server: int
) -> None:
    folders: list[str] = []

    def use() -> None:
        with transfer.open() as link:
            folders.append(link.folder)
            threading.Timer(1, phone.drop, [True]).start()
            link.run(["sleep", "60.25"], 30)

    start = time.monotonic()
    with pytest.raises(DeviceError, match="the connection was lost while sleep ran"):
        use()
    assert time.monotonic() - start < 20
    assert Path(folders[0]).is_dir()
    with adbd() as again, msgspec.structs.replace(transfer, serial=again.serial).open() as link:
        assert os.listdir(transfer.folder) == [Path(link.folder).name]


def test_a_phone_that_is_not_there_is_one_clear_error(server: int, tmp_path: Path) -> None:
    for serial, said in ((f"127.0.0.1:{free_port()}", "cannot connect"), ("no-such-phone", "not ready: .*not found")):
        with pytest.raises(DeviceError, match=said), AdbTransfer(serial=serial, server_port=server).open():
            pass


def test_another_client_agrees_with_the_stand_in(tmp_path: Path) -> None:
    """adbutils."""
    python = str(environment("adbutils", "adbutils==2.12.0") / "python")
    (tmp_path / "a").write_bytes(bytes(range(256)) * 1000)
    code = """
import sys, adbutils
port, serial, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
client = adbutils.AdbClient(port=port)
client.connect(serial, timeout=10)
d = client.device(serial)
d.sync.push(folder + "/a", folder + "/b")
d.sync.pull(folder + "/b", folder + "/c")
r = d.shell2("echo out; (exit 5)")
print(r.returncode, r.output.strip())
"""
    port = free_port()
    with adbd() as daemon:
        try:
            subprocess.run(["adb", "-P", str(port), "start-server"], capture_output=True, timeout=30, check=True)
            words = [python, "-c", code, str(port), daemon.serial, str(tmp_path)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        finally:
            subprocess.run(["adb", "-P", str(port), "kill-server"], capture_output=True, timeout=30, check=False)
    assert done.stdout == "5 out\n", done.stderr
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()
