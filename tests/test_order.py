"""Orders and placements: the least of all, never worse than first fit, the same every time, the same bits."""

import sys
from itertools import permutations

import numpy as np
import pytest
from arena import Arena
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import assert_apart, graphs

from bitship.converters.firmware.cores import Core
from bitship.converters.firmware.emit import lower_graph
from bitship.graph import DType, Graph, GraphBuilder, Port, spec
from bitship.graph.ops import Concat, Slice
from bitship.passes import order
from bitship.passes.exact import least_bytes, place_exactly
from bitship.passes.order import arrange, reorder
from bitship.passes.place import Slot, peak_of, place
from bitship.passes.plan import all_views, plan

Overlaps = dict[str, dict[str, int]]


@st.composite
def buffers(draw: st.DrawFn) -> tuple[dict[str, Slot], dict[tuple[str, str], int]]:
    """Lives of a few buffers, and outputs that may lie over an operand."""
    lives = {}
    for i in range(draw(st.integers(1, 9))):
        first = draw(st.integers(0, 6))
        lives[f"b{i}"] = Slot(0, 16 * draw(st.integers(1, 6)), first, first + draw(st.integers(0, 4)))
    sharing = {}
    for a in {life.first: name for name, life in lives.items()}.values():  # one output a step
        for b in lives:
            if a != b and lives[b].first < lives[b].last == lives[a].first and draw(st.booleans()):
                sharing[a, b] = 16 * draw(st.integers(-3, 5))
    return lives, sharing


@settings(deadline=None, max_examples=150)
@given(buffers())
def test_the_solver_is_never_worse_than_first_fit_and_finds_the_same_twice(
    made: tuple[dict[str, Slot], dict[tuple[str, str], int]],
) -> None:
    lives, sharing = made
    found = place_exactly(lives, sharing, 16)
    assert least_bytes(lives, sharing) <= found.peak <= peak_of(lives, place(lives, sharing, 16))
    assert found.optimal
    assert place_exactly(lives, sharing, 16) == found
    for a, x in lives.items():
        for b, y in lives.items():
            low, high = found.offsets[a], found.offsets[b]
            if a < b and x.alive_with(y) and low < high + y.size and high < low + x.size:
                over = [(high - low, sharing.get((a, b))), (low - high, sharing.get((b, a)))]
                assert any(d is not None and apart >= d for apart, d in over)


def test_without_the_solver_first_fit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    lives = {"a": Slot(0, 32, 0, 2), "b": Slot(0, 16, 0, 1), "c": Slot(0, 32, 1, 3), "d": Slot(0, 48, 3, 4)}
    lives |= {"e": Slot(0, 16, 2, 4), "f": Slot(0, 32, 4, 5)}
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    found = place_exactly(lives, {}, 16)
    assert found.peak == peak_of(lives, place(lives, {}, 16))


def _overlaps(data: st.DataObject, graph: Graph) -> Overlaps:
    return {n.output: {i: data.draw(st.integers(-8, 40)) for i in n.inputs} for n in graph.nodes}


@settings(deadline=None, max_examples=100)
@given(graphs(), st.data())
def test_the_order_is_a_topological_one_and_its_plan_holds(graph: Graph, data: st.DataObject) -> None:
    overlaps = _overlaps(data, graph)
    ordered, found = arrange(graph, {}, overlaps)
    assert {n.output for n in ordered.nodes} == {n.output for n in graph.nodes}
    known = {p.name for p in graph.inputs} | set(graph.constants)
    for node in ordered.nodes:
        assert set(node.inputs) <= known
        known.add(node.output)
    assert_apart(found, ordered, overlaps)
    assert found.peak <= plan(graph, {}, overlaps=overlaps).peak
    assert arrange(graph, {}, overlaps) == (ordered, found)


@settings(deadline=None, max_examples=60)
@given(graphs(), st.data())
def test_no_order_has_a_smaller_fullest_step(graph: Graph, data: st.DataObject) -> None:
    nodes = graph.nodes[:5]
    ends = [n.output for n in nodes[-2:]] or [graph.inputs[0].name]
    graph = Graph("part", graph.inputs, tuple(Port(n, graph.types[n]) for n in ends), nodes)
    scratch = {n.output: data.draw(st.integers(0, 60)) for n in nodes}
    overlaps = _overlaps(data, graph)
    made = order._buffers(graph, scratch, all_views(graph, {}, {}), overlaps, 16)

    def fullest(ranks: list[int]) -> int:
        done = worst = 0
        for i in ranks:
            worst = max(worst, made.bytes_at(done, i))
            done |= 1 << i
        return worst

    def allowed(ranks: tuple[int, ...]) -> bool:
        seen = {p.name for p in graph.inputs}
        for i in ranks:
            if not set(nodes[i].inputs) <= seen:
                return False
            seen.add(nodes[i].output)
        return True

    best = min(fullest(list(r)) for r in permutations(range(len(nodes))) if allowed(r))
    index = {n.output: i for i, n in enumerate(nodes)}
    assert fullest([index[n.output] for n in reorder(graph, scratch, overlaps).nodes]) == best


@settings(deadline=None, max_examples=60)
@given(graphs())
def test_a_program_in_the_chosen_order_gives_the_bits_of_the_specification(graph: Graph) -> None:
    r = np.random.default_rng(0)
    row = tuple(r.integers(-9, 9, p.type.shape).astype(np.int32) for p in graph.inputs)
    for core in (Core.HOST, Core.SCALAR):
        for found, wanted in zip(Arena(lower_graph(graph, core)).run(*row), spec.run(graph, *row), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_wide_branch_is_finished_before_the_next_is_begun() -> None:
    b = GraphBuilder("branches")
    x = b.input("x", (10,), DType.INT32)
    wide = [b.node(f"w{i}", Concat(0), *[x] * 10) for i in range(4)]
    narrow = [b.node(f"n{i}", Slice((0,), (10,)), w) for i, w in enumerate(wide)]
    graph = b.finish([(b.node("y", Concat(0), *narrow), None)])
    ordered, found = arrange(graph, {}, {})
    assert [n.output[0] for n in ordered.nodes] == list("wnwnwnwny")
    assert found.peak == found.bound == 400 + 4 * 48 < plan(graph).peak
