"""Recipes, migration, sensitivity, mixed precision and training on a small vision transformer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized import Call, batches, images, run, sqnr

from bitship.errors import FormatError, QuantizationError
from bitship.graph import Graph
from bitship.graph.ops import LayerNorm
from bitship.quantization import Migration, Recipe, mixed, prepare, quantize
from bitship.quantization.qat import Trainer
from bitship.quantization.sensitivity import feed

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional


def small() -> Any:
    from bitship.models.vit import VitConfig, vit

    torch.manual_seed(4)
    return vit(VitConfig(image=16, patch=4, dim=24, depth=2, heads=3, mlp_ratio=2)).eval()


@pytest.fixture(scope="module")
def net() -> Any:
    module = small()
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() > 1 and "embed" not in name and "token" not in name:
                p.mul_(1.5)
            elif "norm" in name:
                p.add_(0.3 * torch.randn_like(p))
    return module


X = images(24, 3, 16, 16, seed=5)
LEAST = {"int8": 27.0, "int8-repq": 27.0, "int8-smooth": 27.0, "ivit": 14.0, "w8a16": 36.0, "w4a8": 10.0}


def outputs(graph: Graph) -> Any:
    return np.concatenate([run(graph, x[None])[0] for x in X])


@pytest.mark.parametrize("recipe", LEAST)
def test_every_recipe_keeps_the_signal_and_the_host_gives_the_spec_s_bits(net: Any, recipe: str) -> None:
    graph = quantize(net, [X[:16]], recipe)
    with torch.no_grad():
        assert sqnr(net(X).numpy(), outputs(graph)) > LEAST[recipe]
    x = feed(graph, (X[:1],))
    from bitship.graph import spec

    np.testing.assert_array_equal(spec.run(graph, *x)[0], graph.run(*x)[0])


def test_recipes_choose_their_ops(net: Any) -> None:
    published = {n.op.name for n in quantize(net, [X[:4]], "ivit").nodes}
    assert published >= {"shiftmax", "shiftgelu", "i_layer_norm"}
    ours = {n.op.name for n in quantize(net, [X[:4]]).nodes}
    assert ours >= {"softmax_matmul", "table", "layer_norm"}
    assert not ours & {"softmax", "table_softmax", "shiftmax", "rescale"}


def test_the_residual_stream_is_int16_unless_the_recipe_says_8(net: Any) -> None:
    for bits, dtype in ((16, "int16"), (8, "int8")):
        graph = quantize(net, [X[:4]], Recipe(residual_bits=bits))
        norms = [n for n in graph.nodes if isinstance(n.op, LayerNorm)]
        assert {graph.types[n.inputs[0]].dtype.value for n in norms} == {dtype}


@pytest.mark.parametrize("migration", [Migration.REPARAMETERISE, Migration.SMOOTH])
def test_migration_keeps_the_float_value_and_helps_spread_channels(migration: Migration) -> None:
    module = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8)).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.logspace(-2, 1.5, 16))
        module[0].bias.copy_(torch.linspace(-9, 9, 16))
        module[1].weight.copy_(torch.randn(8, 16) / module[0].weight)
    x = images(40, 5, 16)
    with torch.no_grad():
        wanted = module(x).numpy()
    found = {}
    for kind in (Migration.NONE, migration):
        prepared = prepare(module, [x], Recipe(migration=kind, migration_strength=0.8))
        with torch.no_grad():
            np.testing.assert_allclose(prepared.module(x[:1]).numpy(), wanted[:1], rtol=1e-4, atol=1e-3)
        graph = prepared.graph()
        found[kind] = sqnr(wanted, np.concatenate([run(graph, row[None])[0] for row in x]))
    assert found[migration] > found[Migration.NONE] + 6


def test_sensitivity_finds_the_layer_to_blame(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    prepared = prepare(module, [images(32, 12)], Recipe(layer_bits={"2": 2}))
    report = prepared.sensitivity()
    assert report.worst.module in ("2", "3")
    assert report.worst.op in ("linear", "relu")
    names = [t.name for t in report.tensors]
    assert names == list(dict.fromkeys(names))
    assert report.table().row_count == len(names)
    report.plot(tmp_path / "sqnr.svg")
    assert (tmp_path / "sqnr.svg").read_text().startswith("<?xml")


def test_a_budget_lowers_the_layers_that_cost_least(net: Any) -> None:
    prepared = prepare(net, [X[:8]])
    full = mixed.choose(prepared, 1 << 30)
    assert {layer.bits for layer in full.layers} == {8}
    half = mixed.choose(prepared, full.cost() * 3 // 4)
    assert half.cost() <= full.cost() * 3 // 4
    assert {layer.bits for layer in half.layers} == {8, 4}
    graph = quantize(net, [X[:16]], half.recipe)
    lowered = [layer for layer in half.layers if layer.bits == 4]
    weights = [v for k, v in graph.constants.items() if k.endswith(".weight") and int(np.abs(v).max()) <= 7]
    assert len(weights) == len(lowered)
    with torch.no_grad():
        wanted = net(X).numpy()
    assert sqnr(wanted, outputs(graph)) > sqnr(wanted, outputs(quantize(net, [X[:16]], Recipe(weight_bits=4))))
    operations = mixed.Cost.BIT_OPERATIONS
    fast = mixed.choose(prepared, full.cost(operations) * 3 // 4, cost=operations)
    assert fast.cost(operations) <= full.cost(operations) * 3 // 4
    assert {layer.bits for layer in fast.layers} == {8, 4}
    with pytest.raises(QuantizationError, match="at 4 bits"):
        mixed.choose(prepared, 100)
    with pytest.raises(QuantizationError, match="2 to 8"):
        mixed.choose(prepared, 1 << 30, bits=(9,))


@pytest.mark.parametrize("recipe", ["int8", "ivit", "w4a8", "w8a16"])
def test_training_sees_exactly_what_ships(net: Any, recipe: str) -> None:
    trainer = Trainer(net, [X[:8]], recipe, batch=6)
    seen = trainer.forward(X[:6])
    graph = trainer.graph()
    quant = graph.outputs[0].quant
    assert quant is not None
    shipped = np.concatenate([graph.run(*feed(graph, (x[None],)))[0] for x in X[:6]]).astype(np.float32)
    np.testing.assert_array_equal(seen.detach().numpy(), (shipped - quant.zero_point) * np.float32(quant.scale))


def test_training_lowers_the_loss_and_is_saved_without_loss(net: Any, tmp_path: Path) -> None:
    recipe = Recipe(weight_bits=3)
    trainer = Trainer(net, [X[:8]], recipe, batch=12)
    with torch.no_grad():
        wanted = net(X[:12])
    optimizer = torch.optim.Adam(trainer.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss = F.mse_loss(trainer.forward(X[:12]), wanted)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    trainer.recalibrate()
    trainer.save(tmp_path / "state.safetensors")
    again = Trainer(net, [X[8:16]], recipe, batch=12)
    again.load(tmp_path / "state.safetensors")
    assert again.graph().digest == trainer.graph().digest
    other = Trainer(small().head, [images(4, 24)], recipe, batch=2)
    with pytest.raises(FormatError, match="not a training state of this module"):
        other.load(tmp_path / "state.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(FormatError, match="not a readable"):
        again.load(tmp_path / "bad.safetensors")


def test_masks_leave_elements_out() -> None:
    mask = torch.zeros(6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -100.0)

    def forward(m: Any, q: Any, k: Any, v: Any) -> Any:
        return torch.softmax(q @ k.transpose(-2, -1) * 0.5 + m.bias + m.mask, -1) @ v

    module = Call(forward)
    module.register_buffer("mask", mask)
    module.register_buffer("bias", 0.3 * torch.randn(6, 6))
    data = batches((6, 8), (6, 8), (6, 8), count=8)
    graph = quantize(module, data)
    for xs in data:
        wanted = module(*xs).numpy()
        assert sqnr(wanted, run(graph, *xs)[0]) > 28
    boolean = Call(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=m.keep))
    boolean.register_buffer("keep", mask == 0)
    graph = quantize(boolean, data, Recipe())
    assert any(getattr(n.op, "masked", False) for n in graph.nodes)
    assert min(sqnr(boolean(*xs).numpy(), run(graph, *xs)[0]) for xs in data) > 28


def test_a_mask_for_anything_but_a_softmax_is_refused() -> None:
    module = Call(lambda m, x: x.masked_fill(m.mask, -9.0) * 2)
    module.register_buffer("mask", torch.eye(4).bool())
    with pytest.raises(QuantizationError, match="something else than a softmax"):
        quantize(module, batches((4, 4)))


def test_norms_of_every_kind() -> None:
    kinds = [nn.LayerNorm(12), nn.LayerNorm([5, 12]), nn.RMSNorm(12), nn.GroupNorm(1, 5)]
    for norm in kinds:
        with torch.no_grad():
            norm.weight.add_(0.3 * torch.randn_like(norm.weight))
        module, data = nn.Sequential(norm).eval(), batches((5, 12), count=8)
        graph = quantize(module, data)
        wanted = np.concatenate([module(*xs).detach().numpy() for xs in data])
        assert sqnr(wanted, np.concatenate([run(graph, *xs)[0] for xs in data])) > 33
    image = nn.GroupNorm(1, 6).eval()
    graph = quantize(image, batches((6, 4, 5), count=8))
    x = images(1, 6, 4, 5)
    assert sqnr(image(x).detach().numpy(), run(graph, x)[0]) > 30


def test_bad_recipes_are_refused() -> None:
    for wrong, message in (
        ({"weight_bits": 1}, "2 to 8"),
        ({"layer_bits": {"a": 9}}, "2 to 8"),
        ({"activation_bits": 7}, "8 and 16"),
        ({"residual_bits": 4}, "8 and 16"),
        ({"migration_strength": 2.0}, "migration_strength"),
    ):
        with pytest.raises(QuantizationError, match=message):
            Recipe(**wrong)


def test_ranges_that_could_overflow_and_computed_masks_are_refused() -> None:
    long = Call(lambda m, x: m.norm(x + x), norm=nn.LayerNorm(40000))
    with pytest.raises(QuantizationError, match=r"layer_norm.*below 2\^31"):
        quantize(long, batches((40000,), count=2))
    with pytest.raises(QuantizationError, match=r"aten.gt.Scalar.*no integer form"):
        quantize(Call(lambda m, x: x.masked_fill(x > 0, -9.0).softmax(-1)), batches((4, 4)))
