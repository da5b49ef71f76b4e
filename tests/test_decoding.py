"""Integer decoding: states go round unchanged in kind, every back end gives the tokens of the specification."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import skip_without_kernels

import bitship
from bitship import targets
from bitship.device.qemu_user import QemuUserDevice
from bitship.errors import GraphError, UnsupportedError
from bitship.graph import DType, Graph, load, save, spec
from bitship.graph.base import Array
from bitship.models.npu import BackboneConfig
from bitship.models.npu.decoding import Decoded, OnDevice, check_step, decode, initial
from bitship.models.npu.integer import StepRecipe, step_graph
from bitship.targets import ConverterName, Target, TargetKind

torch = pytest.importorskip("torch")
skip_without_kernels()

CONFIG = BackboneConfig(vocabulary=96, dim=32, layers="cA", hidden=48, heads=4, kv_heads=2, window=6)
PROMPT = (5, 17, 80)
COUNT = 24  # four windows


def made(config: BackboneConfig = CONFIG, recipe: StepRecipe | None = None) -> tuple[Any, Graph]:
    from bitship.models.npu.backbone import Backbone, largest

    module = Backbone(config, 7).eval()
    r = np.random.default_rng(0)
    prompts = [torch.from_numpy(r.integers(0, config.vocabulary, 40)) for _ in range(4)]
    return module, step_graph(module, largest(module, prompts), recipe)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return made(recipe=StepRecipe(weight_bits=4, weight_group=32, positions=64))[1]


class Specification:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        return spec.run(self.graph, *inputs)


@pytest.fixture(scope="module")
def wanted(graph: Graph) -> Decoded:
    return decode(graph, Specification(graph), PROMPT, COUNT)


def same(a: Decoded, b: Decoded) -> bool:
    return a.tokens == b.tokens and all(np.array_equal(x, y) for x, y in zip(a.states, b.states, strict=True))


def test_the_host_gives_the_tokens_and_states_of_the_specification(graph: Graph, wanted: Decoded) -> None:
    assert same(decode(graph, graph, PROMPT, COUNT), wanted)
    assert len(set(wanted.tokens)) > 4  # a sequence that says something


def test_decoding_goes_on_from_its_states(graph: Graph, wanted: Decoded) -> None:
    first = decode(graph, graph, PROMPT, 10)
    then = decode(graph, graph, first.tokens[-1:], COUNT - 10, first.states)
    assert first.tokens + then.tokens == wanted.tokens
    assert same(then, dataclasses.replace(wanted, tokens=then.tokens))


def test_a_saved_step_decodes_the_same(graph: Graph, wanted: Decoded, tmp_path: Path) -> None:
    save(graph, tmp_path / "step.bitship")
    again = load(tmp_path / "step.bitship")
    assert again.packing == graph.packing != {}
    assert same(decode(again, again, PROMPT, COUNT), wanted)


def test_states_have_one_scale_and_a_fixed_size(graph: Graph) -> None:
    check_step(graph)
    states = {p.name: p for p in graph.inputs[1:]}
    assert states["layers.0.operator.state"].type.shape == (2, 32)
    assert states["layers.0.operator.state"].type.dtype is DType.INT16
    assert states["layers.1.operator.keys"].type.shape == (2, 8, 6)
    assert states["layers.1.operator.values"].type.shape == (2, 6, 8)
    for a, b in zip(graph.inputs[1:], graph.outputs[2:], strict=True):
        assert (a.type, a.quant) == (b.type, b.quant)


@pytest.mark.parametrize("bits", [8, 4])
def test_logits_follow_the_float_model_past_the_window(bits: int) -> None:
    module, graph = made(recipe=StepRecipe(weight_bits=bits, weight_group=0 if bits == 8 else 32))
    tokens = np.random.default_rng(7).integers(0, CONFIG.vocabulary, 20)
    with torch.no_grad():
        wanted = module(torch.from_numpy(tokens)).numpy()
    states, found = initial(graph), []
    quant = graph.outputs[1].quant
    assert quant is not None
    for token in tokens:
        outputs = graph.run(np.array([token], np.int32), *states)
        states = outputs[2:]
        found.append(outputs[1][0] * quant.scale)
    error = np.stack(found) - wanted
    assert 10 * np.log10((wanted**2).mean() / (error**2).mean()) > (22 if bits == 8 else 5)
    late = error[CONFIG.window + 1 :]
    assert (late**2).mean() < 2 * (error**2).mean()  # what fell out of the window is gone in both


def test_int8_and_int16_ends_of_the_states_are_kept() -> None:
    graph = made()[1]
    full = tuple(np.full(p.type.shape, p.type.dtype.qmin, p.type.dtype.numpy) for p in graph.inputs[1:])
    full = (np.zeros(1, np.int32), np.zeros(graph.inputs[2].type.shape, np.int16), *full[2:])
    a = graph.run(np.array([1], np.int32), *full)
    b = spec.run(graph, np.array([1], np.int32), *full)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    keys = [p.name for p in graph.inputs].index("layers.1.operator.keys")
    assert (a[keys + 1][:, :, :-1] == -128).all()


@pytest.mark.slow
def test_the_shared_library_gives_the_same_tokens(graph: Graph, wanted: Decoded, tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")
    from bitship.converters.tvm import TvmConverter, open_session

    TvmConverter().convert(graph, targets.load("host"), tmp_path)
    session = open_session(tmp_path, graph)
    assert same(decode(graph, session, PROMPT, COUNT), wanted)
    session.close()


@pytest.mark.slow
def test_executorch_gives_the_same_tokens(graph: Graph, wanted: Decoded, tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    from bitship.converters.executorch import EXACT, ExecutorchConverter, open_session

    target = Target("any", "any", TargetKind.LINUX, "any", (ConverterName.EXECUTORCH,))
    ExecutorchConverter(delegates=()).convert(graph, target, tmp_path)
    session = open_session(tmp_path / EXACT, graph)
    assert same(decode(graph, session, PROMPT, COUNT), wanted)
    session.close()


@pytest.mark.slow
def test_emulated_aarch64_gives_the_same_tokens(graph: Graph, wanted: Decoded, tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    target = targets.load("linux-aarch64-dotprod")
    assert target.emulator is not None
    if shutil.which(target.emulator.program) is None or shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("no cross compiler or emulator for aarch64")
    package = bitship.export(graph, target=target.name, out=tmp_path / "pkg")
    device = QemuUserDevice(target)
    with device.open(package, None) as session:
        found = decode(graph, OnDevice(session), PROMPT, COUNT)
    assert same(found, wanted)


def test_what_cannot_be_decoded_is_refused(graph: Graph) -> None:
    with pytest.raises(GraphError, match="64 in all"):
        decode(graph, graph, PROMPT, 63)
    with pytest.raises(GraphError, match=r"\[0, 95\] are known"):
        decode(graph, graph, (96,), 1)
    with pytest.raises(GraphError, match="at least 1 each"):
        decode(graph, graph, (), 1)
    with pytest.raises(GraphError, match="no decoding step"):
        initial(dataclasses.replace(graph, outputs=graph.outputs[1:]))
    with pytest.raises(UnsupportedError, match="no range"):
        step_graph(made()[0], {})
    for wrong in ({"layers": "cXA"}, {"heads": 5}, {"kv_heads": 3}, {"kernel": 1}, {"dim": 4, "heads": 4}):
        with pytest.raises(UnsupportedError, match="language backbone"):
            BackboneConfig(**wrong)
