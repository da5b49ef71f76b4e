"""Split models: the cut backbone, integer head and tail, the package, where to cut, the head on a board."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bitship import models
from bitship.errors import BitshipError, GraphError, PackageError, QuantizationError
from bitship.figures import FigureKind
from bitship.split import package, search, tables
from bitship.split.package import codes_of, margins_of, symbols_of

torch = pytest.importorskip("torch")

from bitship.split import bottleneck, build  # noqa: E402
from bitship.split import train as training  # noqa: E402

CLASSES, CHANNELS = 4, 3


def backbone() -> Any:
    nn = torch.nn
    return nn.Sequential(
        bottleneck.block(3, 4, 2),
        bottleneck.block(4, 6, 2),
        bottleneck.block(6, 6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, CLASSES),
    ).eval()


def images(count: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (count, 3, 16, 16)).astype(np.float32))


def silent(*_: object) -> None:
    """Report nothing."""


def split() -> training.Split:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    head = bottleneck.Head(
        bottleneck.block(3, 4, 2), torch.nn.Conv2d(4, CHANNELS, 3, 2, 1), bottleneck.exit_branch(4, CLASSES, (4, 6))
    )
    recipe = training.Recipe(distil=1, joint=1, fit=1, batch=8, ramp=(0, 1), steps=(0.125, 0.5))
    decoder = torch.nn.Sequential(bottleneck.block(CHANNELS, 6), bottleneck.Residual(6))
    return training.Split(backbone(), "1", head, decoder, images(1), recipe)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> package.SplitPackage:
    """A package of a network that saw one epoch of noise: its bits are as good as any."""
    s = split()
    x, y = images(32), torch.from_numpy(np.arange(32) % CLASSES)
    data = training.Data(lambda _: (x, y))
    s.distil(data, silent)
    s.joint(data, silent)
    held = build.Labelled(images(16, 1).numpy(), np.arange(16) % CLASSES)
    built = build.build(s, data, held, 1, silent)
    return build.save(built, tmp_path_factory.mktemp("split") / "made", "noise")


def test_a_cut_backbone_gives_the_whole_ones_answer_from_its_stage() -> None:
    whole, x = backbone(), images(5)
    tail = bottleneck.Tail(whole, "1", torch.nn.Identity(), x[:1]).eval()
    with torch.no_grad():
        stage, wanted = bottleneck.stage_of(whole, "1", x)
        assert torch.equal(tail.from_stage(stage), wanted)
        assert not torch.equal(tail.from_stage(stage + 1), wanted)


def test_a_backbone_that_asks_for_its_batch_is_cut_too() -> None:
    whole = models.load_module("vit_micro")
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32))
    tail = bottleneck.Tail(whole, "patch_embed", torch.nn.Identity(), x[:1]).eval()
    assert tail.wide
    assert not bottleneck.Tail(backbone(), "1", torch.nn.Identity(), images(1)).wide
    with torch.no_grad():
        stage, wanted = bottleneck.stage_of(whole, "patch_embed", x)
        assert torch.equal(tail.from_stage(stage), wanted)


def test_a_cut_is_refused_where_there_is_none() -> None:
    class Shortcut(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.stage = torch.nn.Conv2d(3, 3, 1)

        def forward(self, x: Any) -> Any:
            return self.stage(x) + x

    with pytest.raises(QuantizationError, match="depends on the image past this module"):
        bottleneck.Tail(Shortcut(), "stage", torch.nn.Identity(), images(1))
    with pytest.raises(QuantizationError, match="'stag': the backbone has no such module"):
        bottleneck.Tail(Shortcut(), "stag", torch.nn.Identity(), images(1))


def test_the_priors_bits_are_a_distributions() -> None:
    prior = bottleneck.Prior(2)
    values = torch.arange(-400, 401).float().reshape(-1, 1, 1, 1).repeat(1, 2, 1, 1)
    with torch.no_grad():
        each = torch.stack([prior.bits(v[None], 1.0) for v in values])  # two channels, one pixel: their sum
        assert float((2 ** (-each / 2)).sum()) == pytest.approx(1, abs=0.01)


def test_rounding_is_of_the_step_and_its_gradient_is_the_identitys() -> None:
    x = torch.tensor([0.2, 0.3, -1.1], requires_grad=True)
    y = bottleneck.rounded(x, 0.5)
    y.sum().backward()
    assert y.tolist() == [0.0, 0.5, -1.0]
    assert x.grad.tolist() == [1, 1, 1]


def test_every_stage_of_training_changes_what_it_trains_and_nothing_else() -> None:
    s = split()
    x, y = images(16), torch.from_numpy(np.arange(16) % CLASSES)
    data = training.Data(lambda _: (x, y))

    def copy(module: Any) -> dict[str, Any]:
        return {k: v.clone() for k, v in module.state_dict().items()}

    def same(module: Any, before: dict[str, Any]) -> bool:
        return all(torch.equal(v, before[k]) for k, v in module.state_dict().items())

    teacher, head, tail = copy(s.teacher), copy(s.head), copy(s.tail.backbone)
    s.distil(data, silent)
    assert not same(s.head, head)
    assert same(s.tail.backbone, tail)
    s.joint(data, silent)
    assert not same(s.tail.backbone, tail)
    assert same(s.teacher, teacher)
    head = copy(s.head)
    s.fit(lambda _: (s.head.eval()(x)[0].detach(), x, y), silent)
    assert same(s.head, head)


def test_an_exit_apart_trains_itself_alone() -> None:
    x = images(4)
    for apart in (False, True):
        head = split().head.train()
        head.apart = apart
        head(x)[1].sum().backward()
        assert [p.grad is None for p in head.trunk.parameters()] == [apart] * len(list(head.trunk.parameters()))
        assert all(p.grad is not None for p in head.leave.parameters())


def test_answers_that_come_with_the_data_are_learnt_instead_of_the_teachers() -> None:
    x, y = images(16), torch.from_numpy(np.arange(16) % CLASSES)

    def trained(*answers: Any) -> dict[str, Any]:
        s = split()
        data = training.Data(lambda _: (x, y, *answers))
        s.distil(data, silent)
        s.joint(data, silent)
        s.fit(lambda _: (s.head.eval()(x)[0].detach(), x, y, *answers), silent)
        return {k: v.clone() for k, v in s.tail.state_dict().items()}

    with torch.no_grad():
        own = split().teacher(x)
    plain, same, other = trained(), trained(own), trained(own.flip(1))
    assert all(torch.allclose(v, plain[k], atol=1e-4) for k, v in same.items())
    assert not all(torch.allclose(v, plain[k], atol=1e-4) for k, v in other.items())


def test_muon_takes_the_linear_layers_but_the_last() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten(), torch.nn.Linear(4, 5), torch.nn.Linear(5, 2)
    )
    rest, inner = training.matrices_of(network)
    assert [p is network[2].weight for p in inner] == [True]
    assert len(rest) + 1 == len(list(network.parameters()))
    before = [p.detach().clone() for p in network.parameters()]
    x, y = torch.randn(8, 3, 1, 1), torch.arange(8) % 2
    for muon, kinds in ((0.0, [torch.optim.AdamW]), (0.02, [torch.optim.AdamW, torch.optim.Muon])):
        stage = training.Stage("any", 1, 4, 1e-3, 0.0, muon=muon)
        assert [type(o) for o, _ in stage.optimizers(rest, inner)] == kinds

        def loss_of(_: int, a: Any, b: Any) -> Any:
            return torch.nn.functional.cross_entropy(network(a), b)

        training.optimise(stage, rest, lambda _: (x, y), loss_of, silent, inner)
        assert not any(torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))
        before = [p.detach().clone() for p in network.parameters()]


def test_head_and_tail_fit_and_the_package_comes_back(made: package.SplitPackage) -> None:
    read = package.read(made.path)
    assert read.manifest == made.manifest
    head, tail = read.head, read.tail
    assert [p.name for p in head.outputs] == ["features", "exit"]
    assert head.outputs[0].type == tail.inputs[0].type
    found, wanted = tail.inputs[0].quant, head.outputs[0].quant
    assert found is not None
    assert wanted is not None
    assert found.zero_point == wanted.zero_point == read.manifest.zero_point
    assert found.scale == pytest.approx(wanted.scale, rel=1e-5)
    assert [r.shift for r in read.manifest.rungs] == sorted({r.shift for r in read.manifest.rungs})
    for rung in range(len(read.manifest.rungs)):
        tables.parse(read.tables(rung), CHANNELS)
    confidence = read.manifest.exit.confidence
    assert list(confidence) == sorted(confidence)
    assert max(confidence) < 65535


def test_symbols_and_codes_are_the_documents() -> None:
    q = np.arange(-128, 128).astype(np.int8)
    for zero_point in (-128, -3, 0, 127):
        for shift in range(8):
            symbols = symbols_of(q, zero_point, shift)
            wanted = [(int(v) - zero_point + (1 << shift >> 1)) >> shift for v in q]
            assert symbols.tolist() == [max(-128, min(127, w)) for w in wanted]
            back = codes_of(symbols, zero_point, shift).astype(int)
            assert back.tolist() == [max(-128, min(127, (int(s) << shift) + zero_point)) for s in symbols]
            if shift and np.abs(wanted).max() < 128:
                inside = (back > -128) & (back < 127)
                assert np.abs(back - q)[inside].max() <= 1 << (shift - 1)


def test_confidence_grows_with_the_margin_and_is_what_was_seen() -> None:
    r = np.random.default_rng(0)
    margins = r.integers(0, 100, 4000)
    right = r.random(4000) < 0.2 + 0.7 * margins / 100
    logits = np.zeros((4000, 3), np.int8)
    logits[:, 0] = margins
    found = np.array(build.confidences(logits, np.where(right, 0, 1))) / 65535
    assert (np.diff(found) >= 0).all()
    assert found[10] == pytest.approx(0.27, abs=0.1)
    assert found[90] == pytest.approx(0.83, abs=0.1)
    assert margins_of(np.array([[3, 9, -128], [-128, 127, -128]], np.int8)).tolist() == [6, 255]


@pytest.mark.parametrize("name", ["split.json", "head.bitship", "tail.bitship", "tables.bin"])
def test_a_damaged_package_is_one_error(made: package.SplitPackage, tmp_path: Path, name: str) -> None:
    for file in made.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    body = bytearray((tmp_path / name).read_bytes())
    body[len(body) // 2] ^= 0x10
    (tmp_path / name).write_bytes(bytes(body))
    with pytest.raises(BitshipError, match=r"split\.json|head\.bitship|tail\.bitship|tables\.bin"):
        package.read(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BitshipError):
        package.read(tmp_path)


def test_halves_of_another_package_are_refused(made: package.SplitPackage, tmp_path: Path) -> None:
    other = msgspec.structs.replace(made.manifest, model_hash="00" * 8)
    blocks = b"".join(made.tables(r) for r in range(len(made.manifest.rungs)))
    package.write(tmp_path / "x", other, made.head, made.tail, blocks)
    with pytest.raises(PackageError, match="model_hash is not that of head and tail"):
        package.read(tmp_path / "x")
    with pytest.raises(PackageError, match="rung 9"):
        made.tables(9)


@pytest.mark.parametrize("name", ["mobilenet_micro", "vit_micro"])
def test_every_cut_gives_the_models_bits(name: str) -> None:
    graph = models.load_graph(name)
    link = search.parse_link("1M/20")
    found = search.cuts(graph, search.from_rate(graph, 1e6), search.from_rate(graph, 1e9), link)
    assert len(found) == len(graph.nodes) + 1
    assert (found[0].macs, found[-1].macs) == (0, graph.macs)
    assert found[-1].link == 0
    assert found[-1].tensors == ()
    x = np.random.default_rng(1).integers(-128, 128, graph.inputs[0].type.shape).astype(np.int8)
    wanted = graph.run(x)[0]
    for k in range(1, len(graph.nodes), 7):
        head, tail = search.halves(graph, k)
        between = head.run(x)
        assert sum(a.nbytes for a in between) == found[k].payload
        assert np.array_equal(tail.run(*between)[0], wanted)


def test_the_best_cut_is_the_cheapest_and_follows_the_link() -> None:
    graph = models.load_graph("mobilenet_micro")
    device, server = search.from_rate(graph, 50e6), search.from_rate(graph, 50e9)

    def cut(text: str) -> search.Cut:
        found = search.cuts(graph, device, server, search.parse_link(text))
        best = search.best(found)
        assert best.total == min(c.total for c in found)
        return best

    assert cut("100/1000").nodes == len(graph.nodes)
    assert cut("1G/0").nodes == 0
    assert "<svg" in search.draw(search.cuts(graph, device, server, search.parse_link("1M/20")))


@pytest.mark.parametrize("text", ["", "1M", "M/20", "0/20", "1M/20ms", "-5/3"])
def test_a_link_is_read_or_refused(text: str) -> None:
    with pytest.raises(BitshipError, match="RATE/RTT"):
        search.parse_link(text)


def test_cuts_that_are_none_are_refused() -> None:
    graph = models.load_graph("mobilenet_micro")
    with pytest.raises(GraphError, match="are possible"):
        search.halves(graph, len(graph.nodes))
    with pytest.raises(GraphError, match="names 0 nodes"):
        search.node_count(models.load_graph("vit_micro"), "nothing")


def test_costs_are_marked() -> None:
    graph = models.load_graph("vit_micro")
    assert search.from_host(graph).kind is FigureKind.ESTIMATED
    assert search.from_rate(graph, 2.0).seconds[0] == graph.node_macs(graph.nodes[0]) / 2


def test_the_head_as_firmware_gives_the_hosts_frames(made: package.SplitPackage, tmp_path: Path) -> None:
    from bitship.device.process import find_tool
    from bitship.errors import MissingDependencyError
    from bitship.split import device, frame
    from bitship.split.answers import local_answer
    from bitship.split.wire import Wire

    try:
        find_tool("qemu-system-arm", "it emulates the board")
        image = device.export_head(made, "mps2-an386", tmp_path / "image")
    except MissingDependencyError as e:
        pytest.skip(str(e))
    wire, r = Wire(made), np.random.default_rng(3)
    shape = made.head.inputs[0].type.shape
    with device.open_board(made, image) as board:
        for rung in (0, 1, device.LOCAL_ONLY):
            x = r.integers(-128, 128, shape).astype(np.int8)
            features, logits = made.head.run(x)
            found = board.run(x, rung)
            local = local_answer(logits, made.manifest.exit)
            if rung == device.LOCAL_ONLY or local.confidence >= made.manifest.exit.threshold:
                assert (found.kind, frame.Answer.unpack(found.payload)) == (frame.Kind.ANSWER, local)
            else:
                assert found == replace(wire.pack(features, rung, found.sequence))
        with pytest.raises(frame.RefusedError, match="UNKNOWN_RUNG"):
            board.run(x, 7)
        with pytest.raises(frame.RefusedError, match="TOO_LARGE"):
            board.run(x[:, 1:], 0)
        assert board.run(x, 0).kind in (frame.Kind.ANSWER, frame.Kind.FEATURES)
