"""The memory plan: nothing alive overlaps, everything is aligned, never below the bound, always the same."""

from collections.abc import Mapping
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from bitship.graph import DType, Graph, GraphBuilder
from bitship.graph.ops import Add, Clamp, Concat, Reshape
from bitship.passes.plan import Plan, plan, scratch_name


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Random graphs of int32 vectors: clamps, sums of equals, concats and reshapes, any of them an output."""
    b = GraphBuilder("random")
    names = [b.input(f"x{i}", (draw(st.integers(1, 40)),), DType.INT32) for i in range(draw(st.integers(1, 3)))]
    for _ in range(draw(st.integers(1, 14))):
        a = draw(st.sampled_from(names))
        other = draw(st.sampled_from(names))
        n = b.types[a].size
        match draw(st.integers(0, 3)):
            case 0:
                names.append(b.node("t", Clamp(-5, 5), a))
            case 1 if b.types[other] == b.types[a]:
                names.append(b.node("t", Add(), a, other))
            case 2 if len(b.types[a].shape) == len(b.types[other].shape) == 1:
                names.append(b.node("t", Concat(0), a, other))
            case _:
                names.append(b.node("t", Reshape((n, 1) if len(b.types[a].shape) == 1 else (n,)), a))
    outputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    return b.finish([(name, None) for name in outputs])


def assert_apart(found: Plan, graph: Graph, overlaps: Mapping[str, Mapping[str, int]]) -> None:
    """No two buffers alive at once share a byte, save an output and an operand that nothing reads later."""
    for (m, a), (n, b) in combinations(found.slots.items(), 2):
        if a.alive_with(b) and a.offset < b.offset + b.size and b.offset < a.offset + a.size:
            output, operand = (m, n) if a.first > b.first else (n, m)
            node = next(node for node in graph.nodes if node.output == output)
            assert found.slots[operand].last == found.slots[output].first
            for name in node.inputs:
                if found.root(name) == operand:
                    distance = overlaps[output][name]
                    assert found.slots[operand].offset - found.slots[output].offset >= distance


@settings(deadline=None, max_examples=200)
@given(graphs(), st.data())
def test_no_two_buffers_alive_at_once_overlap(graph: Graph, data: st.DataObject) -> None:
    scratch = {n.output: data.draw(st.integers(0, 100)) for n in graph.nodes}
    overlaps = {
        n.output: {i: data.draw(st.integers(-40, 40)) for i in n.inputs if data.draw(st.booleans())}
        for n in graph.nodes
    }
    found = plan(graph, scratch, overlaps=overlaps)
    assert_apart(found, graph, overlaps)
    for name, slot in found.slots.items():
        assert slot.offset % 16 == 0
        assert slot.offset + slot.size <= found.peak
        assert name.endswith(".scratch") or slot.size >= graph.types[name].nbytes
    assert plan(graph, scratch, overlaps=overlaps) == found
    assert plan(graph, scratch).peak >= found.bound


@settings(deadline=None, max_examples=100)
@given(graphs())
def test_every_tensor_is_held_from_its_definition_to_its_last_reader(graph: Graph) -> None:
    found = plan(graph)
    defined = {p.name: 0 for p in graph.inputs} | {n.output: i for i, n in enumerate(graph.nodes, 1)}
    for step, node in enumerate(graph.nodes, 1):
        for name in (*node.inputs, node.output):
            slot = found.slot(name)
            assert slot is not None
            assert slot.first <= defined[name] <= step <= slot.last
    for port in graph.outputs:
        slot = found.slot(port.name)
        assert slot is not None
        assert slot.last == len(graph.nodes) + 1


def test_a_chain_needs_no_more_than_its_bound() -> None:
    b = GraphBuilder("chain")
    name = b.input("x", (100,), DType.INT8)
    for _ in range(6):
        name = b.node("t", Clamp(-5, 5), name)
    found = plan(b.finish([(name, None)]), {"t": 64})
    assert found.peak == found.bound == 112 + 112 + 64
    assert scratch_name("t") in found.slots


def test_a_reshape_is_its_operand() -> None:
    b = GraphBuilder("reshape")
    x = b.input("x", (4, 5), DType.INT8)
    y = b.node("y", Reshape((20,)), x)
    z = b.node("z", Reshape((2, 10)), y)
    found = plan(b.finish([(z, None)]))
    assert found.root(z) == x
    assert found.peak == found.bound == 32
