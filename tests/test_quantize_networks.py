"""The torch quantizer on blocks and networks: the signal of the float module is kept."""

from typing import Any

import numpy as np
import pytest
from quantized import Call, conv, images, run, sqnr

from bitship.graph.ops import Rounding
from bitship.quantization import Calibrator, Recipe, quantize

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

nn = torch.nn
F = torch.nn.functional


class SqueezeExcite(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down, self.up = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Any) -> Any:
        return x * F.hardsigmoid(self.up(F.relu(self.down(self.pool(x)))))


class Block(nn.Module):  # type: ignore[misc, name-defined]
    """Inverted residual of MobileNetV3 (arXiv 1905.02244)."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        wide = channels * 3
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(inplace=True),
            SqueezeExcite(wide),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Any) -> Any:
        return x + self.layers(x)


class Residual(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: Any) -> Any:
        identity = x
        out = F.relu(self.bn(self.a(x)), inplace=True)
        out = self.b(out)
        out += identity
        return F.relu(out)


@pytest.mark.parametrize(
    ("make", "shape", "least"),
    [(lambda: SqueezeExcite(16), (16, 8, 8), 33.0), (Block, (16, 8, 8), 33.0), (Residual, (8, 8, 8), 33.0)],
    ids=["squeeze_excite", "mobilenet_v3_block", "residual"],
)
@pytest.mark.parametrize("calibrator", list(Calibrator))
def test_blocks_keep_their_signal(make: Any, shape: tuple[int, ...], least: float, calibrator: Calibrator) -> None:
    torch.manual_seed(2)
    module = make().eval()
    xs = images(24, *shape)
    graph = quantize(module, [xs], Recipe(calibrator))
    with torch.no_grad():
        wanted = module(xs).numpy()
    found = np.concatenate([run(graph, x[None])[0] for x in xs])
    assert sqnr(wanted, found) > least
    epilogues = [getattr(n.op, "requant", None) for n in graph.nodes]
    assert {r.rounding for r in epilogues if r is not None} == {Rounding.SINGLE}


def shuffled(m: Any, x: Any) -> Any:
    """Channel shuffle of ShuffleNet V2 (arXiv 1807.11164)."""
    a, b = x.chunk(2, 1)
    y = torch.cat([a, F.relu(m.c(b))], 1)
    n, c, h, w = y.shape
    return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def tokens(m: Any, x: Any) -> tuple[Any, Any]:
    t = x.flatten(2).transpose(1, 2)
    return t, m.q(t)


def attention(m: Any, x: Any) -> Any:
    """Two heads, written out."""
    t, qkv = tokens(m, x)
    n, length, c = t.shape
    q, k, v = qkv.reshape(n, length, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
    a = torch.softmax(q @ k.transpose(-2, -1) * 0.5, -1)
    return m.o((a @ v).transpose(1, 2).reshape(n, length, c)) + t


def fused_attention(m: Any, x: Any) -> Any:
    t, qkv = tokens(m, x)
    q, k, v = (p[:, None] for p in qkv.chunk(3, -1))
    return m.o(F.scaled_dot_product_attention(q, k, v)[:, 0]) + t


STRUCTURES: dict[str, Any] = {
    "shuffle": lambda: Call(shuffled, c=conv(4, 4, 3, padding=1)),
    "attention": lambda: Call(attention, q=nn.Linear(8, 24), o=nn.Linear(8, 8)),
    "fused_attention": lambda: Call(fused_attention, q=nn.Linear(8, 24), o=nn.Linear(8, 8)),
    "one_result_read_twice": lambda: Call(lambda m, x: F.relu(y := m.c(x)) + y, c=conv(8, 8, 3)),
    "gate": lambda: Call(lambda m, x: x.sigmoid() * x),
    "square": lambda: Call(lambda m, x: x * x + x**2),
    "stack_and_select": lambda: Call(lambda m, x: torch.stack([x[:, 1], x[:, 3].tanh()], 1)),
    "same_operand_twice": lambda: Call(lambda m, x: torch.cat([x, x], 1) * 2 + 1),
    "batch_norm_of_a_vector": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(512, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)
    ),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_keep_their_signal(name: str) -> None:
    torch.manual_seed(3)
    module, xs = STRUCTURES[name]().eval(), images(12, 8, 8, 8)
    graph = quantize(module, [xs])
    with torch.no_grad():
        wanted = module(xs).numpy()
    assert sqnr(wanted, np.concatenate([run(graph, x[None])[0] for x in xs])) > 30


def test_the_same_module_and_data_give_the_same_graph() -> None:
    module, xs = Residual().eval(), images(4, 8, 8, 8)
    assert quantize(module, [xs]).digest == quantize(module, [xs]).digest


def test_a_digits_network_keeps_its_accuracy() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU6(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(x[:1200]), y[:1200]).backward()
        optimizer.step()
    graph = quantize(net, [x[:64]])
    assert net.training
    net.eval()
    with torch.no_grad():
        wanted = net(x[1200:]).numpy()
    found = np.concatenate([run(graph, image[None])[0] for image in x[1200:]])
    truth = y[1200:].numpy()
    float_accuracy = float((wanted.argmax(1) == truth).mean())
    assert float_accuracy > 0.85
    assert abs(float((found.argmax(1) == truth).mean()) - float_accuracy) < 0.015
    assert sqnr(wanted, found) > 28
