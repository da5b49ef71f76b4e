"""Meters of the kernel on a made tree of files: units, charging, a counter that wraps, the clock over there."""

import time
from pathlib import Path

import numpy as np
import pytest

from bitship.device.meters.sysfs import SysfsMeter, SysfsSource, parse
from bitship.errors import DeviceError
from bitship.figures import FigureKind


def tree(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


@pytest.mark.parametrize(
    ("source", "files", "watts"),
    [
        (SysfsSource.HWMON, {"power1_input": 4_970_000}, 4.97),
        (SysfsSource.HWMON, {"in1_input": 5000, "curr1_input": 994}, 4.97),
        (SysfsSource.POWER_SUPPLY, {"current_now": -500_000, "voltage_now": 4_000_000, "status": "Discharging"}, 2.0),
    ],
)
def test_power_is_read_in_the_kernels_units(
    source: SysfsSource, files: dict[str, object], watts: float, tmp_path: Path
) -> None:
    meter = SysfsMeter(source, str(tree(tmp_path / "chip", **files)), rate_hz=200)
    before = time.monotonic()
    with meter.record() as recording:
        time.sleep(0.4)
        trace = recording.stop()
    assert len(trace.seconds) >= 3
    assert np.all(np.diff(trace.seconds) > 0)
    np.testing.assert_allclose(trace.watts, watts)
    assert trace.kind is FigureKind.MEASURED
    assert before <= trace.start_s <= time.monotonic()
    assert trace.seconds[-1] < time.monotonic() - before


def test_rapl_is_an_estimate_and_its_counter_may_wrap() -> None:
    meter = SysfsMeter(SysfsSource.POWERCAP, "/sys/class/powercap/intel-rapl:0")
    limit = 262_143_328_850
    steps = [limit - 25_000 + 10_000 * (i // 2) for i in range(20)]  # moves every second sample, 5 ms apart
    text = "\n".join(f"{1_000_000_000 + 5_000_000 * i} {v % limit}" for i, v in enumerate(steps))
    trace = parse(meter, text, 1, limit, 0.25, 0.001)
    assert trace.kind is FigureKind.ESTIMATED
    np.testing.assert_allclose(trace.watts, 1.0)
    assert trace.start_s == pytest.approx(0.75 + 0.005)


def test_an_energy_counter_that_stands_still_or_wraps_unknown_is_refused() -> None:
    meter = SysfsMeter(SysfsSource.POWERCAP, "/sys/x")
    for values, limit in (([5, 5, 5, 5], 100), ([90, 95, 3, 8], 0)):
        text = "\n".join(f"{i} {v}" for i, v in enumerate(values))
        with pytest.raises(DeviceError, match="stands still or wraps"):
            parse(meter, text, 1, limit, 0, 0)


def test_what_cannot_be_read_or_means_nothing_is_said(tmp_path: Path) -> None:
    empty = tree(tmp_path / "empty")
    with pytest.raises(DeviceError, match="power1_input or in1_input and curr1_input cannot be read"):
        SysfsMeter(SysfsSource.HWMON, str(empty)).record().__enter__()
    charging = tree(tmp_path / "battery", current_now=1, voltage_now=1, status="Charging")
    with pytest.raises(DeviceError, match="the battery says 'Charging'"):
        SysfsMeter(SysfsSource.POWER_SUPPLY, str(charging)).record().__enter__()
    for text, said in (("1 2\nx 3\n", "'x 3' is no sample"), ("1 2\n2 3\n", "2 samples came")):
        with pytest.raises(DeviceError, match=said):
            parse(SysfsMeter(SysfsSource.HWMON, "/x"), text, 1, 0, 0, 0)
