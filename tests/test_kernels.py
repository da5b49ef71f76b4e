"""The C kernels on this machine against the specification: every case, and odd shapes and roundings at random."""

import numpy as np
import pytest
from op_cases import CASES

from bitship.graph import spec


@pytest.mark.parametrize("name", CASES)
def test_every_case_gives_the_bits_of_the_specification(name: str) -> None:
    graph, feeds = CASES[name]()
    for inputs in feeds:
        for value, wanted in zip(graph.run(*inputs), spec.run(graph, *inputs), strict=True):
            assert value.dtype == wanted.dtype
            np.testing.assert_array_equal(value, wanted)
