"""The C kernels on this machine against the specification: every case, and odd shapes and roundings at random."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_cases import ALL_CASES
from needs import skip_without_kernels
from op_builders import conv as conv_case
from op_builders import depthwise as depthwise_case
from op_builders import fc as fc_case
from op_cases import CASES
from transformer_cases import norm

from bitship import kernels
from bitship.errors import GraphError, MissingDependencyError, UnsupportedError
from bitship.graph import DType, Graph, GraphBuilder, spec
from bitship.graph.base import Array
from bitship.graph.calls import SMALL_TILE, WIDE_TILE, lower
from bitship.graph.host import new_struct
from bitship.graph.ops import Add, ArgMax, Clamp, Concat, Conv2D, LayerNorm, Rescale, Reshape, Rounding, Transpose

skip_without_kernels()

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def assert_exact(graph: Graph, feeds: list[tuple[Array, ...]]) -> None:
    for inputs in feeds:
        for value, wanted in zip(graph.run(*inputs), spec.run(graph, *inputs), strict=True):
            assert value.dtype == wanted.dtype
            np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize("name", ALL_CASES)
def test_every_case_gives_the_bits_of_the_specification(name: str) -> None:
    assert_exact(*ALL_CASES[name]())


def rescaled(value: int, m: int, shift: int, rounding: Rounding) -> int:
    """One value in Python integers, from the papers' formulas rather than the specification's code."""
    if rounding is Rounding.SINGLE:
        down = 31 - shift
        return (value * m + (1 << (down - 1))) >> down
    high = ((value << max(shift, 0)) * m + (1 << 30)) >> 31
    right = max(-shift, 0)
    magnitude = (abs(high) + ((1 << right) >> 1)) >> right
    return magnitude if high >= 0 else -magnitude


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_rescale_is_exact_integer_arithmetic(data: st.DataObject) -> None:
    rounding = data.draw(st.sampled_from(Rounding))
    channels = data.draw(st.sampled_from([1, 2, 7, 16, 17, 65]))
    per_channel = data.draw(st.booleans())
    n = channels if per_channel else 1
    multiplier = data.draw(st.lists(st.integers(0, INT32_MAX), min_size=n, max_size=n))
    shift = data.draw(st.lists(st.integers(-31, 30), min_size=n, max_size=n))
    zero_point = data.draw(st.sampled_from([0, 5, -128, (1 << 30) - 1, 1 - (1 << 30), INT32_MIN, INT32_MAX]))
    room = max((*shift, 0)) if rounding is Rounding.DOUBLE else 0
    values = data.draw(
        st.lists(st.integers(INT32_MIN >> room, INT32_MAX >> room), min_size=3 * channels, max_size=3 * channels)
    )
    dtype = data.draw(st.sampled_from([DType.INT8, DType.INT32]))
    lowest, highest = sorted(data.draw(st.tuples(*[st.integers(dtype.qmin, dtype.qmax)] * 2)))
    op = Rescale(tuple(multiplier), tuple(shift), 0, zero_point, rounding, dtype=dtype, qmin=lowest, qmax=highest)
    b = GraphBuilder("rescale")
    x = b.input("x", (3, channels), DType.INT32)
    bounded = b.node("bounded", Clamp(INT32_MIN >> room, INT32_MAX >> room), x)
    graph = b.finish([(b.node("y", op, bounded), None)])
    (found,) = graph.run(np.array(values, np.int32).reshape(3, channels))
    for i, (v, got) in enumerate(zip(values, found.reshape(-1).tolist(), strict=True)):
        c = i % channels if per_channel else 0
        y = rescaled(v, multiplier[c], shift[c], rounding) + zero_point
        assert got == min(max(y, lowest), highest)


small = st.integers(1, 9)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_convolutions_of_odd_shapes_strides_and_tails(data: st.DataObject) -> None:
    k, dilation, stride = (data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4))) for _ in range(3))
    padding = data.draw(st.tuples(*[st.integers(0, 5)] * 4))
    extents = [
        data.draw(st.integers(max(1, d * (n - 1) + 1 - a - b), 14))
        for n, d, a, b in zip(k, dilation, padding[::2], padding[1::2], strict=True)
    ]
    groups = data.draw(st.integers(1, 3))
    x = (data.draw(st.integers(1, 2)), extents[0], extents[1], groups * data.draw(st.sampled_from([1, 3, 8, 17])))
    graph, feeds = conv_case(
        "random",
        x,
        groups * data.draw(st.sampled_from([1, 2, 5, 33])),
        k,
        groups=groups,
        stride=stride,
        padding=padding,
        dilation=dilation,
        izp=data.draw(st.integers(-128, 127)),
        wzp=data.draw(st.sampled_from([0, 0, -128, 127])),
        rounding=data.draw(st.sampled_from(Rounding)),
        epilogue=data.draw(st.booleans()),
    )
    assert_exact(graph, feeds)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_depthwise_convolutions_of_odd_shapes_strides_and_tails(data: st.DataObject) -> None:
    k, dilation, stride = (data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3))) for _ in range(3))
    padding = data.draw(st.tuples(*[st.integers(0, 4)] * 4))
    x = (1, data.draw(st.integers(13, 16)), data.draw(st.integers(13, 16)), data.draw(st.sampled_from([1, 3, 64, 71])))
    graph, feeds = depthwise_case(
        "random",
        x,
        k,
        data.draw(st.integers(1, 3)),
        stride=stride,
        padding=padding,
        dilation=dilation,
        izp=data.draw(st.integers(-128, 127)),
        wzp=data.draw(st.sampled_from([0, 0, -128, 127])),
        rounding=data.draw(st.sampled_from(Rounding)),
    )
    assert_exact(graph, feeds)


def test_rows_too_long_for_a_microcontroller() -> None:
    assert_exact(*norm("long", LayerNorm, (2, 70000), DType.INT8, period=7))


@settings(deadline=None, max_examples=40)
@given(small, st.integers(1, 70), st.integers(1, 70), st.integers(-128, 127), st.sampled_from([0, -128, 127]))
def test_fully_connected_tails(n: int, i: int, o: int, izp: int, wzp: int) -> None:
    assert_exact(*fc_case("random", n, i, o, izp=izp, wzp=wzp))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_broadcasts_and_transposes_of_any_rank(shape: list[int], data: st.DataObject) -> None:
    rank = len(shape)
    a, c = (tuple(n if data.draw(st.booleans()) else 1 for n in shape) for _ in range(2))
    b = GraphBuilder("layout")
    limit = Clamp(-(1 << 20), 1 << 20)
    x = [b.node("t", limit, b.input(f"x{i}", s, DType.INT32)) for i, s in enumerate((a, c))]
    total = b.node("sum", Add(), *x)
    graph = b.finish([(b.node("y", Transpose(tuple(data.draw(st.permutations(range(rank))))), total), None)])
    r = np.random.default_rng(0)
    assert_exact(graph, [tuple(r.integers(-(1 << 20), 1 << 20, s).astype(np.int32) for s in (a, c))])


@pytest.mark.parametrize("name", [n for n in ALL_CASES if n.startswith(("conv", "fc", "softmax_matmul"))])
@pytest.mark.parametrize("tile", [SMALL_TILE, WIDE_TILE])
def test_planned_scratch_is_what_the_kernel_asks_for(name: str, tile: int) -> None:
    graph, _ = ALL_CASES[name]()
    ffi, lib = kernels.load()
    for node in graph.nodes:
        for call in lower(graph, node, tile):
            if call.scratch_bytes:
                keep: list[object] = []
                needed = getattr(lib, f"{call.function}_scratch_bytes")
                assert needed(new_struct(ffi, call.params, keep)) == call.scratch_bytes


def test_outputs_never_share_memory_with_inputs_constants_or_each_other_by_accident() -> None:
    b = GraphBuilder("views")
    x, c = b.input("x", (2, 3), DType.INT8), b.constant("c", np.arange(6, dtype=np.int8))
    y = b.node("y", Reshape((6,)), x)
    z = b.node("z", Concat(0), y, c)
    graph = b.finish([(name, None) for name in (x, y, c, z)])
    value = np.arange(6, dtype=np.int8).reshape(2, 3)
    outputs = graph.run(value)
    assert [o.tolist() for o in outputs] == [o.tolist() for o in spec.run(graph, value)]
    for o in outputs:
        o[...] = 99
    assert value.max() == 5
    np.testing.assert_array_equal(graph.run(value)[2], np.arange(6))


def test_what_the_kernels_cannot_do_is_refused_by_name() -> None:
    b = GraphBuilder("int16")
    x = b.input("x", (1, 2, 2, 1), DType.INT16)
    w, bias = b.constant("w", np.ones((1, 1, 1, 1), np.int8)), b.constant("b", np.zeros(1, np.int32))
    graph = b.finish([(b.node("odd", Conv2D(input_zero_point=3), x, w, bias), None)])
    with pytest.raises(UnsupportedError, match=r"node 'odd'.*zero point 3"):
        graph.run(np.zeros((1, 2, 2, 1), np.int16))


def test_wrong_inputs_are_refused() -> None:
    graph, _ = CASES["clamp"]()
    with pytest.raises(GraphError, match="is needed"):
        graph.run(np.zeros((4, 33), np.int16))
    with pytest.raises(GraphError, match="0 inputs"):
        graph.run()


def test_inputs_need_not_be_contiguous() -> None:
    graph, _ = CASES["clamp"]()
    x = np.asfortranarray(np.arange(132).reshape(4, 33).astype(np.int8))
    np.testing.assert_array_equal(graph.run(x)[0], np.clip(x, -3, 77))


def test_threads_may_run_one_graph_at_once() -> None:
    graph, feeds = CASES["conv_3x3_double"]()
    wanted = [spec.run(graph, *row)[0] for row in feeds]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: graph.run(*feeds[i % len(feeds)])[0], range(200)))
    for i, value in enumerate(found):
        np.testing.assert_array_equal(value, wanted[i % len(feeds)])


def test_tensors_of_rank_zero() -> None:
    b = GraphBuilder("scalars")
    x, s = b.input("x", (5,), DType.INT8), b.input("s", (), DType.INT32)
    best = b.node("best", ArgMax(0), x)
    graph = b.finish([(best, None), (b.node("clamped", Clamp(-3, 3), s), None), (s, None)])
    assert_exact(graph, [(np.array([1, 7, 7, -3, 2], np.int8), np.array(-9, np.int32))])


def test_a_missing_library_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.OVERRIDE, "/nowhere/libbitship_kernels.so")
    with pytest.raises(MissingDependencyError, match="not built: run"):
        kernels.find()
