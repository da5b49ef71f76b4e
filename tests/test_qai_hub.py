"""The qai-hub converter: model, calibration and exact jobs; what bench says where nothing can be submitted."""

from pathlib import Path

import numpy as np
import pytest
from op_cases import CASES
from random_nets import mobilenet_v2

import bitship
from bitship import targets
from bitship.converters import placement, qai_hub
from bitship.converters.base import Numerics
from bitship.errors import DeviceError, MissingDependencyError, PackageError, UnsupportedError

pytest.importorskip("onnxruntime")

ONNX = targets.ConverterName.ONNX
HOSTED = [n for n in targets.names() if n.startswith("qualcomm-")]


@pytest.mark.parametrize("name", HOSTED)
def test_a_package_has_the_model_its_calibration_and_its_jobs(name: str, tmp_path: Path) -> None:
    graph = mobilenet_v2(32, 0.25, 10, blocks=1)
    package = bitship.export(graph, name, tmp_path / "pkg")
    (artifact,) = package.manifest.artifacts
    assert (artifact.role, artifact.numerics) == ("onnx", Numerics.UNVERIFIED)
    job = qai_hub.read(package.path)
    assert job is not None
    assert job.device == targets.load(name).hub_device
    assert job.model == artifact.path
    assert dict(job.input_specs) == {"input_0": (graph.inputs[0].type.shape, "int8")}
    import onnxruntime

    session = onnxruntime.InferenceSession(package.path / job.model)
    with np.load(package.path / job.dataset) as data:
        assert set(data.files) == set(job.input_specs) == {i.name for i in session.get_inputs()}
        assert data["input_0"].shape == (qai_hub.ROWS, *graph.inputs[0].type.shape)
        session.run(None, {"input_0": data["input_0"][2]})
    assert placement.read(package.path / artifact.placement).share == 1.0


def test_without_the_client_or_a_token_bench_says_what_it_would_have_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "none.ini"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = bitship.export(CASES["conv_3x3"]()[0], "qualcomm-galaxy-s24", tmp_path / "pkg")
    with pytest.raises((DeviceError, MissingDependencyError)) as e:
        bitship.bench(package)
    said = str(e.value)
    assert "\n" not in said
    assert "qai_hub' cannot be imported" in said or "no API token" in said
    assert (
        "not submitted: compile model.qdq.onnx (input_0 int8[1, 9, 7, 5]) for 'Samsung Galaxy S24 (Family)' with "
        "--target_runtime onnx, then an inference and a profile job" in said
    )


def test_a_graph_without_a_float_form_leaves_no_package(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="argmax has no float form"):
        bitship.export(CASES["argmax_last"]()[0], "qualcomm-x-elite", tmp_path / "pkg")
    assert not (tmp_path / "pkg").exists()
    assert bitship.export(CASES["argmax_last"]()[0], "qualcomm-x-elite", tmp_path / "o", ONNX).artifact().path


def test_a_damaged_job_file_is_one_line(tmp_path: Path) -> None:
    assert qai_hub.read(tmp_path) is None
    (tmp_path / qai_hub.JOB).write_text("{}")
    with pytest.raises(PackageError, match=r"job\.json: damaged"):
        qai_hub.read(tmp_path)
