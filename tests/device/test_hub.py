"""Qualcomm AI Hub: the real client against a stand-in of its server; jobs, results, resuming, one-line errors."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from op_cases import CASES
from standins.hub_lab import TOKEN, hub, network
from tool_install import environment

import bitship
from bitship.converters.base import Numerics
from bitship.device.base import Profiles
from bitship.device.desk import Unit, connect
from bitship.device.hub import HubSettings
from bitship.errors import DeviceError, MissingDependencyError
from bitship.figures import FigureKind
from bitship.package import Package

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.tools


@pytest.fixture(scope="module")
def python() -> str:
    """A Python that has the client, whose pinned packages do not go with bitship's."""
    return str(environment("qai-hub", "qai-hub==0.56.0") / "python")


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network(tmp_path_factory.mktemp("hub") / "net.onnx")


@pytest.fixture(scope="module")
def package(onnx_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return bitship.export(bitship.load(onnx_file), "host", tmp_path_factory.mktemp("p") / "pkg")


@pytest.fixture
def settings(python: str, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubSettings]:
    with hub(python, tmp_path) as ini:
        monkeypatch.setenv("QAIHUB_CLIENT_INI", str(ini))
        yield HubSettings("Samsung Galaxy S24", model=str(onnx_file), python=python, jobs=str(tmp_path / "jobs"))


def test_a_package_is_proven_and_profiled_on_a_hosted_device(settings: HubSettings, package: Package) -> None:
    device = connect(Unit(name="s24", target="qualcomm-galaxy-s24", hub=settings))
    report = bitship.bench(package, device, runs=3)
    assert report.bits.exact
    figures = {s.name: s for s in report.samples}
    assert figures["latency"].values == tuple((1500 + 10 * i) / 1e3 for i in range(50))
    assert figures["peak memory"].values == (12_345_678.0,)
    assert all(s.kind is FigureKind.MEASURED for s in report.samples)
    assert report.environment["device"] == "Samsung Galaxy S24, OS 14"
    assert report.environment["processor"] == "qualcomm-snapdragon-8gen3"
    assert report.environment["uploaded"].startswith("net.onnx, sha256 ")
    assert {"compile job", "inference job", "profile job"} <= set(report.environment)
    with device.open(package, None) as session:
        assert isinstance(session, Profiles)
        layers = session.profile(package.vectors()[0][0], 1)
    assert [(op.op, op.tensor) for op in layers] == [("Conv (NPU)", "conv"), ("MaxPool (NPU)", "pool")]


def test_a_run_that_was_cut_off_waits_for_the_jobs_it_had_submitted(settings: HubSettings, package: Package) -> None:
    device = connect(Unit(name="s24", target="qualcomm-galaxy-s24", hub=settings))
    inputs, wanted = package.vectors()
    with device.open(package, None) as session:
        session.run(inputs)
    (kept,) = Path(str(settings.jobs)).glob("*.json")
    before = json.loads(kept.read_text())
    with connect(Unit(name="s24", target="qualcomm-galaxy-s24", hub=settings)).open(package, None) as session:
        found = session.run(inputs)
    assert json.loads(kept.read_text()) == before
    assert {k.split(":")[0] for k in before} == {"compile", "inference"}
    for mine, reference in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mine[0], reference[0])


def test_a_finished_bench_is_run_anew_of_the_same_compiled_model(
    settings: HubSettings, package: Package, tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = connect(Unit(name="s24", target="qualcomm-galaxy-s24", hub=settings))
    first = bitship.bench(package, device, runs=3)
    (kept,) = Path(str(settings.jobs)).glob("*.json")
    assert list(json.loads(kept.read_text())) == ["compile"]
    second = bitship.bench(package, device, runs=3)
    assert first.environment["compile job"] == second.environment["compile job"]
    for name in ("inference job", "profile job"):
        assert first.environment[name] != second.environment[name]
    (tmp_path / "other").mkdir()
    with hub(python, tmp_path / "other") as ini:  # a hub that knows nothing of these jobs
        monkeypatch.setenv("QAIHUB_CLIENT_INI", str(ini))
        assert bitship.bench(package, device, runs=3).bits.exact


def test_what_is_wrong_is_one_clear_line(
    settings: HubSettings, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, _ = package.vectors()

    def said(changed: HubSettings) -> str:
        with (
            pytest.raises((DeviceError, MissingDependencyError)) as e,
            connect(Unit(name="s24", target="qualcomm-galaxy-s24", hub=changed)).open(package, None) as session,
        ):
            session.run(inputs)
        assert "\n" not in str(e.value)
        return str(e.value)

    assert "no device 'Nokia 3310'; there are Samsung Galaxy S24" in said(
        msgspec.structs.replace(settings, device="Nokia 3310")
    )
    assert "qai_hub" in said(msgspec.structs.replace(settings, python=sys.executable))
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "none.ini"))
    assert "qai-hub: no API token; 'qai-hub configure" in said(settings)
    (tmp_path / "none.ini").write_text((tmp_path / "client.ini").read_text().replace(TOKEN, "stolen"))
    assert "the API token was not accepted" in said(settings)


def test_a_package_without_a_model_for_the_hub_says_what_is_needed(package: Package) -> None:
    device = connect(Unit(name="s24", target="qualcomm-galaxy-s24", hub=HubSettings("Samsung Galaxy S24")))
    with pytest.raises(DeviceError, match=r"the hub takes 'onnx'.*hub = \{ model"), device.open(package, None):
        pass
    assert (
        connect(Unit(name="s24", target="qualcomm-galaxy-s24")).environment()["device"] == "Samsung Galaxy S24 (Family)"
    )


def test_an_exported_package_is_compiled_run_and_profiled_with_its_difference_stated(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, _ = CASES["conv_3x3"]()
    package = bitship.export(graph, "qualcomm-galaxy-s24", tmp_path / "pkg")
    with hub(python, tmp_path) as ini:
        monkeypatch.setenv("QAIHUB_CLIENT_INI", str(ini))
        settings = HubSettings("Samsung Galaxy S24", python=python, jobs=str(tmp_path / "jobs"))
        report = bitship.bench(package, connect(Unit(name="s24", target="qualcomm-galaxy-s24", hub=settings)), runs=3)
    assert report.numerics is Numerics.UNVERIFIED
    assert report.bits.max_difference <= 1
    assert report.environment["uploaded"].startswith("model.qdq.onnx, sha256 ")
    assert {s.name for s in report.samples} >= {"latency", "peak memory"}
