"""Energy of a window: exact integrals of known shapes, edges, bounds; meters of optional libraries by fakes of them."""

import sys
import types
from typing import Any

import numpy as np
import pytest

from bitship.device.base import Burst
from bitship.device.energy import integrate, small, window
from bitship.device.meters import JoulescopeMeter, MonsoonMeter, PowerTrace
from bitship.errors import DeviceError, MissingDependencyError
from bitship.figures import FigureKind


def trace(watts: Any, rate: float = 1000.0, marker: Any = None, **more: Any) -> PowerTrace:
    values = np.asarray(watts, np.float64)
    return PowerTrace(np.arange(len(values)) / rate, values, marker, 100.0, **more)


def test_a_line_is_integrated_exactly_between_samples_too() -> None:
    t = np.arange(1001) / 1000
    assert integrate(trace(2 * t + 1), 0.10005, 0.89995) == pytest.approx(
        0.89995**2 - 0.10005**2 + 0.89995 - 0.10005, rel=1e-12
    )
    for start, end in ((-0.1, 0.5), (0.5, 1.1), (0.5, 0.5)):
        with pytest.raises(DeviceError, match="is not on the trace"):
            integrate(trace(t), start, end)


def block(n: int = 2000, first: int = 1000, end: int = 1500) -> PowerTrace:
    """One watt, in the middle three; the marker is low for two samples at both edges."""
    watts, marker = np.ones(n), np.ones(n, np.bool_)
    watts[first:end] = 3
    marker[[first, first + 1, end, end + 1]] = False
    return trace(watts, marker=marker)


def test_a_window_lies_between_the_markers_falling_edges() -> None:
    found = window(block(), Burst(10, 101.0, 101.5), 100.9, 0.5)
    assert (found.start, found.end) == pytest.approx((0.9995, 1.4995))
    assert found.joules == pytest.approx(1.5, rel=2e-3)
    assert found.idle_watts == 1
    assert found.bound_joules == pytest.approx(0.001 * 2)


def test_by_the_hosts_clock_idle_time_in_the_window_is_taken_off() -> None:
    made = block()
    plain = PowerTrace(made.seconds, made.watts, None, 100.0)
    found = window(plain, Burst(10, 100.95, 101.55, 0.5, 0.05), 100.9, 0.5)
    assert found.joules == pytest.approx(1.5, rel=1e-3)
    assert found.bound_joules == pytest.approx(2 * 0.05 * 2)


def test_no_energy_from_lost_samples_missing_edges_or_without_an_idle_part() -> None:
    made, burst = block(), Burst(10, 101.0, 101.5)
    with pytest.raises(DeviceError, match="lost 3 samples"):
        window(PowerTrace(made.seconds, made.watts, made.marker, 100.0, 0.0, 3), burst, 100.9, 0.5)
    flat = PowerTrace(made.seconds, made.watts, np.ones(2000, np.bool_), 100.0)
    with pytest.raises(DeviceError, match="0 edges of the marker"):
        window(flat, burst, 100.9, 0.5)
    with pytest.raises(DeviceError, match="no sample of the idle board"):
        window(made, burst, 100.0, 0.5)
    with pytest.raises(DeviceError, match="no numbers"):
        window(PowerTrace(made.seconds, made.watts * np.nan, made.marker, 100.0), burst, 100.9, 0.5)


def test_a_small_trace_keeps_every_peak() -> None:
    watts = np.ones(123_457)
    watts[77_777] = 9
    found = small(trace(watts, 1e5), "meter", window(block(), Burst(1, 101.0, 101.5), 100.9, 0.5))
    assert len(found.seconds) == len(found.low) == len(found.high) == 1000
    assert max(found.high) == 9000
    assert min(found.low) == 1000


class FakeJoulescope:
    """The library's Device, as far as the driver uses it: 50 kS/s, the first ten samples of a start missing."""

    device_serial_number = "000042"

    def __init__(self, holes: int) -> None:
        self._holes, self.running = holes, False
        self.parameters: dict[str, object] = {}
        self.stream_buffer = self
        self.sample_id_range = (0, 5000)

    def __enter__(self) -> "FakeJoulescope":
        return self

    def __exit__(self, *_: object) -> None:
        assert not self.running

    def parameter_set(self, name: str, value: object) -> None:
        self.parameters[name] = value

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def samples_get(self, start: int, stop: int, fields: list[str]) -> dict[str, Any]:
        current = np.full(stop - start, 0.01, np.float32)
        current[:10] = np.nan
        current[100 : 100 + self._holes] = np.nan
        every = {"current": current, "voltage": np.full(stop - start, 3.0, np.float32)}
        every["current_lsb"] = np.ones(stop - start, np.uint8)
        return {"signals": {f: {"value": every[f]} for f in fields}}


@pytest.mark.parametrize("holes", [0, 4])
def test_a_joulescopes_missing_samples_are_counted(holes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("joulescope")
    monkeypatch.setattr(library, "scan", lambda config: [FakeJoulescope(holes)], raising=False)
    monkeypatch.setitem(sys.modules, "joulescope", library)
    with JoulescopeMeter("000042", 50_000, marker=True).record() as recording:
        found = recording.stop()
    assert (len(found.seconds), found.lost) == (4990, holes)
    assert found.watts[0] == pytest.approx(0.03)
    assert found.marker is not None
    assert found.marker.all()
    with pytest.raises(DeviceError, match="there are: 000042"):
        JoulescopeMeter("000043").record().__enter__()


def test_a_monsoons_milliamps_are_watts(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    class Monitor:
        closed = False

        def setup_usb(self, serial: int | None) -> None: ...

        def setVout(self, volts: float) -> None:  # noqa: N802
            assert volts == 4.2

        def closeDevice(self) -> None:  # noqa: N802
            Monitor.closed = True

    class Engine:
        def __init__(self, monitor: Monitor) -> None: ...

        def ConsoleOutput(self, on: bool) -> None: ...  # noqa: N802

        def periodicStartSampling(self) -> list[list[float]]:  # noqa: N802
            return []

        def periodicCollectSamples(self, count: int) -> list[list[float]]:  # noqa: N802
            time.sleep(count / 5000)
            return [[0.0] * count, [100.0] * count, [], [], [4.2] * count, []]

        def periodicStopSampling(self) -> None: ...  # noqa: N802

    for name, attribute, value in (
        ("Monsoon.HVPM", "Monsoon", Monitor),
        ("Monsoon.sampleEngine", "SampleEngine", Engine),
    ):
        module = types.ModuleType(name)
        setattr(module, attribute, value)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "Monsoon", types.ModuleType("Monsoon"))
    with MonsoonMeter(4200).record() as recording:
        time.sleep(0.3)
        found = recording.stop()
    assert found.watts == pytest.approx(np.full(len(found.watts), 0.42))
    assert (found.lost, found.kind, Monitor.closed) == (0, FigureKind.MEASURED, True)


@pytest.mark.parametrize("meter", [JoulescopeMeter(), MonsoonMeter(3300)], ids=["joulescope", "monsoon"])
def test_an_absent_library_is_said_with_its_extra(meter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("joulescope", "Monsoon", "Monsoon.HVPM"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'bitship\["):
        meter.record().__enter__()
