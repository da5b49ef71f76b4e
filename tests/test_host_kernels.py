"""Packed kernels of an x86-64 host: every level of instructions that this processor has, the same bits."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_cases import ALL_CASES
from needs import skip_without_kernels
from op_builders import conv as conv_case
from op_builders import depthwise as depthwise_case
from op_builders import fc as fc_case
from op_builders import matmul as matmul_case
from transformer_cases import softmax_matmul

from bitship import kernels
from bitship.graph import DType, Graph, spec
from bitship.graph.base import Array
from bitship.graph.host import execute, prepare
from bitship.graph.ops import Rounding, SoftmaxMatMul

skip_without_kernels()

LEVELS = range(kernels.load().lib.bitship_host_level() + 1)
PACKED = [n for n in ALL_CASES if n.startswith(("conv", "depthwise", "fc", "matmul", "softmax_matmul"))]


def assert_exact_at_every_level(graph: Graph, feeds: list[tuple[Array, ...]]) -> None:
    programs = [prepare(graph, level) for level in LEVELS]
    for inputs in feeds:
        wanted = spec.run(graph, *inputs)
        for level, program in zip(LEVELS, programs, strict=True):
            for value, expected in zip(execute(program, *inputs), wanted, strict=True):
                np.testing.assert_array_equal(value, expected, err_msg=f"level {level}")


def functions(graph: Graph, level: int) -> set[str]:
    return {step.call.function for step in prepare(graph, level).steps}


@pytest.mark.parametrize("name", PACKED)
def test_every_case_at_every_level(name: str) -> None:
    assert_exact_at_every_level(*ALL_CASES[name]())


def test_level_0_packs_nothing_and_the_others_pack_what_they_can() -> None:
    conv, depthwise = conv_case("conv", (1, 5, 5, 3), 7, (3, 3))[0], depthwise_case("dw", (1, 15, 15, 3), (3, 3), 1)[0]
    assert functions(conv, 0) == {"bitship_conv2d"}
    assert functions(depthwise, 0) == {"bitship_depthwise_conv2d"}
    for level in LEVELS[1:]:
        assert functions(conv, level) == {"bitship_host_conv2d"}
        assert functions(depthwise, level) == {"bitship_host_depthwise_conv2d"}
    assert functions(depthwise_case("dw", (1, 15, 15, 3), (3, 3), 2)[0], LEVELS[-1]) == {"bitship_depthwise_conv2d"}


def test_a_level_that_the_processor_lacks_packs_nothing() -> None:
    assert functions(conv_case("conv", (1, 5, 5, 3), 7, (3, 3))[0], LEVELS[-1] + 1) == {"bitship_conv2d"}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_convolutions_of_odd_shapes_and_tails(data: st.DataObject) -> None:
    k, dilation, stride = (data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3))) for _ in range(3))
    graph, feeds = conv_case(
        "random",
        (
            data.draw(st.integers(1, 2)),
            data.draw(st.integers(13, 16)),
            data.draw(st.integers(13, 16)),
            data.draw(st.sampled_from([1, 3, 4, 8, 17, 64])),
        ),
        data.draw(st.sampled_from([1, 15, 16, 17, 32, 33, 48, 50])),
        k,
        stride=stride,
        padding=data.draw(st.tuples(*[st.integers(0, 4)] * 4)),
        dilation=dilation,
        izp=data.draw(st.integers(-128, 127)),
        wzp=data.draw(st.sampled_from([0, 0, 0, -128, 127])),
        rounding=data.draw(st.sampled_from(Rounding)),
        epilogue=data.draw(st.booleans()),
    )
    assert_exact_at_every_level(graph, feeds)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 140), st.integers(1, 70), st.sampled_from([1, 16, 31, 32, 33, 70]), st.integers(-128, 127))
def test_rows_by_depth_by_channels(rows: int, depth: int, channels: int, zero_point: int) -> None:
    assert_exact_at_every_level(*fc_case("random", rows, depth, channels, izp=zero_point, wzp=0))


extents = st.tuples(st.integers(1, 3), st.integers(1, 80), st.integers(1, 70), st.sampled_from([1, 16, 31, 33, 64]))


@settings(deadline=None, max_examples=60)
@given(extents, st.integers(-128, 127), st.sampled_from([0, -128, 127]), st.booleans(), st.booleans())
def test_products_of_odd_extents(
    shape: tuple[int, int, int, int], azp: int, bzp: int, wide: bool, epilogue: bool
) -> None:
    more = {"atype": DType.INT16, "azp": 0} if wide else {"azp": azp}
    assert_exact_at_every_level(*matmul_case("random", *shape, bzp=bzp, epilogue=epilogue, **more))


@settings(deadline=None, max_examples=60)
@given(
    extents, st.sampled_from([0, -128, 127]), st.booleans(), st.booleans(), st.sampled_from([DType.INT8, DType.INT16])
)
def test_softmax_products_of_odd_extents(
    shape: tuple[int, int, int, int], zp: int, masked: bool, per_channel: bool, out: DType
) -> None:
    case = softmax_matmul("random", *shape, 0.04, zp=zp, masked=masked, per_channel=per_channel, out=out, out_zp=-5)
    assert_exact_at_every_level(*case)


@pytest.mark.parametrize("shift", [1, 7, 8])
def test_left_shifts_within_and_beyond_the_fast_epilogue(shift: int) -> None:
    graph, rows = softmax_matmul("random", 1, 9, 40, 20, 0.5)
    node = graph.nodes[0]
    assert isinstance(node.op, SoftmaxMatMul)
    requant = msgspec.structs.replace(node.op.requant, shift=(shift,))
    op = msgspec.structs.replace(node.op, requant=requant)
    assert_exact_at_every_level(replace(graph, nodes=(msgspec.structs.replace(node, op=op),)), rows)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_depthwise_convolutions_of_odd_shapes_and_tails(data: st.DataObject) -> None:
    k, dilation, stride = (data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4))) for _ in range(3))
    graph, feeds = depthwise_case(
        "random",
        (
            data.draw(st.integers(1, 2)),
            data.draw(st.integers(13, 16)),
            data.draw(st.integers(13, 16)),
            data.draw(st.sampled_from([1, 3, 16, 32, 63, 64, 71, 128])),
        ),
        k,
        1,
        stride=stride,
        padding=data.draw(st.tuples(*[st.integers(0, 4)] * 4)),
        dilation=dilation,
        izp=data.draw(st.integers(-128, 127)),
        wzp=data.draw(st.sampled_from([0, 0, 0, -128, 127])),
        rounding=data.draw(st.sampled_from(Rounding)),
    )
    assert_exact_at_every_level(graph, feeds)
