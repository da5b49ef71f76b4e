"""The torch quantizer: every op against the float op on its integer operands, and refusals."""

import importlib
from typing import Any

import numpy as np
import pytest
from quantized import Call, batches, conv, feed, images, run

from bitship.errors import MissingDependencyError, QuantizationError
from bitship.graph import Graph, spec
from bitship.graph.ops import FullyConnected, Rescale, Table, Transpose
from bitship.quantization import Recipe, prepare, quantize
from bitship.quantization.histograms import mse_range, percentile_range

torch = pytest.importorskip("torch")

nn = torch.nn
F = torch.nn.functional
X4 = (3, 8, 8)


def one_op(module: Any, *shapes: tuple[int, ...], lsb: float = 1.0, recipe: Recipe | None = None) -> Graph:
    """Compare every tensor of the integer graph with the float op on the same operands; and host with spec."""
    torch.manual_seed(0)
    prepared = prepare(module.eval(), batches(*shapes), recipe or Recipe(), "one")
    graph = prepared.graph()
    others = [tuple(images(1, *s, seed=500 + i) for s in shapes) for i in range(3)]
    inside = [tuple(x.clamp(-1.2, 1.6) for x in xs) for xs in others]
    for report in prepared.sensitivity([*prepared.items, *inside]).tensors:
        assert report.steps <= lsb + 1e-3, report
    for xs in [*prepared.items, *others]:
        fed = feed(graph, *xs)
        for wanted, found in zip(spec.run(graph, *fed), graph.run(*fed), strict=True):
            np.testing.assert_array_equal(wanted, found)
    return graph


OPS: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
    "conv": (lambda: conv(3, 5, 3), (X4,)),
    "conv_same": (lambda: conv(3, 5, (4, 3), padding="same", dilation=2), (X4,)),
    "conv_strided": (lambda: conv(3, 5, 3, stride=2, padding=1, bias=False), (X4,)),
    "conv_dilated": (lambda: conv(3, 5, 3, dilation=(2, 1), padding=(2, 1)), (X4,)),
    "conv_grouped": (lambda: conv(6, 8, 3, groups=2), ((6, 8, 8),)),
    "conv_depthwise": (lambda: conv(6, 6, 3, groups=6, padding=1), ((6, 8, 8),)),
    "conv_depth_multiplier": (lambda: conv(3, 9, 3, groups=3), (X4,)),
    "conv_relu": (lambda: nn.Sequential(conv(3, 5, 3), nn.ReLU()), (X4,)),
    "conv_relu6_in_place": (lambda: nn.Sequential(conv(3, 5, 3), nn.ReLU6(inplace=True)), (X4,)),
    "conv_hardtanh": (lambda: nn.Sequential(conv(3, 5, 3), nn.Hardtanh(-0.5, 0.25)), (X4,)),
    "conv_clamp": (lambda: Call(lambda m, x: m.c(x).clamp(-0.3, 0.7), c=conv(3, 5, 3)), (X4,)),
    "conv_bn_relu": (lambda: nn.Sequential(conv(3, 5, 3), trained_bn(5), nn.ReLU()), (X4,)),
    "bn_alone": (lambda: trained_bn(3), (X4,)),
    "linear": (lambda: nn.Linear(12, 7), ((12,),)),
    "linear_relu": (lambda: nn.Sequential(nn.Linear(12, 7, bias=False), nn.ReLU()), ((12,),)),
    "linear_tokens": (lambda: nn.Linear(12, 7), ((5, 12),)),
    "relu": (lambda: nn.ReLU(), (X4,)),
    "relu6": (lambda: nn.ReLU6(), (X4,)),
    "hardswish": (lambda: nn.Hardswish(), (X4,)),
    "hardsigmoid": (lambda: nn.Hardsigmoid(), (X4,)),
    "silu": (lambda: nn.SiLU(), (X4,)),
    "sigmoid": (lambda: nn.Sigmoid(), (X4,)),
    "tanh": (lambda: nn.Tanh(), (X4,)),
    "gelu": (lambda: nn.GELU(), (X4,)),
    "gelu_tanh": (lambda: nn.GELU("tanh"), (X4,)),
    "leaky_relu": (lambda: nn.LeakyReLU(0.2), (X4,)),
    "elu": (lambda: nn.ELU(), (X4,)),
    "numbers": (lambda: Call(lambda m, x: x * 0.37), (X4,)),
    "number_minus": (lambda: Call(lambda m, x: 1.5 - x), (X4,)),
    "divided": (lambda: Call(lambda m, x: x / 3), (X4,)),
    "add": (lambda: Call(lambda m, a, b: a + b), (X4, X4)),
    "add_relu": (lambda: Call(lambda m, a, b: F.relu(a + b)), (X4, X4)),
    "sub": (lambda: Call(lambda m, a, b: a - b), (X4, X4)),
    "mul": (lambda: Call(lambda m, a, b: a * b), (X4, X4)),
    "mul_broadcast": (lambda: Call(lambda m, a, b: a * b), (X4, (3, 1, 1))),
    "mul_parameter": (
        lambda: Call(lambda m, a: a * m.p, p=nn.Parameter(torch.linspace(-1, 2, 3)[:, None, None])),
        (X4,),
    ),
    "max_pool": (lambda: nn.MaxPool2d(3, 2, 1), (X4,)),
    "mean": (lambda: Call(lambda m, x: x.mean((2, 3))), (X4,)),
    "mean_kept": (lambda: Call(lambda m, x: x.mean((2, 3), keepdim=True)), (X4,)),
    "adaptive_one": (lambda: nn.AdaptiveAvgPool2d(1), (X4,)),
    "concat": (lambda: Call(lambda m, a, b: torch.cat([a, b], 1)), (X4, (5, 8, 8))),
    "pad": (lambda: Call(lambda m, x: F.pad(x, (1, 2, 0, 3))), (X4,)),
    "pad_value": (lambda: nn.ConstantPad2d((1, 0, 2, 0), 0.5), (X4,)),
    "nearest": (lambda: nn.Upsample(scale_factor=2), (X4,)),
    "flatten": (lambda: nn.Flatten(), (X4,)),
    "flatten_linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), (X4,)),
    "view": (lambda: Call(lambda m, x: x.view(1, 6, 4, 8)), (X4,)),
    "permute": (lambda: Call(lambda m, x: x.permute(0, 2, 3, 1)), (X4,)),
    "transpose": (lambda: Call(lambda m, x: x.flatten(2).transpose(1, 2)), (X4,)),
    "chunk": (lambda: Call(lambda m, x: torch.cat(x.chunk(2, 2)[::-1], 2)), (X4,)),
    "pixel_shuffle": (lambda: nn.PixelShuffle(2), ((8, 4, 4),)),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.5), nn.Identity(), nn.ReLU()), (X4,)),
    "softmax": (lambda: nn.Softmax(-1), ((11,),)),
    "softmax_columns": (lambda: nn.Softmax(-1), (X4,)),
    "softmax_channels": (lambda: nn.Softmax(1), (X4,)),
    "matmul": (lambda: Call(lambda m, a, b: a @ b), ((5, 7), (7, 4))),
    "two_outputs": (lambda: Call(lambda m, x: (F.relu(x), x * 2.0)), (X4,)),
}


def trained_bn(channels: int) -> Any:
    bn = nn.BatchNorm2d(channels)
    r = torch.Generator().manual_seed(3)
    for t in (bn.weight.data, bn.bias.data, bn.running_mean, bn.running_var):
        t.copy_(torch.rand(channels, generator=r) + 0.3)
    return bn


@pytest.mark.parametrize("name", OPS)
def test_every_op_is_within_one_step_of_the_float_simulation(name: str) -> None:
    make, shapes = OPS[name]
    one_op(make(), *shapes, lsb=2.0 if name.startswith("softmax") else 1.0)  # softmax: steps of 2^-15


@pytest.mark.parametrize(
    "module",
    [
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(2, count_include_pad=False),
        nn.AdaptiveAvgPool2d(4),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(size=(5, 11), mode="bilinear", align_corners=True),
        nn.Upsample(size=(13, 3)),
    ],
    ids=str,
)
def test_mixing_ops_are_within_one_step(module: Any) -> None:
    one_op(module, X4)


def test_global_pool_and_flatten_need_no_transpose_and_one_reshape() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)).eval()
    graph = quantize(net, batches(X4))
    assert [n.op.name for n in graph.nodes] == ["conv2d", "reduce_sum", "reshape", "fully_connected"]
    assert not any(isinstance(n.op, Transpose) for n in graph.nodes)


def test_tokens_of_an_image_need_no_transpose() -> None:
    def forward(m: Any, x: Any) -> Any:
        t = m.l(m.c(x).flatten(2).transpose(1, 2))
        return t.transpose(1, 2).reshape(1, 4, 3, 3)

    graph = one_op(Call(forward, c=nn.Conv2d(3, 6, 4, 2), l=nn.Linear(6, 4)), X4)
    assert [n.op.name for n in graph.nodes if n.op.name != "reshape"] == ["conv2d", "fully_connected"]


def test_a_tiny_weight_channel_with_a_large_bias_keeps_its_bias() -> None:
    layer = nn.Linear(4, 3)
    layer.weight.data[1] *= 1e-12
    layer.bias.data[:] = torch.tensor([0.1, 2.0, -0.3])
    graph = quantize(layer.eval(), batches((4,)))
    x = images(1, 4)
    with torch.no_grad():
        wanted = layer(x).numpy()
    scale = graph.outputs[0].quant.scale if graph.outputs[0].quant else 0
    assert np.abs(run(graph, x)[0] - wanted).max() < 2.5 * scale
    assert isinstance(graph.nodes[-1].op, FullyConnected)


def test_concat_operands_share_their_scale() -> None:
    module = Call(lambda m, x: torch.cat([m.a(x), F.relu(m.b(x))], 1), a=conv(3, 4, 1), b=conv(3, 4, 3, padding=1))
    graph = one_op(module, X4)
    assert not any(isinstance(n.op, Rescale | Table) for n in graph.nodes)


def test_histogram_ranges() -> None:
    histogram = np.zeros(1000)
    histogram[450:550] = 1000
    histogram[0] = histogram[999] = 1
    low, high = percentile_range(histogram, -10.0, 10.0, 99.9)
    assert low == pytest.approx(-1.0, abs=0.05)
    assert high == pytest.approx(1.0, abs=0.05)
    low, high = mse_range(histogram, -10.0, 10.0)
    assert -10 < low < -0.9
    assert 0.9 < high < 10


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "no inputs"),
        ([torch.full((1, 3, 8, 8), float("nan"))], "not finite"),
        ([torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 9, 8)], "calibration item 1: shapes"),
        ([torch.zeros(1, 3, 8, 8, dtype=torch.int32)], "float32"),
        (["image"], "str"),
    ],
)
def test_bad_calibration_is_refused(calibration: list[Any], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantize(nn.Conv2d(3, 4, 3), calibration)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Call(lambda m, x: torch.sin(x)), r"aten.sin.default \(node 'sin'"),
        (lambda: Call(lambda m, x: x if x.sum() > 0 else -x), "cannot follow"),
        (lambda: nn.AvgPool2d(3, 2, ceil_mode=True), "ceil_mode"),
        (lambda: nn.Conv2d(4, 4, 3), "cannot follow"),
        (lambda: Call(lambda m, x: x.abs() ** 9.3), "multiple of 1/4"),
        (lambda: Call(lambda m, x: (x * 1e30) * 1e30 - (x * 1e30) * 1e30), "not finite"),
        (lambda: Call(lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True)), "causal"),
    ],
)
def test_what_has_no_integer_form_is_named(make: Any, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantize(make(), batches(X4))


def test_a_weight_that_is_not_a_number_is_one_line() -> None:
    layer = nn.Linear(4, 3)
    layer.weight.data[0, 0] = float("nan")
    with pytest.raises(QuantizationError, match=r"not finite at op aten\.linear") as caught:
        quantize(layer, batches((4,)))
    assert "\n" not in str(caught.value)


def test_recipes() -> None:
    with pytest.raises(QuantizationError, match="int8-mse"):
        quantize(nn.ReLU(), batches(X4), "int4")
    with pytest.raises(QuantizationError, match="percentile"):
        Recipe(percentile=10)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, package: str | None = None) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"bitship\[torch\]"):
        quantize(nn.ReLU(), batches(X4))
