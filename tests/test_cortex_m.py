"""ExecuTorch's Cortex-M back end: what becomes its ops, what does not and why, how far its reference is off."""

from pathlib import Path

import numpy as np
import pytest
from random_nets import mobilenet_v2

from bitship import export, targets
from bitship.benchmarking import bench
from bitship.converters import placement
from bitship.converters.executorch import ExecutorchConverter
from bitship.converters.placement import Place
from bitship.errors import DeviceError, UnsupportedError
from bitship.graph import DType, Graph, GraphBuilder, ops
from bitship.targets import ConverterName

pytest.importorskip("executorch.backends.cortex_m.target_config")

from bitship.converters.executorch import cortex_m


def every_form(middle: bool) -> Graph:
    """Return uneven padding, a depthwise layer, a pool, a mean, a dense layer by channel; a table in the middle."""
    r, b = np.random.default_rng(4), GraphBuilder("every_form")

    def rescale(channels: int, shift: int, low: int = -128) -> ops.Rescale:
        m = tuple(int(x) for x in r.integers(1 << 30, (1 << 31) - 1, channels))
        return ops.Rescale(m, (shift,) * channels, 0, -3, qmin=low)

    def weights(name: str, *shape: int) -> str:
        return b.constant(name, r.integers(-127, 128, shape, np.int8))

    def bias(name: str, n: int) -> str:
        return b.constant(name, r.integers(-900, 900, n, np.int32))

    x = b.input("x", (1, 9, 9, 3), DType.INT8)
    conv = ops.Conv2D((2, 2), (0, 1, 0, 1), requant=rescale(8, -8, -3))
    last = b.node("a", conv, x, weights("w0", 8, 3, 3, 3), bias("b0", 8))
    if middle:
        table = b.constant("t", np.sort(r.integers(-128, 128, 256)).astype(np.int8))
        last = b.node("look", ops.Table(), last, table)
    zero = -3
    deep = ops.DepthwiseConv2D((1, 1), (1, 1, 1, 1), input_zero_point=zero, requant=rescale(8, -7))
    last = b.node("c", deep, last, weights("w1", 3, 3, 8, 1), bias("b1", 8))
    last = b.node("p", ops.MaxPool2D((2, 2), (2, 2), (0, 0, 0, 0)), last)
    last = b.node("m", ops.ReduceSum((1, 2), zero, ops.Rescale((1 << 30,), (-1,), 0, zero)), last)
    last = b.node("f", ops.Reshape((1, 8)), last)
    dense = ops.FullyConnected(input_zero_point=zero, requant=rescale(5, -7))
    last = b.node("d", dense, last, weights("w2", 5, 8), bias("b2", 5))
    return b.finish([(last, None)])


def test_a_network_becomes_cortex_m_ops_with_the_graph_s_parameters() -> None:
    graph = mobilenet_v2(32, 0.25, 10, blocks=3)
    made = cortex_m.lower(graph, "cortex-m55")
    assert {n.place for n in made.nodes} <= {Place.DELEGATE, Place.FOLDED}
    assert all(n.place is Place.DELEGATE for n in made.nodes if n.macs)
    assert made.difference.max_lsb <= 3
    for name in (b"cortex_m::quantized_conv2d", b"cortex_m::quantized_depthwise_conv2d", b"cortex_m::quantized_add"):
        assert name in made.buffer
    assert b"aten::convolution" not in made.buffer
    assert cortex_m.lower(graph, "cortex-m55").buffer == made.buffer


@pytest.mark.slow
def test_every_form_becomes_one_op_and_a_core_without_vectors_has_the_same_difference() -> None:
    graph = every_form(middle=False)
    made, plain = (cortex_m.lower(graph, cpu) for cpu in ("cortex-m55", "cortex-m4"))
    assert {n.node: n.place for n in made.nodes} == {
        **dict.fromkeys(("a", "c", "p", "m", "d"), Place.DELEGATE),
        "f": Place.FOLDED,
    }
    assert made.difference == plain.difference
    assert made.difference.max_lsb <= 2
    assert b"cortex_m::pad" in made.buffer
    assert b"cortex_m::quantized_max_pool2d" in made.buffer


def test_what_has_no_op_stays_in_float_and_is_named() -> None:
    made = cortex_m.lower(every_form(middle=True), "cortex-m55")
    (left,) = (n for n in made.nodes if n.place is Place.CPU)
    assert left.node == "look"
    assert "table has no cortex_m op: the portable kernels compute" in left.reason
    assert made.difference.max_lsb <= 2


def test_what_the_passes_would_leave_unsaid_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    b = GraphBuilder("highest")
    x = b.input("x", (1, 4, 4, 3), DType.INT8)
    graph = b.finish([(b.node("top", ops.ReduceMax((1, 2)), x), None)])
    (node,) = cortex_m.lower(graph, "cortex-m55").nodes
    assert node.place is Place.CPU
    monkeypatch.setattr(cortex_m._Builder, "why", lambda k, n: "")  # it is marked, and computes on codes
    with pytest.raises(UnsupportedError, match="node 'top': the back end left amax"):
        cortex_m.lower(graph, "cortex-m55")


def test_a_core_that_the_back_end_does_not_know_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"the target's core is cortex-a53; .* knows cortex-m0, "):
        cortex_m.lower(every_form(middle=False), "cortex-a53")


@pytest.mark.slow
def test_a_board_s_package_has_the_exact_program_and_this_one(tmp_path: Path) -> None:
    target = targets.load("mps3-an547")
    conversion = ExecutorchConverter().convert(every_form(middle=False), target, tmp_path)
    assert [a.role for a in conversion.artifacts] == ["program", "cortex-m"]
    found = placement.read(tmp_path / conversion.artifacts[1].placement)
    assert found.difference is not None
    assert "CMSIS-NN" in found.untested
    with pytest.raises(DeviceError, match=r"model\.pte is ExecuTorch's, for a device whose firmware has that runtime"):
        bench(export(every_form(middle=False), target, tmp_path / "pkg", ConverterName.EXECUTORCH))
    said = placement.lines(found)
    assert said[-1].startswith("not run there: ")
