"""The ExecuTorch converter: every op's bits against the specification, through ExecuTorch's own runtime."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from int4_cases import wide_layer
from merged_cases import ALL_CASES
from op_builders import ints
from op_cases import CASES
from random_nets import mobilenet_v2
from small_nets import conv_net

from bitship.converters import placement
from bitship.converters.base import Numerics
from bitship.converters.executorch import (
    EXACT,
    ExecutorchConverter,
    delegates,
    floating,
    open_session,
    values,
)
from bitship.converters.placement import Place
from bitship.errors import FormatError, GraphError, MissingDependencyError
from bitship.graph import DType, Graph, GraphBuilder, Node, Port, spec, store
from bitship.graph.base import Array
from bitship.graph.ops import Clamp, Conv2D, FullyConnected, Rescale, Table
from bitship.targets import ConverterName, Delegate, Target, TargetKind

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")

TARGET = Target("any", "any", TargetKind.LINUX, "any", (ConverterName.EXECUTORCH,))


def check(graph: Graph, feeds: list[tuple[Array, ...]], out: Path) -> None:
    conversion = ExecutorchConverter(delegates=()).convert(graph, TARGET, out)
    assert conversion.artifacts[0].path == EXACT
    assert conversion.artifacts[0].numerics is Numerics.EXACT
    session = open_session(out / EXACT, graph)
    for inputs in feeds:
        for found, wanted in zip(session.run(*inputs), spec.run(graph, *inputs), strict=True):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
    session.close()


@pytest.mark.parametrize("name", ALL_CASES)
def test_every_case_gives_the_bits_of_the_specification(name: str, tmp_path: Path) -> None:
    graph, feeds = ALL_CASES[name]()
    check(graph, feeds, tmp_path)


@pytest.mark.parametrize("name", ["int4_conv_1x1", "int4_conv_1x1_odd_g32", "int4_fc_g32", "int4_dw", "int4_conv_rgb"])
def test_weights_of_four_bits_are_taken_apart_by_ops(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph, feeds = ALL_CASES[name]()
    monkeypatch.setattr(values, "_WORTH_PACKING", 1)
    check(graph, feeds, tmp_path)


def test_weights_of_four_bits_halve_the_file(tmp_path: Path) -> None:
    r = np.random.default_rng(12)
    graph, few = wide_layer()
    check(few, [(ints(r, (2, 512)),) for _ in range(3)], tmp_path / "int4")
    check(graph, [(ints(r, (2, 512)),)], tmp_path / "int8")
    sizes = [(tmp_path / n / EXACT).stat().st_size for n in ("int8", "int4")]
    assert sizes[0] - sizes[1] == pytest.approx(graph.constants["w"].size / 2, rel=0.05)


def test_a_network_gives_the_bits_of_the_specification_and_the_same_bytes_twice(tmp_path: Path) -> None:
    graph = mobilenet_v2(32, 0.25, 10, blocks=4)
    r = np.random.default_rng(1)
    shape = graph.inputs[0].type.shape
    check(graph, [(r.integers(-128, 128, shape).astype(np.int8),) for _ in range(3)], tmp_path / "a")
    ExecutorchConverter(delegates=()).convert(graph, TARGET, tmp_path / "b")
    assert (tmp_path / "a" / EXACT).read_bytes() == (tmp_path / "b" / EXACT).read_bytes()


FAST = "model.xnnpack.pte"


def test_the_xnnpack_program_is_marked_tolerant_placed_and_measured(tmp_path: Path) -> None:
    graph = mobilenet_v2(32, 0.25, 10, blocks=3)
    conversion = ExecutorchConverter().convert(graph, TARGET, tmp_path / "a")
    assert conversion.files == (EXACT, FAST, FAST + placement.SUFFIX)
    assert [a.numerics for a in conversion.artifacts] == [Numerics.EXACT, Numerics.TOLERANT]
    found = placement.read(tmp_path / "a" / conversion.artifacts[1].placement)
    assert [n.node for n in found.nodes] == [n.output for n in graph.nodes]
    assert found.parts >= 1
    assert found.share == 1.0
    assert found.difference is not None
    assert found.difference.max_lsb <= 2
    assert found.difference.equal > 0.5  # XNNPACK rounds in float: how many differ depends on the processor
    assert found.difference.top1_agreement > 0.7


def test_the_same_graph_gives_the_same_delegated_bytes() -> None:
    assert delegates.lower(conv_net(), Delegate.XNNPACK) == delegates.lower(conv_net(), Delegate.XNNPACK)


def test_what_a_delegate_leaves_is_named_with_the_op_it_refuses(tmp_path: Path) -> None:
    b = GraphBuilder("looked up")
    x = b.input("x", (1, 8), DType.INT8)
    w = b.constant("w", np.full((8, 8), 3, np.int8))
    r = Rescale((1 << 30,), (-4,), dtype=DType.INT8, qmin=-128, qmax=127)
    y = b.node("y", FullyConnected(requant=r), x, w, b.constant("b", np.zeros(8, np.int32)))
    table = b.constant("t", np.arange(-128, 128).astype(np.int8)[::-1].copy())
    graph = b.finish([(b.node("z", Table(), y, table), None)])
    lowered = delegates.lower(graph, Delegate.XNNPACK)
    assert [n.place for n in lowered.placement.nodes] == [Place.DELEGATE, Place.CPU]
    assert "index" in lowered.placement.nodes[1].reason
    assert lowered.placement.share == 1.0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("conv_weight_zero_point", "zero point 0"),
        ("shift_right", "int8"),
    ],
)
def test_without_an_xnnpack_program_the_conversion_says_why(name: str, reason: str, tmp_path: Path) -> None:
    graph, _ = CASES[name]()
    conversion = ExecutorchConverter().convert(graph, TARGET, tmp_path)
    assert conversion.files == (EXACT, placement.SKIPPED)
    (skipped,) = placement.read_skipped(tmp_path)
    assert skipped.delegate == "xnnpack"
    assert reason in skipped.reason


@pytest.mark.parametrize("delegate", [Delegate.QNN, Delegate.NEUTRON])
def test_a_delegate_whose_sdk_is_missing_says_how_to_get_it(
    delegate: Delegate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)
    graph, _ = CASES["fc"]()
    conversion = ExecutorchConverter((delegate,)).convert(graph, TARGET, tmp_path)
    (skipped,) = placement.read_skipped(tmp_path)
    assert conversion.artifacts[0].numerics is Numerics.EXACT
    assert delegate.value in skipped.reason
    assert "https://" in skipped.reason


@pytest.mark.parametrize("delegate", [Delegate.COREML, Delegate.VULKAN])
def test_a_delegate_that_does_not_run_here_is_placed_and_called_untested(delegate: Delegate, tmp_path: Path) -> None:
    if delegate is Delegate.COREML:
        pytest.importorskip("coremltools", reason="coremltools is not installed")
    conversion = ExecutorchConverter((delegate,)).convert(conv_net(), TARGET, tmp_path)
    assert len(conversion.artifacts) == 2
    found = placement.read(tmp_path / conversion.artifacts[1].placement)
    assert found.share == 1.0
    assert found.difference is None
    assert found.untested


FLOAT_FORMS = [
    "conv_3x3_s2_rgb",
    "conv_grouped",
    "conv_5x3_dilated",
    "dw_multiplier",
    "dw_3x3_s2",
    "fc",
    "add_single",
    "sub_tflite",
    "add_broadcast",
    "mul",
    "mul_broadcast",
    "max_pool_clamped",
    "avg_pool_even",
    "reduce_sum_mean",
    "pad",
    "slice_strided",
    "rescale_int8",
    "softmax",
    "transpose_nhwc_nchw",
    "reshape",
    "clamp",
    "matmul",
    "layer_norm",
    "rms_norm",
    "softmax_matmul",
    "table_int8",
]


@pytest.mark.parametrize("float_borders", [False, True])
@pytest.mark.parametrize("name", FLOAT_FORMS)
def test_the_float_form_of_an_op_is_within_one_step(name: str, float_borders: bool) -> None:
    graph, feeds = ALL_CASES[name]()
    module = floating.build_module(graph, float_borders)
    for inputs in feeds:
        found = module(*(torch.from_numpy(x) for x in inputs))[0].numpy()
        assert np.abs(found.astype(int) - spec.run(graph, *inputs)[0]).max() <= 1


def test_a_tensor_of_two_readers_is_dequantized_once_where_codes_must_not_cross_a_border() -> None:
    graph, _ = ALL_CASES["add_single"]()
    a = graph.inputs[0].name
    twice = dataclasses.replace(
        graph,
        nodes=(
            Node(Clamp(-100, 100), (a,), "first"),
            Node(Clamp(-50, 50), ("first",), "left"),
            Node(Clamp(-60, 60), ("first",), "right"),
        ),
        outputs=tuple(Port(n, graph.types[a], graph.inputs[0].quant) for n in ("left", "right")),
        inputs=graph.inputs[:1],
    )
    example = (torch.zeros(graph.types[a].shape, dtype=torch.int8),)
    counts = []
    for float_borders in (False, True):
        module = floating.build_module(twice, float_borders)
        program = torch.export.export(module, example, strict=False)
        counts.append(sum("dequantize_per_tensor" in str(n.target) for n in program.graph.nodes))
    assert counts[1] == counts[0] - 1


def test_a_channel_that_is_multiplied_by_nothing_is_what_the_delegate_takes_too(tmp_path: Path) -> None:
    graph = conv_net()
    op = graph.nodes[0].op
    assert isinstance(op, Conv2D)
    assert op.requant is not None
    none = msgspec.structs.replace(op.requant, multiplier=(0, 1, *op.requant.multiplier[2:]))
    first = msgspec.structs.replace(graph.nodes[0], op=msgspec.structs.replace(op, requant=none))
    graph = graph.with_nodes((first, *graph.nodes[1:]))
    conversion = ExecutorchConverter((Delegate.XNNPACK,)).convert(graph, TARGET, tmp_path)
    found = placement.read(tmp_path / conversion.artifacts[1].placement)
    assert found.difference is not None
    assert found.difference.max_lsb <= 2


def test_inputs_and_constants_as_outputs_and_one_output_twice(tmp_path: Path) -> None:
    b = GraphBuilder("ends")
    x = b.input("x", (2, 3), DType.INT8)
    k = b.constant("k", np.arange(5, dtype=np.int32))
    y = b.node("y", Clamp(-5, 5), x)
    graph = b.finish([(x, None), (y, None), (k, None), (y, None)])
    check(graph, [(np.arange(-3, 3, dtype=np.int8).reshape(2, 3) * 4,)], tmp_path)


def test_a_session_checks_its_inputs(tmp_path: Path) -> None:
    graph, _ = CASES["clamp"]()
    ExecutorchConverter(delegates=()).convert(graph, TARGET, tmp_path)
    session = open_session(tmp_path / EXACT, graph)
    with pytest.raises(GraphError, match="is needed"):
        session.run(np.zeros((4, 33), np.int32))


def test_a_damaged_program_is_a_format_error(tmp_path: Path) -> None:
    graph, _ = CASES["clamp"]()
    (tmp_path / EXACT).write_bytes(b"no program" * 20)
    with pytest.raises(FormatError, match="does not load"):
        open_session(tmp_path / EXACT, graph)
    with pytest.raises(FormatError, match="No such file"):
        open_session(tmp_path / "absent.pte", graph)


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, package: str | None = None) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    graph, _ = CASES["clamp"]()
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"bitship\[executorch\]"):
        ExecutorchConverter().convert(graph, TARGET, tmp_path)


def test_opening_a_session_writes_nothing_and_leaves_stderr_in_place(tmp_path: Path) -> None:
    graph, _ = CASES["clamp"]()
    ExecutorchConverter(delegates=()).convert(graph, TARGET, tmp_path / "pte")
    store.save(graph, tmp_path / "g.bitship")
    code = (
        "import sys, os\nfrom pathlib import Path\nfrom bitship.graph import store\n"
        "from bitship.converters.executorch import EXACT, open_session\n"
        "folder = Path(sys.argv[1])\n"
        "open_session(folder / 'pte' / EXACT, store.load(folder / 'g.bitship'))\n"
        "os.write(2, b'heard')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "heard")
