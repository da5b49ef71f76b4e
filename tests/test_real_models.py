"""Real models under BITSHIP_DATA: imports equal LiteRT's reference kernels, back ends equal the specification."""

import os
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from needs import kernels_built

from bitship.errors import UnsupportedError
from bitship.graph import spec
from bitship.importers import tflite

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy import cifar  # noqa: E402
from benchmarks.exactness import BACKENDS, Rows, open_host_c, open_litert, open_package  # noqa: E402
from benchmarks.models import MODELS, RealModel, inputs  # noqa: E402

DATA = Path(os.environ.get("BITSHIP_DATA", "absent"))
pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason="needs BITSHIP_DATA"),
    pytest.mark.skipif(not kernels_built(), reason="the C kernels are not built"),
]
SMALL = ("ResNet8 (IC)", "DS-CNN (KWS)", "Streaming wake word")


def same(found: Rows, wanted: Rows) -> None:
    for mine, reference in zip(found, wanted, strict=True):
        for a, b in zip(mine, reference, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_import_and_host_kernels_equal_the_reference_kernels(model: RealModel) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT judges this test")
    path = DATA / model.path
    graph = tflite.load(path, model.outputs)
    rows = inputs(graph, 4, DATA)
    wanted = [spec.run(graph, *row) for row in rows]
    for opener in (open_litert(path, graph, model.outputs), open_host_c(graph)):
        with opener as run:
            same(run(rows), wanted)


@pytest.mark.target
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b[0])
@pytest.mark.parametrize("name", SMALL)
def test_small_models_give_the_same_bits_everywhere(name: str, backend: tuple[str, str, object, bool]) -> None:
    model = next(m for m in MODELS if m.name == name)
    graph = tflite.load(DATA / model.path)
    rows = inputs(graph, 4, DATA)
    with open_package(graph, backend[1], backend[2], rows) as run:  # type: ignore[arg-type]
        same(run(rows), [spec.run(graph, *row) for row in rows])


def test_photographs_give_litert_s_bytes() -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT judges this test")
    path = DATA / "mlperf_tiny" / "ic01_resnet8_int8.tflite"
    graph = tflite.load(path)
    rows: Rows = [(x,) for x, _ in islice(cifar(graph, DATA), 1000)]
    with open_litert(path, graph, ()) as judge, open_host_c(graph) as mine:
        same(mine(rows), judge(rows))


def test_a_model_with_a_float_tail_is_refused_uncut_and_taken_cut() -> None:
    movenet = MODELS[-1]
    with pytest.raises(UnsupportedError, match=r"operator 90 \(FLOOR_DIV\).*--output TENSOR cuts"):
        tflite.load(DATA / movenet.path)
    assert len(tflite.load(DATA / movenet.path, movenet.outputs).outputs) == 4


def test_a_float_model_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="quantize a float model first"):
        tflite.load(DATA / "mlperf_tiny" / "ic01_resnet8_float.tflite")
