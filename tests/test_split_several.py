"""A ViT dealt to several devices: groups, pruning, the fusion with one missing, the folder, emulated devices."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from boards import on_boards

from bitship.errors import PackageError, UnsupportedError
from bitship.split import deploy

torch = pytest.importorskip("torch")

from bitship.models.vit import VitConfig, vit  # noqa: E402
from bitship.split import several  # noqa: E402
from bitship.split.train import Data  # noqa: E402

FULL = VitConfig(image=16, patch=4, dim=16, depth=3, heads=4, classes=4)
SMALL = VitConfig(image=16, patch=4, dim=8, depth=2, heads=2, classes=4)
FEATURES = 6


def images(count: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (count, 3, 16, 16)).astype(np.float32))


def labels(count: int) -> Any:
    return torch.from_numpy(np.arange(count) % 4)


def silent(*_: object) -> None:
    """Report nothing."""


def made() -> several.Several:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    teacher = vit(FULL).eval()
    subs = [several.prune(teacher, SMALL, FEATURES, images(8, i), labels(8)) for i in range(2)]
    return several.Several(teacher, subs, several.Fusion(2, FEATURES, 4, 8), ((0, 2), (1, 3)))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> deploy.SeveralPackage:
    s = made()
    s.train(Data(lambda _: (images(32), labels(32))), several.SeveralRecipe(alone=1, together=1, batch=16), silent)
    devices, fusion = several.integer_parts(s, images(16))
    rows = several.integer_offsets(s, fusion, images(16), labels(16))
    assert [(len(r), min(r)) for r in rows] == [(4, 0)] * 2
    manifest = deploy.SeveralManifest("noise", 4, s.own, tuple(g.digest for g in (*devices, fusion)))
    return deploy.write(tmp_path_factory.mktemp("several") / "made", manifest, devices, fusion)


def test_classes_that_are_confused_go_together_and_every_one_goes_once() -> None:
    confusion = np.eye(6) * 100
    for a, b in ((0, 5), (1, 3), (2, 4)):
        confusion[a, b] = 20
    assert sorted(several.groups(confusion, 3)) == [(0, 5), (1, 3), (2, 4)]
    for devices in range(1, 7):
        dealt = several.groups(confusion, devices)
        assert sorted(c for g in dealt for c in g) == list(range(6))
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    with pytest.raises(UnsupportedError, match="7 devices for 6 classes"):
        several.groups(confusion, 7)


def test_pruning_keeps_what_matters() -> None:
    torch.manual_seed(1)
    full = vit(FULL).eval()
    with torch.no_grad():  # channels 8 to 15 and head 3 do nothing at all
        for name, p in full.named_parameters():
            if name.startswith(("patch_embed", "cls", "pos")):
                (p if p.dim() < 3 or name.startswith("patch") else p.movedim(-1, 0))[8:] = 0
            if name.endswith(("proj.weight", "fc2.weight", "proj.bias", "fc2.bias")):
                p[8:] = 0
            if name.endswith(("qkv.weight", "fc1.weight", "head.weight")):
                p[:, 8:] = 0
    worth = several.importance(full, images(8), labels(8))
    assert several._channels(worth, FULL, 8).tolist() == list(range(8))
    small = several.prune(full, SMALL, FEATURES, images(8), labels(8))
    assert torch.equal(small.patch_embed.weight, full.patch_embed.weight[:8])
    assert small(images(3)).shape == (3, FEATURES)


@pytest.mark.parametrize("change", [{"dim": 32}, {"patch": 8}, {"depth": 4}, {"heads": 8, "dim": 16}])
def test_a_larger_model_is_not_pruned_from_a_smaller_one(change: dict[str, int]) -> None:
    with pytest.raises(UnsupportedError, match="prune"):
        several.prune(vit(FULL), VitConfig(**{**vars(SMALL), **change}), FEATURES, images(4), labels(4))


def test_a_missing_device_gives_zeros_in_float_and_in_integers(package: deploy.SeveralPackage) -> None:
    s, x = made(), images(3)
    with torch.no_grad():
        whole = s.forward(x, [True, True])
        alone = s.forward(x, [True, False])
        wanted = s.fusion(s.subs[0](x), torch.zeros(3, FEATURES))
    assert torch.equal(alone, wanted)
    assert not torch.equal(alone, whole)
    port = package.fusion.inputs[1]
    assert port.quant is not None
    first = package.devices[0].run(np.zeros(package.devices[0].inputs[0].type.shape, np.int8))[0]
    zeros = np.full(port.type.shape, port.quant.zero_point, np.int8)
    assert np.array_equal(package.fuse([first, None]), package.fusion.run(first, zeros)[0].reshape(-1))


def test_training_moves_every_part_but_the_teacher() -> None:
    s = made()
    before = {k: v.clone() for k, v in s.teacher.state_dict().items()}
    subs = [{k: v.clone() for k, v in m.state_dict().items()} for m in s.subs]
    s.train(Data(lambda _: (images(32), labels(32))), several.SeveralRecipe(alone=1, together=1, batch=16), silent)
    assert all(torch.equal(v, before[k]) for k, v in s.teacher.state_dict().items())
    for sub, was in zip(s.subs, subs, strict=True):
        assert any(not torch.equal(v, was[k]) for k, v in sub.state_dict().items())


def test_offsets_keep_most_classes_as_right_as_they_were() -> None:
    r = np.random.default_rng(4)
    wanted = np.repeat(np.arange(4), 500)
    whole = r.normal(size=(2000, 4)) + 2.0 * np.eye(4)[wanted]
    without = np.stack([whole + r.normal(size=whole.shape), whole - 1.5 * np.eye(4)[[1]] + 0.5 * np.eye(4)[[2]]])
    found = several.offsets(whole, without, wanted, ((0, 2), (1, 3)))

    def kept(device: int, offset: Any) -> int:
        return sum(
            float(((without[device] + offset).argmax(1) == c)[wanted == c].mean())
            >= float((whole.argmax(1) == c)[wanted == c].mean())
            for c in range(4)
        )

    assert found.shape == (2, 4)
    assert found.min() == 0
    assert [kept(d, 0.0) for d in range(2)] == [0, 1]
    assert min(kept(d, found[d]) for d in range(2)) >= 2


def test_a_missing_devices_offsets_are_added_to_the_codes(package: deploy.SeveralPackage) -> None:
    rows = ((0, 0, 0, 0), (1000, 0, 2000, 0))
    given = msgspec.structs.replace(package.manifest, offsets=rows)
    shifted = deploy.SeveralPackage(package.path, given)
    features = [g.run(np.zeros(g.inputs[0].type.shape, np.int8))[0] for g in package.devices]
    assert np.array_equal(shifted.fuse(features), package.fuse(features))
    plain = package.fuse([features[0], None])
    assert np.array_equal(shifted.fuse([features[0], None]), plain + rows[1])
    assert np.array_equal(shifted.fuse([None, features[1]]), package.fuse([None, features[1]]))


def test_offsets_of_another_model_are_refused(package: deploy.SeveralPackage, tmp_path: Path) -> None:
    given = msgspec.structs.replace(package.manifest, offsets=((0, 0, 0),) * 2)
    deploy.write(tmp_path / "made", given, package.devices, package.fusion)
    with pytest.raises(PackageError, match=r"offsets of 2 devices and \[3\] classes; 2 and 4"):
        deploy.read(tmp_path / "made")


def test_a_damaged_folder_is_one_error(package: deploy.SeveralPackage, tmp_path: Path) -> None:
    assert deploy.read(package.path).manifest == package.manifest
    for file in package.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "device0.bitship").write_bytes((tmp_path / "device1.bitship").read_bytes())
    with pytest.raises(PackageError, match=r"device0\.bitship: digest"):
        deploy.read(tmp_path)
    with pytest.raises(PackageError, match="no model of several devices"):
        deploy.read(tmp_path / "nothing")


@on_boards("mps2-an386")
def test_devices_answer_and_one_may_be_lost(board: str, package: deploy.SeveralPackage, tmp_path: Path) -> None:
    r = np.random.default_rng(2)
    inputs = [r.integers(-128, 128, package.devices[0].inputs[0].type.shape).astype(np.int8) for _ in range(3)]
    features = [[g.run(x)[0] for g in package.devices] for x in inputs]
    whole = deploy.run(package, board, inputs, tmp_path)
    assert whole.lost == {}
    assert [a.label for a in whole.answers] == [int(package.fuse(f).argmax()) for f in features]
    less = deploy.run(package, board, inputs, tmp_path, lose=(1,))
    assert list(less.lost) == [1]
    assert "switched off" in less.lost[1]
    assert [a.missing for a in less.answers] == [(1,)] * 3
    assert [a.label for a in less.answers] == [int(package.fuse([f[0], None]).argmax()) for f in features]
    with pytest.raises(PackageError, match="device 5"):
        deploy.run(package, board, inputs, tmp_path, lose=(5,))
