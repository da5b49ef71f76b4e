"""A power port of a real labgrid on loopback, in front of a power strip that only looks like one."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from standins.lab import free_port, running
from standins.pdu import Pdu
from tool_install import pip_program

from bitship.device.power.labgrid import LabgridPower
from bitship.errors import DeviceError

SECONDS = 30.0

pytestmark = [pytest.mark.tools, pytest.mark.slow]


@pytest.fixture
def strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Pdu, LabgridPower, list[str]]]:
    """Yield the strip, a driver for socket 3 as place ``board``, and labgrid's command line."""
    client = pip_program("labgrid-client", "labgrid==26.0.1")
    pdu, at = Pdu(), f"127.0.0.1:{free_port()}"
    monkeypatch.chdir(tmp_path)  # the coordinator keeps places.yaml where it starts
    with ExitStack() as stack:
        address = stack.enter_context(pdu.serve())
        (tmp_path / "exporter.yaml").write_text(
            "desk:\n  NetworkPowerPort:\n    model: simplerest\n"
            f"    host: '{address}/relay/{{index}}/{{value}}'\n    index: 3\n"
        )
        words = [client, "-x", at]
        log = tmp_path / "labgrid.log"
        tool = Path(client)
        stack.enter_context(running(str(tool.with_name("labgrid-coordinator")), "-l", at, log=log))
        _until(words, "places")
        exporter = [str(tool.with_name("labgrid-exporter")), "-c", at, "-n", "desk", "--hostname", "127.0.0.1"]
        stack.enter_context(running(*exporter, "exporter.yaml", log=log))
        _until(words, "resources", "NetworkPowerPort")
        for more in (["create"], ["add-match", "*/desk/*"]):
            subprocess.run([*words, "-p", "board", *more], check=True, capture_output=True, timeout=SECONDS)
        yield pdu, LabgridPower(place="board", coordinator=at, program=client), [*words, "-p", "board"]


def _until(words: list[str], what: str, holds: str = "") -> None:
    end = time.monotonic() + SECONDS
    while True:
        done = subprocess.run([*words, what], capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode == 0 and holds in done.stdout:
            return
        assert time.monotonic() < end, done.stderr
        time.sleep(0.2)


def test_labgrid_switches_a_socket_and_a_stuck_one_is_noticed(
    strip: tuple[Pdu, LabgridPower, list[str]],
) -> None:
    pdu, power, words = strip
    with pytest.raises(DeviceError, match=r"not acquired; acquire the place"):
        power.set(True)
    subprocess.run([*words, "acquire"], check=True, capture_output=True, timeout=SECONDS)
    power.set(True)
    assert pdu.on == {"3": True}
    power.set(False)
    assert pdu.on == {"3": False}
    pdu.stuck.add("3")
    with pytest.raises(DeviceError, match=r"place board: is off after 'power on'"):
        power.set(True)
    assert "/relay/3/1" in pdu.asked


def test_no_coordinator_is_one_clear_line(tmp_path: Path) -> None:
    client = pip_program("labgrid-client", "labgrid==26.0.1")
    with pytest.raises(DeviceError, match=r"start the coordinator, or correct 'coordinator'"):
        LabgridPower(place="board", coordinator=f"127.0.0.1:{free_port()}", program=client).set(True)
