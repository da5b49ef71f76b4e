"""Ray Serve against the split server: the same tail, the same client, requests to each in turn.

python -m benchmarks.split_ray [--requests 1000]

Needs bitship[split-ray]. Both are programs of their own on loopback, one replica, the small package of
benchmarks/split_parts.py; a lone request waits 2 ms for others in either. Memory is that of the program and all below
it, shared pages by their part (PSS).
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.split_parts import SMALL, images, make
from bitship.errors import BitshipError
from bitship.extras import require
from bitship.split.frame import Frame
from bitship.split.remote import GrpcRemote
from bitship.split.wire import Wire

START_S, STOP_S, DEADLINE_S = 240.0, 60.0, 30.0
WARM, CLIENTS, EACH = 50, 8, 50
SERVERS = {
    "bitship split serve": ("serve", "--listen", "127.0.0.1:0"),
    "bitship split serve-ray": ("serve-ray", "--port", "0"),
}


@dataclass(frozen=True)
class Program:
    """A server at work."""

    process: "subprocess.Popen[bytes]"
    address: str
    start_s: float

    def processes(self) -> list[int]:
        """Return the numbers of the program's process and of all below it."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended meanwhile
        found = {self.process.pid}
        while more := {p for p, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def pss_mib(self) -> float:
        """Return their memory."""
        sizes = [Path(f"/proc/{p}/smaps_rollup").read_text() for p in self.processes()]
        return sum(int(m[1]) for s in sizes if (m := re.search(r"^Pss:\s+(\d+)", s, re.MULTILINE))) / 1024


@contextmanager
def program(words: Sequence[str], package: Path, log: Path) -> Iterator[Program]:
    """Run a server until the end; BitshipError with what it said where it does not come up."""
    began = time.monotonic()
    command = [sys.executable, "-m", "bitship", "split", words[0], str(package), *words[1:]]
    with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as process:
        try:
            while not (found := re.search(r" at (127\.0\.0\.1:\d+)", log.read_text())):
                if process.poll() is not None or time.monotonic() - began > START_S:
                    raise BitshipError(f"{words[0]} does not come up: {log.read_text()[-500:]}")
                time.sleep(0.1)
            yield Program(process, found[1], time.monotonic() - began)
        finally:
            process.terminate()
            process.wait(STOP_S)


def main() -> int:
    """Measure and print."""
    from bitship.cli.output import table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    count = parser.parse_args().requests
    require("ray.serve", "split-ray", "this benchmark")
    with tempfile.TemporaryDirectory(prefix="bitship-") as name, ExitStack() as stack:
        folder = Path(name)
        made = make(folder / "parts")
        wire = Wire(made)
        frame = wire.pack(made.head.run(images(SMALL, 1)[0])[0], 0, 1)
        running = {
            server: stack.enter_context(program(words, made.path, folder / words[0]))
            for server, words in SERVERS.items()
        }
        remotes = {server: GrpcRemote(wire, p.address) for server, p in running.items()}
        seconds: dict[str, list[float]] = {server: [] for server in SERVERS}
        for _ in range(WARM + count):
            for server, remote in remotes.items():
                began = time.monotonic()
                remote.send(frame, DEADLINE_S)
                seconds[server].append(time.monotonic() - began)
        rows = []
        for server, one in running.items():
            p50, p95, least = (np.quantile(seconds[server][WARM:], q) * 1e3 for q in (0.5, 0.95, 0.0))
            rate = together(wire, one.address, frame)
            processes, pss = len(one.processes()), one.pss_mib()
            rows.append(
                (
                    server,
                    *(f"{n:.1f}" for n in (p50, p95, least)),
                    f"{rate:,.0f}",
                    processes,
                    f"{pss:,.0f}",
                    f"{one.start_s:.1f}",
                )
            )
        for remote in remotes.values():
            remote.close()
    table(
        f"{count} requests to each in turn, and {CLIENTS} clients at once (measured)",
        ["server", "p50 ms", "p95 ms", "least ms", f"{CLIENTS} clients, requests/s", "processes", "PSS MiB", "start s"],
        rows,
        left=1,
    )
    return 0


def together(wire: Wire, address: str, frame: Frame) -> float:
    """Return the requests a second of several clients at once."""
    remotes = [GrpcRemote(wire, address) for _ in range(CLIENTS)]
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda remote: [remote.send(frame, DEADLINE_S) for _ in range(EACH)], remotes))
    seconds = time.monotonic() - began
    for remote in remotes:
        remote.close()
    return CLIENTS * EACH / seconds


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.split_ray: {e}")
