"""Figures that can be defended: rounds until the spread is known, statistics, comparisons with a tolerance."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_device import Playback
from hypothesis import given
from hypothesis import strategies as st
from test_package import make

import bitship
from bitship.converters.base import Footprint, Numerics
from bitship.device.base import Samples
from bitship.errors import BitsDifferError, DeviceError, FormatError
from bitship.figures import FigureKind
from bitship.graph.base import Array
from bitship.measuring import LEAST_RUNS, Effort, sample
from bitship.package import Package
from bitship.report import Bits, Report, compare, summarize
from bitship.report.compare import Verdict
from bitship.report.tables import comma_separated, markdown

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="cc not installed")


def report(
    values: tuple[float, ...], kind: FigureKind = FigureKind.MEASURED, differing: int = 0, **more: object
) -> Report:
    body = Report(
        2,
        "net",
        "host",
        "host",
        "firmware",
        "firmware",
        Numerics.EXACT,
        "0" * 64,
        1000,
        Footprint(10, 20, 30, 40),
        Bits(5, 50, differing, differing),
        (Samples("latency", "ms", kind, values),),
        {},
        {},
        "2026-01-01",
    )
    return msgspec.structs.replace(body, **more)


def verdicts(a: Report, b: Report, tolerance: float = 0.02) -> dict[str, Verdict]:
    return {row.what.rsplit(" ", 1)[1]: row.verdict for row in compare([a], [b], tolerance)}


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300))
def test_a_summary_lies_inside_its_samples_and_in_order(values: list[float]) -> None:
    s = summarize(Samples("latency", "ms", FigureKind.MEASURED, tuple(values)))
    assert min(values) <= s.low <= s.median <= s.high <= max(values)
    assert s.median <= s.p90 <= s.p99 <= max(values) or len(values) < 2 or s.p90 <= s.p99
    assert s.count == len(values)
    assert s.cv >= 0


def test_the_interval_of_the_median_holds_the_true_one_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        s = summarize(Samples("t", "ms", FigureKind.MEASURED, tuple(rng.lognormal(0, 1, 40).tolist())))
        held += s.low <= 1.0 <= s.high
    assert 930 <= held <= 995


@needs_cc
def test_rounds_go_on_until_the_spread_is_known_and_keep_every_sample(tmp_path: Path) -> None:
    package = make(tmp_path / "p")
    device = Playback(latency=lambda k: [1.0, 2.0][k % 2] if k < 40 else 1.5)
    found = bitship.bench(package, device, effort=Effort(runs=10, warmup=2, spread=0.01, most=2000))
    assert device.measured[0] == (10, 2)
    assert all(warmup == 0 for _, warmup in device.measured[1:])
    latency, load = found.samples
    assert len(latency.values) == sum(runs for runs, _ in device.measured) > 40
    assert load.values == (8.0,)
    assert found.settled is not None
    assert found.settled <= 0.01
    assert [op.step for op in found.ops] == [0, 1, 2]
    assert len(found.conditions) == 2


@needs_cc
def test_rounds_end_at_the_most_that_is_allowed_and_say_what_spread_is_left(tmp_path: Path) -> None:
    package = make(tmp_path / "p")
    noisy = Playback(latency=lambda k: [1.0, 3.0][k % 2])
    found = bitship.bench(package, noisy, effort=Effort(runs=8, warmup=0, spread=0.001, most=50))
    assert len(found.samples[0].values) == 50
    assert found.settled is not None
    assert found.settled > 0.3
    one = Playback(latency=lambda k: [1.0, 3.0][k % 2], kind=FigureKind.SIMULATED)
    assert bitship.bench(package, one, effort=Effort(runs=8, spread=0.001)).settled is None
    assert len(one.measured) == 1
    few = Playback(latency=lambda k: 1.0)
    assert len(bitship.bench(package, few, effort=Effort(runs=2, spread=0.1)).samples[0].values) >= LEAST_RUNS


def test_a_figure_that_vanishes_between_rounds_is_an_error() -> None:
    class Forgetful:
        calls = 0

        def run(self, rows: object) -> list[tuple[Array, ...]]:
            return []

        def measure(self, row: object, runs: int, warmup: int) -> tuple[Samples, ...]:
            self.calls += 1
            values = tuple(float(k % 2 + 1) for k in range(runs))
            return (Samples(f"latency{self.calls}", "ms", FigureKind.MEASURED, values),)

    with pytest.raises(DeviceError, match="'latency1' came with the first 8"):
        sample(Forgetful(), (), Effort(runs=8, spread=0.01))


@pytest.mark.parametrize(
    ("effort", "message"),
    [
        (Effort(runs=0), "0 runs; at least 1"),
        (Effort(warmup=-1), "warmup of 0 or more"),
        (Effort(runs=20, most=10), "at least the 20 runs"),
        (Effort(spread=1.5), "between 0 and 1"),
    ],
)
def test_efforts_that_make_no_sense_are_refused(effort: Effort, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        effort.check()


@needs_cc
def test_wrong_bits_are_never_timed_and_the_error_carries_the_report(tmp_path: Path) -> None:
    device = Playback(wrong=True)
    with pytest.raises(BitsDifferError, match="vector 1") as caught:
        bitship.bench(make(tmp_path / "p"), device)
    assert device.measured == []
    assert caught.value.report is not None
    assert caught.value.report.bits.differing == 1
    assert caught.value.report.samples == ()
    assert "vector 1" in caught.value.report.difference


@needs_cc
def test_a_device_that_stays_warm_is_not_measured(tmp_path: Path) -> None:
    device = Playback()
    with pytest.raises(DeviceError, match="core is at 40 degrees"):
        bitship.bench(make(tmp_path / "p"), device, effort=Effort(cool_below=39.0, cool_s=0.1))
    assert device.measured == []
    assert bitship.bench(tmp_path / "p", device, effort=Effort(cool_below=41.0, cool_s=0.1)).conditions


def test_identical_reports_are_the_same_and_a_clear_growth_is_worse() -> None:
    a = report(tuple(1.0 + k / 1000 for k in range(50)))
    worse = report(tuple(1.05 + k / 1000 for k in range(50)))
    assert set(verdicts(a, a).values()) == {Verdict.SAME}
    assert verdicts(a, worse)["latency"] is Verdict.WORSE
    assert verdicts(worse, a)["latency"] is Verdict.BETTER
    assert verdicts(a, worse, 0.06)["latency"] is Verdict.SAME
    noisy = report(tuple(0.5 + k / 40 for k in range(50)))
    assert verdicts(a, noisy)["latency"] is Verdict.UNCLEAR


def test_wrong_bits_a_larger_arena_and_a_figure_that_is_gone_are_regressions() -> None:
    a = report((1.0,) * 10, FigureKind.SIMULATED)
    assert verdicts(a, report((1.0,) * 10, FigureKind.SIMULATED, differing=1))["bits"] is Verdict.WORSE
    larger = msgspec.structs.replace(a, footprint=Footprint(10, 21, 30, 40))
    assert verdicts(a, larger)["arena"] is Verdict.WORSE
    assert verdicts(a, report((1.0,) * 10))["latency"] is Verdict.GONE
    other = msgspec.structs.replace(a, package="other", target="microbit")
    assert compare([a, other], [a])[-1].verdict is Verdict.GONE
    with pytest.raises(FormatError, match="share no target"):
        compare([a], [other])
    with pytest.raises(FormatError, match=r"0\.05 for 5 %"):
        compare([a], [a], 5.0)


def test_reports_are_paired_by_name_first_and_without_one_only_where_that_is_plain() -> None:
    a, b = report((1.0,) * 8), report((2.0,) * 8, package="b")
    both = compare([a, b], [b, a])
    assert {r.ratio for r in both if r.unit == "ms"} == {1.0}
    renamed = compare([a], [report((3.0,) * 8, package="renamed")])
    assert [r.ratio for r in renamed if r.unit == "ms"] == [3.0]


@needs_cc
def test_compare_exits_1_on_a_5_percent_regression_and_0_on_identical_reports(tmp_path: Path) -> None:
    from test_cli import run

    a, b = tmp_path / "a.json", tmp_path / "b.json"
    body = msgspec.json.decode(msgspec.json.encode([report((100.0,) * 10, FigureKind.SIMULATED)]))
    a.write_text(json.dumps(body))
    assert "0 worse" in run("compare", str(a), str(a))
    body[0]["samples"][0]["values"] = [105.0] * 10
    b.write_text(json.dumps(body))
    run("compare", str(a), str(b), code=1)
    assert "0 worse" in run("compare", str(a), str(b), "--tolerance", "0.06")


def test_tables_hold_every_figure() -> None:
    reports = [report((1.0, 2.0, 3.0)), report((4.0,), package="a|b")]
    text = markdown(reports)
    assert "a\\|b" in text
    assert text.count("\n") == 4
    lines = comma_separated(reports).splitlines()
    assert lines[0].startswith("package,target,device,converter,artifact,elements,differing,figure")
    assert "net,host,host,firmware,firmware,50,0,latency,measured,ms,3,2.0" in lines[1]


@needs_cc
def test_a_report_of_the_first_schema_is_still_read(tmp_path: Path) -> None:
    body = msgspec.json.decode(msgspec.json.encode([report((1.0,))]))
    for name in ("ops", "trace", "conditions", "sections", "settled", "difference"):
        del body[0][name]
    body[0]["schema"] = 1
    path = tmp_path / "old.json"
    path.write_text(json.dumps(body))
    assert bitship.report.load(path)[0].ops == ()
    body[0]["schema"] = 3
    path.write_text(json.dumps(body))
    with pytest.raises(FormatError, match="schema 3, this bitship reads up to 2"):
        bitship.report.load(path)


def test_a_device_name_that_is_not_there_is_said_with_what_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices.toml").write_text('[[device]]\nname = "l4-a"\ntarget = "mps2-an386"\n')
    if shutil.which("cc") is None:
        pytest.skip("cc not installed")
    package = make(tmp_path / "p")
    assert isinstance(package, Package)
    with pytest.raises(DeviceError, match="device 'l4-b': unknown; there are: l4-a"):
        bitship.bench(package, "l4-b")
    with pytest.raises(DeviceError, match="does not run on 'emulator'"):
        bitship.bench(package, "emulator")
