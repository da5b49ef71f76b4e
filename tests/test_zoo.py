"""The zoo's harness: models redrawn, judged, and what stops one named."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from needs import skip_without_kernels

skip_without_kernels()
torch = pytest.importorskip("torch")
for package in ("timm", "torchvision"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; pip install 'bitship[zoo]'", allow_module_level=True)

from benchmarks import timm_models, zoo  # noqa: E402 - needs timm

SDK = Path(zoo.__file__).resolve().parents[1] / "sdk" / "bitship"


def test_the_sdk_imports_neither_timm_nor_torchvision() -> None:
    for file in SDK.rglob("*.py"):
        if "benchmarks" not in file.parts:
            assert "import timm" not in file.read_text()
            assert "torchvision" not in file.read_text()


def test_there_are_48_models_and_each_is_timms_or_built_of_its_parts() -> None:
    timm = timm_models.timm()
    assert len(zoo.MODELS) == 48
    assert [n for n in zoo.MODELS if not timm.is_model(n)] == ["mobilenetv5_micro"]


def test_images_have_spread_between_and_within() -> None:
    images = timm_models.images(16, 32, seed=3)
    assert torch.equal(images, timm_models.images(16, 32, seed=3))
    assert 0.5 < float(images.std()) < 2.5
    assert float(images.std((1, 2, 3)).max() / images.std((1, 2, 3)).min()) > 1.5
    assert float(images.mean((2, 3)).std()) > 0.2


def test_redrawn_weights_are_the_seeds_and_keep_signals_alive() -> None:
    first, second = (timm_models.create("test_convnext", 64) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not first.training
    with torch.no_grad():
        logits = first(timm_models.images(8, 64, seed=4))
    assert 0.1 < float(logits.std()) < 10
    assert float(logits.std(0).mean()) > 0.05


def test_layer_scales_and_batch_norms_are_redrawn() -> None:
    model = timm_models.create("test_resnet", 64)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert float(norm.weight.detach().std()) > 0.05
        assert float(norm.running_var.min()) > 0
        assert not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))
    scales = [p for n, p in timm_models.micro_mobilenetv5(32).named_parameters() if n.endswith("layer_scale.gamma")]
    assert scales
    assert min(float(p.detach().min()) for p in scales) >= 0.1


@pytest.mark.parametrize(
    ("name", "options"), [("test_vit", {"img_size": 32}), ("test_resnet", {}), ("test_convnext", {})]
)
def test_a_tiny_model_is_converted_and_exact(name: str, options: dict[str, Any]) -> None:
    outcome = zoo.judge(name, 32, lambda: timm_models.create(name, 32, **options), "int8")
    assert outcome.exact, outcome
    assert outcome.float_nodes == 0
    assert outcome.nodes > 10
    assert outcome.sqnr_db is not None
    assert outcome.sqnr_db > 15
    assert "yes" in zoo.row(outcome)


class Sine(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Something without an integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))

    def forward(self, x: Any) -> Any:
        return torch.cumsum(self.inner(x), 1)


def test_what_stops_a_model_is_named() -> None:
    outcome = zoo.judge("sine", 8, lambda: Sine().eval(), "int8")
    assert not outcome.converted
    assert not outcome.exact
    assert "cumsum" in outcome.op
    assert "cumsum" in zoo.row(outcome)[-1]


def test_a_model_that_takes_too_long_is_an_outcome() -> None:
    outcome = zoo.in_process("resnet18", "int8", limit=0.05, memory=12)
    assert not outcome.converted
    assert "not done after" in outcome.error


@pytest.mark.slow
def test_a_process_of_its_own_gives_the_outcome() -> None:
    outcome = zoo.in_process("mobilenetv5_micro", "int8", limit=300, memory=12)
    assert outcome.exact, outcome


@pytest.mark.slow
def test_too_little_memory_is_an_outcome() -> None:
    outcome = zoo.in_process("resnet18", "int8", limit=300, memory=0.5)
    assert not outcome.converted
    assert outcome.error
