"""The MVE family: which kernel takes which node, and any geometry gives the specification's bits, at any distance."""

import dataclasses

import msgspec
import numpy as np
import pytest
from arena import Arena
from close_calls import close_calls, every_tensor, run_close
from hypothesis import given, settings
from hypothesis import strategies as st
from int4_cases import packed
from merged_cases import ALL_CASES
from op_builders import Case, D, S, conv, depthwise, fc, requant

from bitship.converters.firmware.cores import Core, lower_for
from bitship.converters.firmware.program import lower_graph
from bitship.graph import spec
from bitship.graph.calls import Call
from bitship.graph.ops import DepthwiseConv2D

TAKEN = {
    "conv_3x3_s2_rgb": "mve_conv2d",
    "conv_batch": "mve_conv2d",
    "dw_3x3": "mve_depthwise_conv2d",
    "dw_7x7_s2": "mve_depthwise_conv2d",
    "vec_taps_lowest": "mve_depthwise_conv2d",
    "fc": "mve_fully_connected",
    "vec_fc_3x100x7_double": "mve_fully_connected",
    "vec_fc_9x33x17_single": "mve_conv2d",
    "add_tflite": "mve_add_linear",
    "vec_sub_linear_second": "mve_add_linear",
    "vec_add_two_tables": "mve_add",
    "mul": "mve_mul",
    "avg_pool": "mve_avg_pool2d",
    "max_pool": "mve_max_pool2d",
    "vec_pad_image": "mve_pad",
    "reduce_sum_mean": "mve_reduce_sum",
    "reduce_sum_last": "mve_reduce_sum",
    "table_int8": "mve_table",
}
LEFT: tuple[str, ...] = (
    "conv_grouped",
    "conv_int32_out",
    "conv_int16_in",
    "conv_weight_zero_point",
    "dw_multiplier",
    "add_broadcast",
)
LEFT += ("table_int16", "reduce_sum_raw", "vec_pad_apart", "vec_farther_zero_point")


def calls_of(name: str) -> list[Call]:
    graph, _ = ALL_CASES[name]()
    return [call for node in graph.nodes for call in lower_for(Core.MVE, graph, node)]


@pytest.mark.parametrize("name", sorted(TAKEN))
def test_a_node_goes_to_its_kernel(name: str) -> None:
    assert [c.function for c in calls_of(name)] == [f"bitship_{TAKEN[name]}"]


@pytest.mark.parametrize("name", sorted(set(LEFT) & set(ALL_CASES)))
def test_what_no_kernel_takes_is_left_to_others(name: str) -> None:
    assert not any("_mve_" in c.function for c in calls_of(name))


def assert_exact(case: Case) -> None:
    """In its arena, and with every operand as close to the output as its call allows."""
    graph, rows = case
    arena = Arena(lower_graph(graph, Core.MVE))
    for row in rows:
        for found, wanted in zip(arena.run(*row), spec.run(graph, *row), strict=True):
            np.testing.assert_array_equal(found, wanted)
        values = every_tensor(graph, row)
        assert all(run_close(call, i, values) for call, i in close_calls(graph, Core.MVE))


def fitting(
    shape: tuple[int, ...], kernel: tuple[int, int], dilation: tuple[int, int], padding: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """The padding, or so much of it that the kernel fits."""
    found = list(padding)
    for axis, (k, d) in enumerate(zip(kernel, dilation, strict=True)):
        reach, before, after = (k - 1) * d + 1, *found[2 * axis : 2 * axis + 2]
        if shape[1 + axis] + before + after < reach:
            found[2 * axis : 2 * axis + 2] = [reach, reach]
    return found[0], found[1], found[2], found[3]


small = st.integers(1, 3)
pads = st.tuples(*[st.integers(0, 3)] * 4)
fuzzed = settings(max_examples=120, deadline=None)


@fuzzed
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 11), st.integers(1, 40)),
    out=st.integers(1, 21),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(small, small),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=pads,
    double=st.booleans(),
    zp=st.sampled_from([-128, -3, 127]),
    izp=st.sampled_from([-128, 0, 127]),
)
def test_any_convolution(
    shape: tuple[int, int, int, int],
    out: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    double: bool,
    zp: int,
    izp: int,
) -> None:
    padding = fitting(shape, kernel, dilation, padding)
    assert_exact(
        conv(
            "any",
            shape,
            out,
            kernel,
            stride=stride,
            dilation=dilation,
            padding=padding,
            izp=izp,
            zp=zp,
            rounding=D if double else S,
        )
    )


@fuzzed
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 20), st.integers(1, 40)),
    kernel=st.sampled_from([(3, 3), (3, 3), (1, 9), (5, 5), (2, 3), (1, 1), (7, 2)]),
    stride=st.tuples(small, small),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=pads,
    double=st.booleans(),
    izp=st.sampled_from([-128, 0, 127]),
)
def test_any_depthwise_convolution(
    shape: tuple[int, int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    double: bool,
    izp: int,
) -> None:
    padding = fitting(shape, kernel, dilation, padding)
    assert_exact(
        depthwise(
            "any",
            shape,
            kernel,
            stride=stride,
            dilation=dilation,
            padding=padding,
            izp=izp,
            rounding=D if double else S,
        )
    )


@fuzzed
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 6), st.integers(1, 100)),
    out=st.integers(1, 21),
    kernel=st.sampled_from([(1, 1), (1, 1), (3, 3), (2, 1)]),
    double=st.booleans(),
    group=st.sampled_from([0, 16, 32, 64, 40]),
    seed=st.integers(0, 99),
)
def test_any_convolution_of_four_bits(
    shape: tuple[int, int, int, int], out: int, kernel: tuple[int, int], double: bool, group: int, seed: int
) -> None:
    padding = fitting(shape, kernel, (1, 1), (1, 1, 1, 1) if kernel == (3, 3) else (0, 0, 0, 0))
    case = conv(str(seed), shape, out, kernel, padding=padding, izp=-7, rounding=D if double else S)
    assert_exact(packed(str(seed), case, group))


@fuzzed
@given(st.integers(1, 9), st.integers(1, 140), st.integers(1, 21), st.booleans(), st.sampled_from([0, 32, 48]))
def test_any_fully_connected_layer_of_four_bits(rows: int, depth: int, out: int, double: bool, group: int) -> None:
    case = fc("any", rows, depth, out, izp=-128, rounding=D if double else S, per_channel=True)
    assert_exact(packed("any", case, group))


@fuzzed
@given(
    shape=st.tuples(st.just(1), st.integers(3, 7), st.integers(3, 9), st.integers(1, 40)),
    factor=st.sampled_from([0.05, 0.4, 0.9]),
    seed=st.integers(0, 99),
)
def test_any_depthwise_convolution_of_four_bits(shape: tuple[int, int, int, int], factor: float, seed: int) -> None:
    graph, rows = packed(str(seed), depthwise(str(seed), shape, (3, 3), padding=(1, 1, 1, 1), izp=-5))
    (node,) = graph.nodes
    assert isinstance(node.op, DepthwiseConv2D)
    r = requant(np.random.default_rng(seed), shape[3], factor)  # shifts left among them
    node = msgspec.structs.replace(node, op=msgspec.structs.replace(node.op, requant=r))
    graph = dataclasses.replace(graph, nodes=(node,))
    assert [c.function for c in lower_for(Core.MVE, graph, node)] == ["bitship_mve_depthwise_conv2d"]
    assert_exact((graph, rows))


@fuzzed
@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 21), st.booleans(), st.booleans())
def test_any_fully_connected_layer(rows: int, depth: int, out: int, double: bool, per_channel: bool) -> None:
    assert_exact(fc("any", rows, depth, out, izp=-128, rounding=D if double else S, per_channel=per_channel))
