"""Meters the kernel has: hwmon (INA2xx, INA3221), power_supply, powercap (RAPL); here, or over ssh or adb.

A small loop samples over there, with the clock over there, whose distance to this one's is estimated before and after.
"""

import enum
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import msgspec
import numpy as np

from bitship.device.meters.base import PowerTrace, Recording
from bitship.device.transfer import Completed, LocalTransfer, Transfer, TransferSettings
from bitship.errors import DeviceError
from bitship.figures import FigureKind

_LONGEST_SECONDS = 3600.0
_SHORT_SECONDS = 30.0
_CLOCK_READS = 5
_STOP_SECONDS = 10.0
_BEGIN_POLL_SECONDS = 0.02

_PYTHON = """
import os, sys, time
stop, period, paths = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
files = [open(p) for p in paths]
open(stop + ".begun", "w").close()
while not os.path.exists(stop) and os.path.isdir(os.path.dirname(stop)):
    values = []
    for f in files:
        f.seek(0)
        values.append(f.read().strip())
    print(time.monotonic_ns(), *values, flush=True)
    time.sleep(period)
"""
_SHELL = """
stop=$1; period=$2; shift 2
: >"$stop.begun"
while [ ! -e "$stop" ] && [ -d "${stop%/*}" ]; do
    line=$(CLOCK)
    for p in "$@"; do read -r v <"$p"; line="$line $v"; done
    echo "$line"
    sleep "$period"
done
"""
_NOW = {"python3": "python3 -c 'import time; print(time.monotonic_ns())'", "date": "date +%s%N"}


class SysfsSource(enum.Enum):
    """HWMON: a chip's folder, sampled as it is. POWER_SUPPLY: a battery's. POWERCAP: RAPL, a model: estimated."""

    HWMON = "hwmon"
    POWER_SUPPLY = "power_supply"
    POWERCAP = "powercap"


class SysfsMeter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="driver", tag="sysfs"):
    """A folder below /sys.

    path     such as /sys/class/hwmon/hwmon3, /sys/class/power_supply/battery, /sys/class/powercap/intel-rapl:0
    channel  of the chip: power1_input, or in1_input and curr1_input
    """

    source: SysfsSource
    path: str
    channel: int = 1
    rate_hz: float = 100.0
    transfer: TransferSettings = msgspec.field(default_factory=LocalTransfer)

    def title(self) -> str:
        channel = f" channel {self.channel}" if self.source is SysfsSource.HWMON else ""
        return f"{self.source.value} {PurePosixPath(self.path).name}{channel}, at most {self.rate_hz:g} Hz"

    @contextmanager
    def record(self) -> Iterator[Recording]:
        with self.transfer.open() as link:
            files = self._files(link)
            recording = _Recording(self, link, files)
            try:
                yield recording
            finally:
                recording.halt()

    def _files(self, link: Transfer) -> tuple[str, ...]:
        """Return the files to sample; DeviceError where they are not readable, or a battery is being charged."""
        ways: dict[SysfsSource, list[tuple[str, ...]]] = {
            SysfsSource.HWMON: [
                (f"power{self.channel}_input",),
                (f"in{self.channel}_input", f"curr{self.channel}_input"),
            ],
            SysfsSource.POWER_SUPPLY: [("current_now", "voltage_now"), ("power_now",)],
            SysfsSource.POWERCAP: [("energy_uj",)],
        }
        for names in ways[self.source]:
            paths = tuple(f"{self.path}/{name}" for name in names)
            if link.run(["cat", *paths], _SHORT_SECONDS).code == 0:
                break
        else:
            wanted = " or ".join(" and ".join(names) for names in ways[self.source])
            raise DeviceError(f"{self.path}: {wanted} cannot be read; check the path, or the right to read it")
        if self.source is SysfsSource.POWER_SUPPLY:
            status = link.run(["cat", f"{self.path}/status"], _SHORT_SECONDS).stdout.strip()
            if status not in ("", "Discharging"):
                raise DeviceError(
                    f"{self.path}: the battery says '{status}'; its current means nothing while on charge"
                )
        return paths


class _Recording:
    def __init__(self, settings: SysfsMeter, link: Transfer, files: tuple[str, ...]) -> None:
        self._settings, self._link, self._files = settings, link, files
        self._stop = f"{link.folder}/stop"
        python = link.run(["python3", "-c", "import time"], _SHORT_SECONDS).code == 0
        self._now = _NOW["python3" if python else "date"]
        self._before = self._clock()
        self._result: Completed | Exception | None = None
        period = f"{1 / settings.rate_hz:.6f}"
        script = ["python3", "-c", _PYTHON] if python else ["sh", "-c", _SHELL.replace("CLOCK", self._now), "sh"]
        self._thread = threading.Thread(target=self._run, args=([*script, self._stop, period, *files],), daemon=True)
        self._thread.start()
        end = time.monotonic() + _SHORT_SECONDS
        while self._thread.is_alive() and link.run(["test", "-e", f"{self._stop}.begun"], _SHORT_SECONDS).code != 0:
            if time.monotonic() >= end:
                raise DeviceError(f"{settings.path}: sampling did not begin within {_SHORT_SECONDS:g} s")
            time.sleep(_BEGIN_POLL_SECONDS)

    def _run(self, words: list[str]) -> None:
        try:
            self._result = self._link.run(words, _LONGEST_SECONDS)
        except Exception as e:
            self._result = e

    def _clock(self) -> tuple[float, float]:
        """Return (slack, by how many seconds the clock over there is ahead)."""
        if isinstance(self._settings.transfer, LocalTransfer) and "monotonic" in self._now:
            return 0.0, 0.0
        found = []
        for _ in range(_CLOCK_READS):
            before = time.monotonic()
            said = self._link.run(["sh", "-c", self._now], _SHORT_SECONDS).stdout.strip()
            after = time.monotonic()
            if not said.isdigit():
                raise DeviceError(f"{self._settings.path}: no clock over there: neither python3 nor date with %N")
            found.append(((after - before) / 2, int(said) / 1e9 - (before + after) / 2))
        return min(found)

    def halt(self) -> None:
        """End the loop over there; once is enough."""
        if self._thread.is_alive():
            self._link.run(["sh", "-c", f": >{shlex.quote(self._stop)}"], _SHORT_SECONDS)
            self._thread.join(_STOP_SECONDS)

    def stop(self) -> PowerTrace:
        self.halt()
        result = self._result
        if not isinstance(result, Completed) or result.code != 0:
            said = result if not isinstance(result, Completed) else result.stderr.strip()[:200]
            raise DeviceError(f"{self._settings.path}: sampling ended: {said or 'nothing said'}; measure again")
        slack, ahead = min(self._before, self._clock())
        limit = 0
        if self._settings.source is SysfsSource.POWERCAP:
            said = self._link.run(["cat", f"{self._settings.path}/max_energy_range_uj"], _SHORT_SECONDS).stdout.strip()
            limit = int(said) if said.isdigit() else 0
        return parse(self._settings, result.stdout, len(self._files), limit, ahead, slack)


def parse(settings: SysfsMeter, text: str, columns: int, limit_uj: int, ahead_s: float, slack_s: float) -> PowerTrace:
    """Return the trace in lines of ``nanoseconds value...``; DeviceError names a line that is damaged.

    limit_uj  where RAPL's counter wraps; ahead_s, slack_s  of the clock that the nanoseconds are of
    """
    rows: list[list[int]] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) != columns + 1 or not all(f.lstrip("-").isdigit() for f in fields):
            raise DeviceError(f"{settings.path}: '{line[:60]}' is no sample; measure again")
        rows.append([int(f) for f in fields])
    if len(rows) < 3:
        raise DeviceError(f"{settings.path}: {len(rows)} samples came; at least 3 are needed; measure longer")
    table = np.array(rows, np.float64)
    at = (np.array([row[0] for row in rows], np.int64) - rows[0][0]) / 1e9
    begun, kind = rows[0][0] / 1e9 - ahead_s, FigureKind.MEASURED
    if settings.source is SysfsSource.POWERCAP:
        kind = FigureKind.ESTIMATED
        spent = np.diff(table[:, 1])
        spent = np.where(spent < 0, spent + limit_uj, spent)
        fresh = np.concatenate(([True], spent > 0))  # the counter moves by steps: power is between two moves
        if np.any(spent < 0) or fresh.sum() < 3:
            raise DeviceError(f"{settings.path}: the energy counter stands still or wraps at an unknown value")
        moved = np.flatnonzero(fresh)
        total = np.concatenate(([0.0], np.cumsum(spent)))[moved]
        watts = np.diff(total) / 1e6 / np.diff(at[moved])
        at = (at[moved][1:] + at[moved][:-1]) / 2
        begun, at = begun + at[0], at - at[0]
    elif columns == 1:
        watts = table[:, 1] / 1e6
    else:
        scale = 1e-6 if settings.source is SysfsSource.HWMON else 1e-12
        watts = np.abs(table[:, 1] * table[:, 2]) * scale
    return PowerTrace(at, watts, None, begun, slack_s, 0, kind)
