"""labgrid on loopback: coordinator, exporter with ser2net, and two emulated boards behind serial ports.

The daemons are labgrid's own; the boards are ``bench_host``'s. It does not model bench hosts on other machines.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

HOST = Path(__file__).with_name("bench_host.py")
BOARD = "mps2-an386"
PLACES = ("m4-a", "m4-b")
SECONDS = 60.0


@contextmanager
def running(*words: str, log: Path, cwd: Path | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program until the end of the block, its children too."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd=cwd
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Lab:
    """The daemons, and two boards that ``devices`` borrows as one unit, ``m4``; ``client`` is labgrid-client."""

    def __init__(self, folder: Path, client: str, stack: ExitStack) -> None:
        self.folder, self.client, self.stack = folder, client, stack
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
        self.devices = folder / "devices.toml"
        self.devices.write_text(
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
        state = self.folder / "state"  # it keeps places.yaml where it starts
        state.mkdir(exist_ok=True)
        log = self.folder / "coordinator.log"
        process = self.stack.enter_context(running(program, "-l", self.at, log=log, cwd=state))
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
