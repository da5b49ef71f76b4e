"""The tflite converter: every op's bits against the specification, through LiteRT's reference kernels."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from merged_cases import ALL_CASES
from op_cases import CASES
from random_nets import mobilenet_v2
from test_tflite import CASES as TFLITE_CASES
from tflite_models import encode

from bitship import targets
from bitship.converters import placement
from bitship.converters.base import Numerics
from bitship.converters.tflite import FILE, TfliteConverter, factors, lattice, open_session, provenance
from bitship.converters.tflite.lower import lower
from bitship.converters.tflite.provenance import softmax_table
from bitship.errors import FormatError, GraphError
from bitship.graph import DType, Graph, GraphBuilder, Quant, spec
from bitship.graph.base import Array
from bitship.graph.fixedpoint import quantize_multiplier
from bitship.graph.ops import AvgPool2D, Clamp, DivRounding, Rescale, Softmax
from bitship.importers.tflite import loads
from bitship.importers.tflite.reader import parse
from bitship.loading import load
from bitship.package import golden_inputs
from bitship.targets import ConverterName, Target, TargetKind

pytest.importorskip("ai_edge_litert")

TARGET = Target("any", "any", TargetKind.LINUX, "any", (ConverterName.TFLITE,))


def check(graph: Graph, feeds: list[tuple[Array, ...]], out: Path) -> None:
    conversion = TfliteConverter().convert(graph, TARGET, out)
    assert conversion.artifacts[0].numerics is Numerics.EXACT
    session = open_session(out / FILE, graph)
    for inputs in feeds:
        for found, wanted in zip(session.run(*inputs), spec.run(graph, *inputs), strict=True):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
    session.close()


@pytest.mark.parametrize("name", ALL_CASES)
def test_every_case_gives_the_bits_of_the_specification(name: str, tmp_path: Path) -> None:
    graph, feeds = ALL_CASES[name]()
    check(graph, feeds, tmp_path)


def test_a_network_gives_the_bits_of_the_specification_and_the_same_bytes_twice(tmp_path: Path) -> None:
    graph = mobilenet_v2(32, 0.25, 10, blocks=4)
    r = np.random.default_rng(1)
    shape = graph.inputs[0].type.shape
    check(graph, [(r.integers(-128, 128, shape).astype(np.int8),) for _ in range(3)], tmp_path / "a")
    TfliteConverter().convert(graph, TARGET, tmp_path / "b")
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


ROUND_TRIPS = {  # all nodes become one operator: the scales of the file are found again
    "mlperf_tiny/ic01_resnet8_int8.tflite": 16,
    "mlperf_tiny/kws01_dscnn_int8.tflite": 13,
    "mlperf_tiny/vww01_mobilenetv1_int8.tflite": 31,
    "mlperf_tiny/ad01_autoencoder_int8.tflite": 10,
    "mlperf_tiny/sww01_streaming_wakeword_int8.tflite": 11,
    "coral/mobilenet_v1_0.25_128_quant.tflite": 33,  # uint8
}
_LONG_SOFTMAX = {"coral/mobilenet_v1_0.25_128_quant.tflite": 1}  # primitives: the kernel ends the process on some rows


@pytest.mark.skipif("BITSHIP_DATA" not in os.environ, reason="BITSHIP_DATA is not set: no real models")
@pytest.mark.parametrize("path", ROUND_TRIPS)
def test_a_real_model_comes_back_with_its_operators_bits_and_size(path: str, tmp_path: Path) -> None:
    source = Path(os.environ["BITSHIP_DATA"]) / path
    graph = load(source)
    native = lower(graph).native
    others = [n.op for n in graph.nodes if n.output not in native]
    assert [type(op) for op in others] == [Softmax] * _LONG_SOFTMAX.get(path, 0)
    assert len(graph.nodes) == ROUND_TRIPS[path]
    feeds = golden_inputs(graph, 4)
    check(graph, feeds, tmp_path)
    assert (tmp_path / FILE).stat().st_size <= 1.02 * source.stat().st_size
    if others:
        return  # integer primitives, which are for LiteRT: bitship does not read them back
    again = load(tmp_path / FILE)
    for inputs in feeds:
        for found, wanted in zip(again.run(*inputs), graph.run(*inputs), strict=True):
            np.testing.assert_array_equal(found, wanted)


UNSIGNED = ["conv_uint8", "depthwise_uint8", "fully_connected_uint8", "add_uint8", "avg_pool_uint8", "softmax_uint8"]


@pytest.mark.parametrize("name", [*UNSIGNED, "max_pool_scales_uint8", "transpose_conv_uint8"])
def test_what_was_uint8_is_uint8_again_without_a_step_between(name: str) -> None:
    net, inputs, outputs = TFLITE_CASES[name]()
    graph = loads(encode(net, inputs, outputs), name)
    lowered = lower(graph)
    assert lowered.native == {n.output for n in graph.nodes}
    written = parse(lowered.data, name)
    assert "QUANTIZE" not in {o.name for o in written.operators}
    assert {t.type for t in written.tensors} <= {"UINT8", "INT32"}


def test_uint8_and_int8_operators_live_in_one_graph(tmp_path: Path) -> None:
    """A pool that rounds up is uint8, one that rounds away from zero is int8; weights with one scale a channel too."""
    r = np.random.default_rng(8)
    b = GraphBuilder("both")
    x = b.input("x", (1, 6, 6, 4), DType.INT8, Quant(0.05, 3))
    y = x
    for rounding in (DivRounding.HALF_UP, DivRounding.HALF_AWAY, DivRounding.HALF_UP):
        y = b.node("pool", AvgPool2D((3, 2), (1, 1), (1, 1, 0, 1), rounding=rounding), y)
    down = b.node("down", Rescale((1 << 30,), (1,), 0, 128, dtype=DType.UINT8, qmin=0, qmax=255), y)
    graph = b.finish([(y, Quant(0.05, 3)), (down, Quant(0.05, 131)), (x, Quant(0.05, 3))])
    feeds: list[tuple[Array, ...]] = [(r.integers(-128, 128, (1, 6, 6, 4)).astype(np.int8),) for _ in range(4)]
    check(graph, feeds, tmp_path)
    assert lower(graph).native == {n.output for n in graph.nodes}
    names = [o.name for o in parse(lower(graph).data, "both").operators]
    assert names.count("AVERAGE_POOL_2D") == 3
    assert names.count("QUANTIZE") == 4  # into the first pool, between them twice, and to the int8 output


def test_scales_are_found_for_multipliers_that_came_from_scales() -> None:
    r = np.random.default_rng(3)
    x, y = float(np.float32(0.0173)), float(np.float32(0.0291))
    weights = [float(np.float32(w)) for w in r.uniform(0.001, 0.02, 16)]
    pairs = [quantize_multiplier(x * w / y) for w in weights]
    found = list(factors.result_scales(pairs, x))
    assert [math.frexp(s)[0] for s in found] == [math.frexp(y)[0]]
    scales = factors.weight_scales(pairs, x, found[0])
    assert scales is not None
    assert [quantize_multiplier(x * s / found[0]) for s in scales] == pairs
    assert [math.frexp(s)[0] for s in factors.operand_scales(pairs, y)] == [math.frexp(x)[0]]


def test_a_convolution_alone_gets_scales_from_the_ratios_of_its_multipliers() -> None:
    r = np.random.default_rng(5)
    x, y = float(np.float32(0.0471)), float(np.float32(0.0113))
    pairs = [quantize_multiplier(x * float(np.float32(w)) / y) for w in r.uniform(0.0005, 0.02, 24)]
    found = lattice.free_scales(pairs)
    assert found is not None
    scales = factors.weight_scales(pairs, *found)
    assert scales is not None
    assert [quantize_multiplier(found[0] * s / found[1]) for s in scales] == pairs
    assert lattice.free_scales([(int(m), -7) for m in r.integers(1 << 30, 1 << 31, 24)]) is None


def test_mul_mean_and_add_alone_get_scales() -> None:
    wanted = quantize_multiplier(float(np.float32(0.0137)))
    found = lattice.mul_scales(wanted)
    assert found is not None
    assert provenance.mul_pair(*found) == wanted
    wanted = provenance.mean_pair(0.0371, 0.0211, 49) or (0, 0)
    pair = lattice.mean_scales(wanted, 49)
    assert pair is not None
    assert provenance.mean_pair(*pair, 49) == wanted
    scales = [float(np.float32(v)) for v in (0.051, 0.051, 0.0621)]
    three = [p or (0, 0) for p in provenance.summing_factors(*scales)]
    sums = lattice.sum_scales(three)
    assert sums is not None
    assert list(provenance.summing_factors(*sums)) == three


def test_no_scales_are_found_for_multipliers_that_no_float32_gives() -> None:
    pairs = [((1 << 30) + 12345 * i * i + 1, -7) for i in range(12)]
    assert list(factors.result_scales(pairs, 0.5)) == []


def test_for_an_npu_there_is_a_file_of_whole_operators_too_tolerant_and_measured(tmp_path: Path) -> None:
    graph = mobilenet_v2(32, 0.25, 10, blocks=3)
    conversion = TfliteConverter().convert(graph, targets.load("coral-edgetpu"), tmp_path)
    assert [a.numerics for a in conversion.artifacts] == [Numerics.EXACT, Numerics.TOLERANT]
    found = placement.read(tmp_path / conversion.artifacts[1].placement)
    assert found.share == 1.0
    assert not found.fallbacks
    assert found.difference is not None
    assert found.difference.max_lsb <= 4
    assert "was not run here" in found.untested
    exact = placement.read(tmp_path / conversion.artifacts[0].placement)
    assert {"no float32 scales" in n.reason for n in exact.fallbacks} == {True}


CLOSE = ["conv_3x3_double", "dw_3x3_s2", "fc_batch_per_channel", "matmul", "add_single", "mul", "reduce_sum_mean"]


@pytest.mark.parametrize("name", [*CLOSE, "softmax", "concat_last", "rescale_int8", "max_pool_clamped"])
def test_an_operator_with_the_nearest_scales_is_within_one_step(name: str, tmp_path: Path) -> None:
    graph, feeds = CASES[name]()
    lowered = lower(graph, exact=False)
    (tmp_path / FILE).write_bytes(lowered.data)
    session = open_session(tmp_path / FILE, graph)
    for inputs in feeds:
        assert np.abs(session.run(*inputs)[0].astype(int) - spec.run(graph, *inputs)[0]).max() <= 1
    assert lowered.native == {n.output for n in graph.nodes}


def test_inputs_and_constants_as_outputs_and_one_output_twice(tmp_path: Path) -> None:
    b = GraphBuilder("ends")
    x = b.input("x", (2, 3), DType.INT8)
    k = b.constant("k", np.arange(5, dtype=np.int32))
    y = b.node("y", Clamp(-5, 5), x)
    graph = b.finish([(x, None), (y, None), (k, None), (y, None)])
    check(graph, [(np.arange(-3, 3, dtype=np.int8).reshape(2, 3) * 4,)], tmp_path)


def test_flat_rows_of_a_long_softmax_do_not_end_the_process(tmp_path: Path) -> None:
    scale = 1 / 16
    table = np.array(softmax_table(scale), np.int32)
    b = GraphBuilder("flat")
    x = b.input("x", (2, 1001), DType.INT8, Quant(scale))
    y = b.node("y", Softmax(), x, b.constant("t", table))
    graph = b.finish([(y, Quant(1 / 256, -128))])
    check(graph, [(np.full((2, 1001), v, np.int8),) for v in (-128, 0, 127)], tmp_path)


def test_a_session_checks_its_inputs(tmp_path: Path) -> None:
    graph, _ = CASES["clamp"]()
    TfliteConverter().convert(graph, TARGET, tmp_path)
    session = open_session(tmp_path / FILE, graph)
    with pytest.raises(GraphError, match="is needed"):
        session.run(np.zeros((4, 33), np.int32))


def test_a_damaged_file_is_a_format_error(tmp_path: Path) -> None:
    graph, _ = CASES["clamp"]()
    (tmp_path / FILE).write_bytes(b"no program" * 20)
    with pytest.raises(FormatError, match="does not load"):
        open_session(tmp_path / FILE, graph)
    with pytest.raises(FormatError, match="No such file"):
        open_session(tmp_path / "absent.tflite", graph)
