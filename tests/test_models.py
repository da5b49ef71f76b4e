"""The shipped models: sizes, shapes, float weights and integer graphs on disk, names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import numpy as st

import bitship
from bitship import models
from bitship.errors import FormatError, UnsupportedError
from bitship.graph import spec

torch = pytest.importorskip("torch")

from bitship.models.mobilenet import MobileNetConfig, mobilenet  # noqa: E402 - needs torch
from bitship.models.vit import VitConfig, vit  # noqa: E402

INT8_BYTES = 256_000


@pytest.mark.parametrize("name", models.MODELS)
def test_a_shipped_architecture_takes_its_input_gives_one_logit_a_label_and_fits_as_int8(name: str) -> None:
    entry, module = models.shipped(name), models.fresh(name).eval()
    with torch.no_grad():
        logits = module(torch.zeros(2, *entry.input_shape))
    assert logits.shape == (2, len(entry.labels))
    matrices = sum(p.numel() for p in module.parameters() if p.dim() > 1)
    vectors = sum(p.numel() for p in module.parameters() if p.dim() == 1)
    assert matrices + 4 * vectors <= INT8_BYTES


def test_a_pixel_enters_as_the_code_an_int8_input_of_scale_1_64_has() -> None:
    pixels = np.arange(256, dtype=np.float32)
    assert np.array_equal(models.shipped("vit_micro").normalise(pixels) * 64, pixels - 128)


def test_the_vision_transformer_is_pre_norm_with_one_class_token() -> None:
    config = VitConfig(image=8, dim=8, depth=2, heads=2, mlp_ratio=2, classes=3)
    assert config.tokens == 5
    module = vit(config).eval()
    names = set(module.state_dict())
    assert {"cls_token", "pos_embed", "blocks.1.attn.qkv.weight", "blocks.0.norm1.weight", "norm.bias"} <= names
    assert module(torch.zeros(1, 3, 8, 8)).shape == (1, 3)


@pytest.mark.parametrize("options", [{"patch": 5}, {"heads": 5}, {"depth": 0}])
def test_sizes_that_do_not_fit_together_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UnsupportedError, match="vision transformer"):
        VitConfig(**options)


def test_a_mobile_network_can_be_smaller() -> None:
    module = mobilenet(MobileNetConfig(stem=4, stages=((6, 2, 2),), expand=2, last=8, classes=3)).eval()
    assert module(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
    with pytest.raises(UnsupportedError, match="mobile network"):
        MobileNetConfig(stages=())


def tiny() -> Any:
    torch.manual_seed(3)
    return vit(VitConfig(image=8, dim=8, depth=1, heads=2, mlp_ratio=2, classes=3))


def test_weights_come_back_from_their_file(tmp_path: Path) -> None:
    first, second = tiny(), vit(VitConfig(image=8, dim=8, depth=1, heads=2, mlp_ratio=2, classes=3))
    models.save_weights(first.state_dict(), tmp_path / "w.safetensors")
    models.load_weights(second, tmp_path / "w.safetensors")
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    module = tiny()
    models.save_weights({k: v.half() for k, v in module.state_dict().items()}, tmp_path / "w.safetensors")
    models.load_weights(module, tmp_path / "w.safetensors")
    assert all(v.dtype == torch.float32 for v in module.state_dict().values())


def damage(state: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind == "is missing":
        state.pop("cls_token")
    elif kind == "is not the model's":
        state["extra"] = np.zeros(1, np.float32)
    elif kind == "is needed":
        state["cls_token"] = np.zeros((2, 2), np.float32)
    elif kind == "float16 or float32":
        state["cls_token"] = state["cls_token"].astype(np.int8)
    elif kind == "not finite":
        state["cls_token"] = state["cls_token"] * np.float32("nan")
    return state


@pytest.mark.parametrize("kind", ["is missing", "is not the model's", "is needed", "float16 or float32", "not finite"])
def test_a_file_of_other_weights_is_refused_and_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(st.save(damage({k: v.numpy() for k, v in tiny().state_dict().items()}, kind)))
    with pytest.raises(FormatError, match=kind) as e:
        models.load_weights(tiny(), path)
    assert str(e.value).startswith(str(path))


@pytest.mark.parametrize("body", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"\xff" * 64])
def test_a_damaged_checkpoint_is_a_format_error(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(body)
    with pytest.raises(FormatError, match=r"w\.safetensors"):
        models.load_weights(tiny(), path)
    with pytest.raises(FormatError, match="cannot be read"):
        models.load_weights(tiny(), tmp_path / "absent.safetensors")


@pytest.mark.parametrize("name", models.MODELS)
def test_every_shipped_model_loads_with_its_trained_weights(name: str) -> None:
    module = models.load_module(name)
    assert not module.training
    size = (models.CHECKPOINTS / models.shipped(name).weights).stat().st_size
    assert size <= 1_000_000


@pytest.mark.parametrize("name", models.graph_names())
def test_every_shipped_graph_loads_by_its_name_and_runs(name: str) -> None:
    graph = bitship.load(name)
    assert graph.digest == models.load_graph(name).digest
    x = np.random.default_rng(0).integers(-128, 128, graph.inputs[0].type.shape).astype(np.int8)
    for fast, slow in zip(graph.run(x), spec.run(graph, x), strict=True):
        assert np.array_equal(fast, slow)


def test_an_unknown_name_is_an_error_that_suggests_the_nearest() -> None:
    with pytest.raises(FormatError, match="did you mean vit_micro"):
        models.fresh("vit_mikro")
    with pytest.raises(FormatError, match="neither a file nor a shipped model"):
        bitship.load("resnet_of_nobody")


def test_an_untrained_graph_has_a_name_of_its_own_and_is_no_shipped_one() -> None:
    graph = models.load_graph("mobilenet_v2")
    assert graph.macs == 300_774_272
    assert graph.digest == models.load_graph("mobilenet_v2").digest
    assert "mobilenet_v2" not in models.graph_names()
