"""Graphs without what can be left out: pads taken into convolutions, copies, dead nodes; views in the plan."""

import numpy as np
import pytest
from arena import Arena
from hypothesis import given, settings
from hypothesis import strategies as st
from op_builders import I8, ints, requant, rng

from bitship.converters.firmware.cores import Core
from bitship.converters.firmware.emit import lower_graph
from bitship.graph import DType, Graph, GraphBuilder, spec
from bitship.graph.ops import AnyOp, Clamp, Concat, Conv2D, DepthwiseConv2D, Pad, Reshape, Slice, Transpose
from bitship.passes.simplify import simplify


def padded_conv(value: int, zero_point: int, depthwise: bool = False, twice: bool = False) -> Graph:
    r = rng("padded")
    b = GraphBuilder("padded")
    x = b.input("x", (1, 7, 6, 4), I8)
    p = b.node("p", Pad(((0, 0), (1, 2), (0, 1), (0, 0)), value), x)
    op: AnyOp
    if depthwise:
        w = b.constant("w", ints(r, (3, 3, 4, 1)))
        op = DepthwiseConv2D(
            stride=(2, 2), padding=(0, 1, 1, 0), input_zero_point=zero_point, requant=requant(r, 4, 0.01)
        )
    else:
        w = b.constant("w", ints(r, (4, 3, 3, 4)))
        op = Conv2D((2, 1), (0, 1, 1, 0), (1, 1), zero_point, 0, requant(r, 4, 0.01))
    y = b.node("y", op, p, w, b.constant("b", np.arange(4, dtype=np.int32)))
    names = [y, b.node("z", Clamp(-5, 5), p)] if twice else [y]
    return b.finish([(name, None) for name in names])


def assert_same(graph: Graph) -> Graph:
    found = simplify(graph)
    r = np.random.default_rng(0)
    for _ in range(3):
        row = tuple(ints(r, p.type.shape, p.type.dtype, -100, 100) for p in graph.inputs)
        wanted = spec.run(graph, *row)
        for a, b in zip(spec.run(found, *row), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
        for core in (Core.HOST, Core.SCALAR):
            for a, b in zip(Arena(lower_graph(graph, core)).run(*row), wanted, strict=True):
                np.testing.assert_array_equal(a, b)
    assert simplify(found) is found
    return found


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_pad_by_the_zero_point_goes_into_the_convolution(depthwise: bool) -> None:
    (node,) = assert_same(padded_conv(-7, -7, depthwise)).nodes
    assert node.op.padding == (1, 3, 1, 1)  # type: ignore[union-attr]


def test_a_pad_by_another_value_or_with_another_reader_stays() -> None:
    for graph in (padded_conv(0, -7), padded_conv(-7, -7, twice=True)):
        assert assert_same(graph) is graph


def test_moves_of_nothing_are_reshapes_and_dead_nodes_go() -> None:
    b = GraphBuilder("copies")
    x = b.input("x", (1, 4, 1, 8), I8)
    h = b.node("t", Transpose((0, 2, 1, 3)), x)
    h = b.node("s", Slice((0, 0, 0, 0), (1, 1, 4, 8)), h)
    h = b.node("c", Concat(2), b.node("p", Pad(((0, 0),) * 4, 3), h))
    b.node("dead", Clamp(0, 1), b.node("dying", Clamp(0, 2), h))
    graph = b.finish([(b.node("y", Clamp(-9, 9), h), None)])
    found = assert_same(graph)
    assert [type(n.op) for n in found.nodes] == [Reshape] * 4 + [Clamp]


def test_the_package_is_of_the_graph_that_was_exported() -> None:
    graph = padded_conv(-7, -7)
    program = lower_graph(graph, Core.SCALAR)
    assert program.graph is graph
    assert program.functions == ["bitship_conv2d"]


def test_a_concat_of_whole_tensors_and_slices_of_rows_move_no_bytes() -> None:
    b = GraphBuilder("views")
    x = b.input("x", (1, 8, 4, 8), I8)
    parts = [b.node(f"s{i}", Slice((0, 2 * i, 0, 0), (1, 2, 4, 8)), x) for i in range(4)]
    ends = [b.node(f"c{i}", Clamp(-50 + i, 50), part) for i, part in enumerate(parts)]
    whole = b.node("whole", Concat(1), *reversed(ends))
    graph = b.finish([(whole, None)])
    assert_same(graph)
    program = lower_graph(graph, Core.SCALAR)
    assert program.functions == ["bitship_clamp"]
    assert program.plan.peak == program.plan.bound == 2 * 256


@st.composite
def nets(draw: st.DrawFn) -> Graph:
    """Concats and slices of rows, clamps and reshapes, in any order, any of them an output, views of views."""
    b = GraphBuilder("random")
    names = [b.input(f"x{i}", (4 * draw(st.integers(1, 5)),), DType.INT32) for i in range(draw(st.integers(1, 2)))]
    for _ in range(draw(st.integers(1, 12))):
        a = draw(st.sampled_from(names))
        n = b.types[a].size
        match draw(st.integers(0, 4)):
            case 0:
                names.append(b.node("t", Clamp(draw(st.integers(-99, -1)), 50), a))
            case 1 | 2:
                flat = [x for x in names if len(b.types[x].shape) == 1]
                parts = draw(st.lists(st.sampled_from(flat), min_size=1, max_size=3))
                names.append(b.node("t", Concat(0), *parts))
            case 3 if len(b.types[a].shape) == 1:
                start = 4 * draw(st.integers(0, n // 4 - 1))
                names.append(b.node("t", Slice((start,), (4 * draw(st.integers(1, (n - start) // 4)),)), a))
            case _:
                names.append(b.node("t", Reshape((n, 1) if len(b.types[a].shape) == 1 else (n,)), a))
    outputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    return b.finish([(name, None) for name in outputs])


@settings(deadline=None, max_examples=120)
@given(nets())
def test_views_of_views_give_the_bits_of_the_specification(graph: Graph) -> None:
    assert_same(graph)
