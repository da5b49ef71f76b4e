"""Tensors over several memories: the bits of the specification wherever they lie, the busiest in the fastest."""

import msgspec
import numpy as np
import pytest
from arena import Arena
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_cases import ALL_CASES
from random_nets import mobilenet_v2
from test_plan import graphs

from bitship import targets
from bitship.converters.firmware import build
from bitship.converters.firmware.cores import Core
from bitship.converters.firmware.emit import lower_graph
from bitship.errors import DoesNotFitError, TargetError
from bitship.graph import Graph, spec
from bitship.graph.base import Array
from bitship.passes.spread import Region

LOTS = 1 << 30


def assert_exact(graph: Graph, row: tuple[Array, ...], *sizes: int) -> None:
    regions = [*(Region(f"m{i}", n) for i, n in enumerate(sizes)), Region("", LOTS)]
    program = lower_graph(graph, Core.SCALAR, regions=regions)
    for found, wanted in zip(Arena(program).run(*row), spec.run(graph, *row), strict=True):
        np.testing.assert_array_equal(found, wanted)
    for region in regions[:-1]:
        assert program.plan.elsewhere[region.name] <= region.nbytes


@pytest.mark.parametrize("name", sorted(ALL_CASES))
def test_every_case_is_exact_in_two_memories(name: str) -> None:
    graph, rows = ALL_CASES[name]()
    assert_exact(graph, rows[0], graph.outputs[0].type.nbytes // 16 * 16, 64)


@settings(deadline=None, max_examples=60)
@given(graphs(), st.integers(0, 20), st.integers(0, 20))
def test_random_graphs_are_exact_in_three_memories(graph: Graph, a: int, b: int) -> None:
    r = np.random.default_rng(0)
    assert_exact(graph, tuple(r.integers(-9, 9, p.type.shape).astype(np.int32) for p in graph.inputs), 16 * a, 16 * b)


def test_a_network_uses_the_fast_memory_as_long_as_there_is_room() -> None:
    graph = mobilenet_v2(32, 0.35, 10, 4)
    one = lower_graph(graph, Core.SCALAR)
    moved = []
    for part in (0, 4, 2, 1):
        fast = one.plan.peak // part if part else 0
        plan = lower_graph(graph, Core.SCALAR, regions=[Region("fast", fast), Region("", LOTS)]).plan
        assert plan.elsewhere["fast"] <= fast
        moved.append(sum(s.size for s in plan.slots.values() if s.memory == "fast"))
    assert moved == sorted(moved)
    assert moved[0] == 0
    assert plan.peak == 0
    assert plan.total == one.plan.peak


def test_a_region_too_small_for_what_is_left_is_named() -> None:
    target = targets.load("mps3-an547-dtcm")
    build.check_regions(target, {"dtcm": 524288})
    with pytest.raises(DoesNotFitError, match=r"need 524304 B of dtcm, 524288 B exist, 16 B too many"):
        build.check_regions(target, {"dtcm": 524304})


def test_regions_are_in_order_of_speed() -> None:
    target = targets.load("mps3-an547-dtcm")
    slow = msgspec.structs.replace(target.memories[0], name="ddr", slower=True)
    both = msgspec.structs.replace(target, memories=(slow, *target.memories))
    assert [r.name for r in build.regions(both)] == ["dtcm", "", "ddr"]
    assert build.regions(targets.load("microbit")) == ()


def test_a_name_that_the_linker_script_has_is_refused(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    text = (targets.base.ROOT / "mps3-an547-dtcm" / "target.toml").read_text()
    (tmp_path / "mps3-an547-dtcm").mkdir()
    (tmp_path / "mps3-an547-dtcm" / "target.toml").write_text(text.replace('name = "dtcm"', 'name = "ram"'))
    monkeypatch.setattr(targets.base, "ROOT", tmp_path)
    with pytest.raises(TargetError, match="lower-case names"):
        targets.load("mps3-an547-dtcm")
