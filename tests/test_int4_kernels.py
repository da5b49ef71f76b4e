"""Kernels on weights of four bits: which node gets one, on which core, and the plain one on any shape."""

import numpy as np
import pytest
from arena import Arena
from hypothesis import given, settings
from hypothesis import strategies as st
from int4_cases import CASES, packed
from op_builders import Case, D, S, conv, fc

from bitship.converters.firmware.cores import Core, lower_for
from bitship.converters.firmware.program import lower_graph
from bitship.graph import spec
from bitship.graph.calls import Packed
from bitship.passes.int4 import unpacked

KERNELS = {Core.SCALAR: "bitship_conv2d_int4", Core.DSP: "bitship_dsp_conv2d_int4", Core.MVE: "bitship_mve_conv2d_int4"}
BYTES = ("int4_conv_grouped", "int4_dw")


def calls(name: str, core: Core) -> list[str]:
    graph = CASES[name]()[0]
    return [c.function for c in lower_for(core, graph, graph.nodes[0])]


@pytest.mark.parametrize("core", KERNELS)
def test_packed_weights_get_the_core_s_own_kernel(core: Core) -> None:
    assert calls("int4_conv_1x1_g32", core) == [KERNELS[core]]
    assert calls("int4_conv_3x3", core) == [KERNELS[core]]
    graph = CASES["int4_conv_3x3"]()[0]
    assert "int4" not in lower_for(core, unpacked(graph), graph.nodes[0])[0].function
    for name in BYTES:
        assert "int4" not in calls(name, core)[0]


def test_two_roundings_keep_bytes_where_sums_are_sixteen_times_too_large() -> None:
    assert calls("int4_conv_double", Core.DSP) == ["bitship_dsp_conv2d"]
    assert calls("int4_conv_double", Core.MVE) == ["bitship_mve_conv2d_int4"]
    assert calls("int4_conv_double", Core.SCALAR) == ["bitship_conv2d_int4"]


@pytest.mark.parametrize("core", KERNELS)
def test_what_goes_to_flash_is_about_half(core: Core) -> None:
    graph, _ = packed("big", conv("big", (1, 4, 4, 256), 64, (1, 1), izp=-1))

    def stored(g: object) -> int:
        (call,) = lower_for(core, g, graph.nodes[0])  # type: ignore[arg-type]
        known = sum(len(o.data) for o in call.operands if isinstance(o, Packed))
        return known + sum(graph.constants[o].nbytes for o in call.tensors if o in graph.constants)

    assert stored(graph) < 0.6 * stored(unpacked(graph))


def assert_exact(case: Case) -> None:
    graph, rows = case
    arena = Arena(lower_graph(graph, Core.SCALAR))
    for row in rows:
        np.testing.assert_array_equal(arena.run(*row)[0], spec.run(graph, *row)[0])


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(3, 6), st.integers(3, 7), st.integers(1, 70)),
    out=st.integers(1, 21),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 1)]),
    stride=st.integers(1, 2),
    double=st.booleans(),
    group=st.sampled_from([0, 32, 2, 10]),
    seed=st.integers(0, 99),
)
def test_any_convolution_on_a_plain_core(
    shape: tuple[int, int, int, int],
    out: int,
    kernel: tuple[int, int],
    stride: int,
    double: bool,
    group: int,
    seed: int,
) -> None:
    pad = (1, 1, 0, 1) if kernel == (3, 3) else (0, 0, 0, 0)
    case = conv(
        str(seed), shape, out, kernel, stride=(stride, stride), padding=pad, izp=-7, rounding=D if double else S
    )
    assert_exact(packed(str(seed), case, group))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 140), st.integers(1, 40), st.sampled_from([0, 32, 6]))
def test_any_fully_connected_layer_on_a_plain_core(rows: int, depth: int, out: int, group: int) -> None:
    assert_exact(packed("any", fc("any", rows, depth, out, izp=-128, per_channel=True), group))
