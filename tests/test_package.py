"""Packages: deterministic, checked on opening, whole or not there at all; and bench refuses wrong bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from op_cases import CASES

import bitship
from bitship import report as reports
from bitship.device.base import Samples
from bitship.errors import BitsDifferError, DeviceError, DoesNotFitError, PackageError, TargetError
from bitship.figures import FigureKind
from bitship.graph import DType, Graph, GraphBuilder, spec
from bitship.graph.base import Array
from bitship.graph.ops import FullyConnected
from bitship.package import Package, Staging
from bitship.report.html import write_html
from bitship.targets import ConverterName

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def graph() -> Graph:
    return CASES["conv_3x3"]()[0]


def make(out: Path) -> Package:
    return bitship.export(graph(), "host", out, ConverterName.FIRMWARE)


@dataclass
class FakeDevice:
    """A device of our own: gives the right bits, or wrong ones, and two samples."""

    wrong: bool = False
    short: bool = False
    name: str = "fake"
    measured: int = 0

    def environment(self) -> dict[str, str]:
        return {"processor": "none"}

    @contextmanager
    def open(self, package: Package, role: str | None) -> Iterator["FakeDevice"]:
        self.graph = package.graph()
        yield self

    def run(self, rows: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        results = [spec.run(self.graph, *row) for row in rows]
        if self.wrong:
            results[1][0].reshape(-1)[3] ^= 1
        return results[:-1] if self.short else results

    def measure(self, row: tuple[Array, ...], runs: int, warmup: int) -> tuple[Samples, ...]:
        self.measured += 1
        return (Samples("latency", "ms", FigureKind.MEASURED, tuple(1.0 + i / 10 for i in range(runs))),)


@needs_cc
def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path / "a" / "pkg")
    make(tmp_path / "b" / "pkg")
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(names) > 3
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@needs_cc
def test_golden_vectors_are_the_inputs_and_outputs_and_nothing_else(tmp_path: Path) -> None:
    package = make(tmp_path / "pkg")
    with np.load(package.path / "vectors.npz", allow_pickle=False) as found:
        assert sorted(found.files) == ["input_0", "output_0"]


@needs_cc
def test_an_altered_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    package = make(tmp_path / "pkg")
    graph_file = package.path / "graph.bitship"
    body = graph_file.read_bytes()
    graph_file.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(PackageError, match=r"graph\.bitship: altered since the export"):
        Package.open(package.path)
    graph_file.unlink()
    with pytest.raises(PackageError, match=r"graph\.bitship: missing"):
        Package.open(package.path)
    manifest = json.loads((package.path / "manifest.json").read_text())
    manifest["files"] = {"../../outside": "00"}
    (package.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match="lies outside the package"):
        Package.open(package.path)
    (package.path / "manifest.json").write_text("{")
    with pytest.raises(PackageError, match="damaged"):
        Package.open(package.path)
    with pytest.raises(PackageError, match="not a package"):
        Package.open(tmp_path)


@needs_cc
def test_an_existing_folder_is_kept_unless_it_is_a_package_and_may_be_replaced(tmp_path: Path) -> None:
    package = make(tmp_path / "pkg")
    with pytest.raises(PackageError, match="already exists"):
        make(tmp_path / "pkg")
    again = bitship.export(graph(), "host", tmp_path / "pkg", ConverterName.FIRMWARE, overwrite=True)
    assert again.manifest == package.manifest
    (tmp_path / "mine").mkdir()
    with pytest.raises(PackageError, match="only a package is overwritten"):
        bitship.export(graph(), "host", tmp_path / "mine", ConverterName.FIRMWARE, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "pkg"]


def stage_and_fail(out: Path, error: Exception) -> None:
    with Staging(out, False) as folder:
        (folder / "half").write_text("x")
        raise error


def test_a_failing_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        stage_and_fail(tmp_path / "pkg", RuntimeError())
    with pytest.raises(PackageError, match="No space left on device; nothing was left behind"):
        stage_and_fail(tmp_path / "pkg", OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_nothing_visible_and_the_next_one_sweeps(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from bitship.package import Staging\n"
        f"with Staging(Path({str(tmp_path / 'pkg')!r}), False) as f:\n"
        "    (f / 'half').write_text('x'); print('ready', flush=True); time.sleep(60)\n"
    )
    for number, left in ((signal.SIGTERM, 0), (signal.SIGKILL, 1)):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ.copy()
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        process.send_signal(number)
        process.wait(30)
        process.stdout.close()
        deadline = time.monotonic() + 10
        while len(list(tmp_path.iterdir())) != left and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not (tmp_path / "pkg").exists()
        assert len(list(tmp_path.iterdir())) == left
    with Staging(tmp_path / "pkg", False) as folder:
        (folder / "whole").write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["pkg"]


def test_an_unknown_target_and_a_converter_not_for_it_are_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"target 'mps2-an368': unknown; nearest: mps2-an386"):
        bitship.export(graph(), "mps2-an368", tmp_path / "p")
    with pytest.raises(TargetError, match="converter 'tvm' is not for it; allowed: firmware"):
        bitship.export(graph(), "mps2-an385", tmp_path / "p", ConverterName.TVM)
    assert list(tmp_path.iterdir()) == []


def test_a_model_larger_than_flash_is_refused_by_how_many_bytes(tmp_path: Path) -> None:
    b = GraphBuilder("big")
    x = b.input("x", (1, 1000), DType.INT8)
    w, bias = b.constant("w", np.ones((400, 1000), np.int8)), b.constant("b", np.zeros(400, np.int32))
    big = b.finish([(b.node("y", FullyConnected(), x, w, bias), None)])
    with pytest.raises(
        DoesNotFitError, match=r"microbit: the constants need 401600 B of flash, 262144 B exist, 139456 B too many"
    ):
        bitship.export(big, "microbit", tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


@needs_cc
def test_bench_measures_exact_bits_and_refuses_others_before_measuring(tmp_path: Path) -> None:
    package = make(tmp_path / "pkg")
    good = FakeDevice()
    result = bitship.bench(package, good, runs=7)
    assert result.bits.exact
    assert result.bits.vectors == 5
    assert len(result.samples[0].values) == 7
    wrong = FakeDevice(wrong=True)
    with pytest.raises(
        BitsDifferError, match=r"vector 1, output 'y' at \[.*\].*1 of \d+ elements differ; nothing was measured"
    ):
        bitship.bench(package, wrong)
    assert wrong.measured == 0
    with pytest.raises(DeviceError, match="5 vectors were sent, 4 results came back"):
        bitship.bench(package, FakeDevice(short=True))


@needs_cc
def test_reports_are_kept_compared_and_shown(tmp_path: Path) -> None:
    package = make(tmp_path / "pkg")
    a, b = bitship.bench(package, FakeDevice(), runs=30), bitship.bench(package, FakeDevice(), runs=10)
    reports.save([a], tmp_path / "a.json")
    assert reports.load(tmp_path / "a.json") == [a]
    rows = reports.compare([a], [b])
    latency = next(r for r in rows if r.what.endswith("latency"))
    assert latency.ratio == pytest.approx(1.45 / 2.45)
    (tmp_path / "bad.json").write_text('[{"schema": 1}]')
    with pytest.raises(bitship.BitshipError, match="not a bitship report"):
        reports.load(tmp_path / "bad.json")
    write_html([a, b], tmp_path / "r.html", "title & more")
    page = (tmp_path / "r.html").read_text()
    assert "title &amp; more" in page
    assert page.count("<svg") == 2  # the samples, and the package's plan
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_a_summary_is_what_it_says() -> None:
    s = reports.summarize(Samples("x", "ms", FigureKind.MEASURED, tuple(float(i) for i in range(1, 101))))
    assert (s.median, s.count) == (50.5, 100)
    assert s.low < s.median < s.high
    assert (s.p90, s.p99) == (90, 99)  # samples that were taken, not values between them
    assert [reports.number(v) for v in (0.0123456, 12.5, 3.0, 658291.5, 1e9)] == [
        "0.01235",
        "12.5",
        "3",
        "658,292",
        "1,000,000,000",
    ]
