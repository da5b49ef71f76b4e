"""Checkpoints in I-ViT's released format: the graph follows the float network, and a damaged one is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ivit_states
import numpy as np
import pytest
from safetensors import numpy as st

from bitship import load
from bitship.errors import FormatError
from bitship.graph import Graph, spec
from bitship.graph.base import Array
from bitship.importers.ivit import load_state

SIDE = 16
NETS: dict[str, tuple[Callable[..., Array], dict[str, int]]] = {
    "vit": (ivit_states.vit, {"heads": 2}),
    "swin": (ivit_states.swin, {}),
}


@pytest.fixture(scope="module", params=NETS)
def case(request: pytest.FixtureRequest) -> tuple[dict[str, Array], dict[str, int], list[Array], list[Array]]:
    """(state, arguments, images, float logits)."""
    forward, options = NETS[request.param]
    net, r = ivit_states.Net(3), np.random.default_rng(4)
    images = [r.standard_normal((3, SIDE, SIDE)) for _ in range(12)]
    wanted = [forward(net, image) for image in images]
    return net.state, options, images, wanted


def run(graph: Graph, image: Array) -> Array:
    quant, out = graph.inputs[0].quant, graph.outputs[0].quant
    assert quant is not None
    assert out is not None
    q = np.clip(np.rint(image.transpose(1, 2, 0)[None] / quant.scale), -128, 127).astype(np.int8)
    found, fast = spec.run(graph, q)[0], graph.run(q)[0]
    np.testing.assert_array_equal(found, fast)
    return np.asarray(found[0] * out.scale)


def test_the_graph_follows_the_float_network(case: Any) -> None:
    state, options, images, wanted = case
    graph = load_state(state, SIDE, **options)
    found = np.array([run(graph, image) for image in images])
    noise = ((found - np.array(wanted)) ** 2).sum()
    assert 10 * np.log10((np.array(wanted) ** 2).sum() / noise) > 12
    names = {node.op.name for node in graph.nodes}
    assert names >= {"shiftmax", "shiftgelu", "i_layer_norm"}
    assert not names & {"layer_norm", "softmax_matmul", "table"}


def test_a_file_loads_by_its_suffix(tmp_path: Path) -> None:
    net = ivit_states.Net(5)
    ivit_states.swin(net, np.random.default_rng(0).standard_normal((3, SIDE, SIDE)))
    path = tmp_path / "net.safetensors"
    path.write_bytes(st.save(dict(net.state)))
    assert load(path).inputs[0].type.shape == (1, 224, 224, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"qact_input.act_scaling_factor": np.zeros(1, np.float32)}), "not calibrated"),
        (lambda s: s.update({"qact_input.act_scaling_factor": np.full(1, 2.0**-23, np.float32)}), "not calibrated"),
        (lambda s: s.pop("qact1.act_scaling_factor"), "'qact1.act_scaling_factor' is missing"),
        (lambda s: s.pop("head.weight"), "'head.weight' is missing"),
        (lambda s: s.update({"norm.weight": np.ones(7, np.float32)}), "shape"),
        (lambda s: s.update({"norm.bias": s["norm.bias"] * np.nan}), "not finite"),
        (lambda s: s.update({"head.weight": np.ones((10, 5), np.float32)}), "reads 5 channels"),
    ],
)
def test_a_bad_checkpoint_is_refused_by_name(case: Any, change: Callable[[Any], Any], message: str) -> None:
    state, options, _, _ = case
    state = dict(state)
    change(state)
    with pytest.raises(FormatError, match=message):
        load_state(state, SIDE, **options)


def test_what_is_no_vision_transformer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="neither"):
        load_state({"a": np.zeros(3, np.float32)})
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(FormatError, match="safetensors"):
        load(path)


def test_images_of_another_size_are_refused() -> None:
    net = ivit_states.Net(3)
    ivit_states.vit(net, np.random.default_rng(0).standard_normal((3, SIDE, SIDE)))
    with pytest.raises(FormatError, match="pos_embed has 17 tokens"):
        load_state(net.state, 32, 2)
    with pytest.raises(FormatError, match="no multiple of 64"):
        load_state(net.state, SIDE)
