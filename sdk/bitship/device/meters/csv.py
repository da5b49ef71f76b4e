"""Any meter whose program writes samples as text: a command, or a file that grows."""

import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import numpy as np

from bitship.device.meters.base import PowerTrace, Recording
from bitship.errors import DeviceError

_STOP_SECONDS = 5.0


class CsvMeter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="csv"):
    """A program that prints ``seconds,watts`` or ``seconds,watts,marker`` a line until it gets SIGTERM.

    The first line may be a heading. Times need only rise; the first is taken as the moment the program began to print.
    """

    command: tuple[str, ...]
    name: str = "csv"

    def title(self) -> str:
        return self.name

    @contextmanager
    def record(self) -> Iterator[Recording]:
        try:
            process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as e:
            raise DeviceError(f"{shlex.join(self.command)}: cannot be started: {e.strerror}") from None
        try:
            yield _Csv(shlex.join(self.command), process, time.monotonic())
        finally:
            process.kill()
            process.wait()


class _Csv:
    def __init__(self, line: str, process: "subprocess.Popen[str]", start_s: float) -> None:
        self._line, self._process, self._start_s = line, process, start_s

    def stop(self) -> PowerTrace:
        self._process.terminate()
        try:
            text, _ = self._process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self._line}: does not stop on SIGTERM") from None
        return parse(text, self._start_s, self._line)


def parse(text: str, start_s: float, where: str) -> PowerTrace:
    """Return the trace in lines of ``seconds,watts[,marker]``; DeviceError names the first bad line."""
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = [float(field) for field in line.split(",")]
        except ValueError:
            row = []
        if not row and number == 1:
            continue
        late = bool(rows) and row[:1] <= rows[-1][:1]
        if len(row) not in (2, 3) or (rows and len(row) != len(rows[0])) or not np.all(np.isfinite(row)) or late:
            raise DeviceError(
                f"{where}: line {number}: '{line[:60]}'; seconds,watts or seconds,watts,marker with rising seconds is "
                "expected"
            )
        rows.append(row)
    if len(rows) < 2:
        raise DeviceError(f"{where}: {len(rows)} samples came; at least 2 are needed")
    table = np.array(rows, np.float64)
    marker = table[:, 2] > 0.5 if table.shape[1] == 3 else None
    return PowerTrace(table[:, 0] - table[0, 0], table[:, 1], marker, start_s)
