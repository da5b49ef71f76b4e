"""Programs for every core, run here in their planned arena: the specification's bits."""

import numpy as np
import pytest
from arena import Arena
from merged_cases import ALL_CASES

from bitship import kernels
from bitship.converters.firmware.cores import Core
from bitship.converters.firmware.emit import lower_graph
from bitship.graph import spec


def runnable(core: Core) -> bool:
    """Whether this machine's library has the core's kernels."""
    return core in (Core.HOST, Core.SCALAR) or hasattr(kernels.load()[1], f"bitship_{core.value}_conv2d")


@pytest.mark.parametrize("core", [core for core in Core if runnable(core)])
@pytest.mark.parametrize("name", sorted(ALL_CASES))
def test_a_planned_program_gives_the_bits_of_the_specification(core: Core, name: str) -> None:
    graph, rows = ALL_CASES[name]()
    arena = Arena(lower_graph(graph, core))
    for row in rows:
        for port, found, wanted in zip(graph.outputs, arena.run(*row), spec.run(graph, *row), strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=port.name)
