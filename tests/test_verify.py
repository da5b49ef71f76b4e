"""The overflow proof: sound for every input, and refuses what it cannot prove."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitship.errors import GraphError, OverflowProofError
from bitship.graph import DType, Graph, GraphBuilder, spec, verify
from bitship.graph.base import Array
from bitship.graph.ops import Add, Conv2D, FullyConnected, LogicalLeftShift, MaxPool2D, Mul, Rescale, Rounding, Softmax


def fully_connected(weights: Array, bias: Array, dtype: DType = DType.INT8) -> Graph:
    b = GraphBuilder("fc")
    x = b.input("x", (1, weights.shape[1]), dtype)
    y = b.node("y", FullyConnected(), x, b.constant("w", weights), b.constant("b", bias))
    return b.finish([(y, None)])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_proven_range_is_reached_by_the_worst_inputs(depth: int, outputs: int, seed: int) -> None:
    """The bound is not only sound: the input made of the signs of the weights comes within the bias's sign split."""
    r = np.random.default_rng(seed)
    weights = r.integers(-128, 128, (outputs, depth)).astype(np.int8)
    graph = fully_connected(weights, np.zeros(outputs, np.int32))
    proven = verify(graph)["y"]
    worst = max(int(spec.run(graph, np.where(row > 0, 127, -128).astype(np.int8)[None])[0].max()) for row in weights)
    assert worst <= proven.hi
    every = r.integers(-128, 128, (1, depth)).astype(np.int8)
    value = spec.run(graph, every)[0]
    assert proven.lo <= int(value.min())
    assert int(value.max()) <= proven.hi


def test_a_bias_that_could_wrap_is_refused_by_node() -> None:
    bias = np.array([(1 << 31) - 1], np.int32)
    with pytest.raises(OverflowProofError, match=r"node 'y': fully_connected: accumulator can reach .* int32 holds"):
        verify(fully_connected(np.ones((1, 4), np.int8), bias))


def test_int16_activations_with_deep_weights_are_refused() -> None:
    with pytest.raises(OverflowProofError):
        verify(fully_connected(np.full((1, 2000), 127, np.int8), np.zeros(1, np.int32), DType.INT16))


def test_a_product_and_a_shift_that_could_wrap_are_refused() -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", (4,), DType.INT32), b.input("y", (4,), DType.INT32)
    with pytest.raises(OverflowProofError, match="mul"):
        verify(b.finish([(b.node("z", Mul(), x, y), None)]))
    b = GraphBuilder("g")
    x = b.input("x", (4,), DType.INT32)
    with pytest.raises(OverflowProofError, match="logical_left_shift"):
        verify(b.finish([(b.node("z", LogicalLeftShift(1), x), None)]))
    b = GraphBuilder("g")
    x, y = b.input("x", (4,), DType.INT32), b.input("y", (4,), DType.INT32)
    with pytest.raises(OverflowProofError, match="add"):
        verify(b.finish([(b.node("z", Add(), x, y), None)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multiplier": (1 << 31,)}, "multiplier outside"),
        ({"shift": (31,)}, "shift outside"),
        ({"multiplier": (1, 2, 3), "shift": (0, 0, 0)}, "3 multipliers for 4 channels"),
        ({"qmin": 5, "qmax": 4}, "is empty or outside"),
        ({"pre_shift": 40}, "pre_shift"),
    ],
)
def test_a_rescale_outside_its_rules_is_refused(change: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {"multiplier": (1 << 30,), "shift": (0,), "rounding": Rounding.SINGLE, **change}
    b = GraphBuilder("g")
    x = b.input("x", (2, 4), DType.INT8)
    with pytest.raises(GraphError, match=message):
        b.node("y", Rescale(**fields), x)  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_name_the_node_and_both_shapes() -> None:
    b = GraphBuilder("g")
    x = b.input("x", (1, 4, 4, 3), DType.INT8)
    w, bias = b.constant("w", np.ones((2, 3, 3, 5), np.int8)), b.constant("b", np.zeros(2, np.int32))
    with pytest.raises(GraphError, match=r"g: node 'y': conv2d: weights int8\[2,3,3,5\].*do not fit x int8\[1,4,4,3\]"):
        b.node("y", Conv2D(), x, w, bias)


def test_outputs_must_exist_with_their_declared_type() -> None:
    graph = fully_connected(np.ones((1, 4), np.int8), np.zeros(1, np.int32))
    port = graph.outputs[0]
    with pytest.raises(GraphError, match="declared"):
        verify(dataclasses.replace(graph, outputs=(type(port)("nowhere", port.type),)))


def test_a_softmax_table_that_is_computed_is_refused() -> None:
    b = GraphBuilder("g")
    y = b.node("y", Softmax(), b.input("x", (1, 4), DType.INT8), b.input("table", (256,), DType.INT32))
    with pytest.raises(GraphError, match="'y': softmax: exp_table is computed, a constant is needed"):
        verify(b.finish([(y, None)]))


def test_a_zero_point_that_leaves_int32_is_refused_even_where_the_product_is_zero() -> None:
    b = GraphBuilder("g")
    zero = b.constant("zero", np.zeros(3, np.int8))
    y = b.node("y", Mul(a_zero_point=1 << 70), b.input("x", (3,), DType.INT8), zero)
    with pytest.raises(OverflowProofError, match="'y': mul: centred a"):
        verify(b.finish([(y, None)]))


def test_a_padding_that_no_memory_holds_is_refused() -> None:
    b = GraphBuilder("g")
    w, bias = b.constant("w", np.ones((1, 1, 1, 1), np.int8)), b.constant("b", np.zeros(1, np.int32))
    far = 1 << 20
    with pytest.raises(GraphError, match="has more than 268435456 elements"):
        b.node("y", Conv2D((far, far), (far,) * 4), b.input("x", (1, 1, 1, 1), DType.INT8), w, bias)


def test_pools_that_would_read_for_hours_are_refused() -> None:
    b = GraphBuilder("g")
    with pytest.raises(GraphError, match="read 1000000000000 elements"):
        b.node("y", MaxPool2D((1000, 1000), (1, 1), (999,) * 4), b.input("x", (1, 1, 1, 1), DType.INT8))


@pytest.mark.parametrize("dtype", [DType.BOOL, DType.INT64])
def test_a_rescale_to_bool_or_int64_is_refused(dtype: DType) -> None:
    b = GraphBuilder("g")
    with pytest.raises(GraphError, match="allowed: int8, uint8, int16, int32"):
        b.node("y", Rescale((1,), (0,), dtype=dtype, qmin=0, qmax=1), b.input("x", (4,), DType.INT8))
