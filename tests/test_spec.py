"""The specification against Python integers, and every case against the proof."""

import numpy as np
import pytest
from op_cases import CASES
from transformer_cases import TRANSFORMER_CASES

from bitship.graph import spec, verify
from bitship.graph.ops import OPS

ALL = CASES | TRANSFORMER_CASES


@pytest.mark.parametrize("name", ALL)
def test_every_case_verifies_and_its_results_lie_in_the_proven_range(name: str) -> None:
    graph, feeds = ALL[name]()
    ranges = verify(graph)
    for inputs in feeds:
        for value, port in zip(spec.run(graph, *inputs), graph.outputs, strict=True):
            assert value.shape == port.type.shape
            assert value.dtype == port.type.dtype.numpy
            assert ranges[port.name].lo <= int(value.min())
            assert int(value.max()) <= ranges[port.name].hi


def test_every_op_has_a_case() -> None:
    covered = {type(node.op) for make in ALL.values() for node in make()[0].nodes}
    assert covered == set(OPS)


@pytest.mark.parametrize(
    "name", ["conv_3x3", "dw_3x3", "add_tflite", "layer_norm", "softmax_matmul", "shiftgelu", "table_softmax"]
)
def test_results_are_not_all_saturated(name: str) -> None:
    graph, feeds = ALL[name]()
    value = spec.run(graph, *feeds[0])[0]
    assert np.unique(value).size > 20
