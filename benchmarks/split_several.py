"""A ViT dealt to four devices: accuracy with all of them and without each, of integer sub-models and fusion.

python -m benchmarks.split_several [--seeds 3] [--out FOLDER]
python -m benchmarks.split_several --cifar --data FOLDER [--seeds 3] [--out FOLDER]

Without --cifar a ViT is trained on 797 of scikit-learn's digits and tested on the other 1,000; with it the shipped
vit_micro is the full model, tested on the folder's 5,000 images. --out keeps every seed's package and figures; a seed
whose figures are there is not trained again.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.models import data_folder
from benchmarks.split_cifar import Cifar, kept, load, parameters, report
from bitship import models
from bitship.errors import BitshipError
from bitship.graph.base import Array
from bitship.split import deploy

DEVICES, FEATURES = 4, 16
TESTED = 1000  # of the 1,797 digits
SIDE, SHIFT = 16, 2  # a digit's pixels after enlarging, and how far it is moved
EPOCH = 8_000
FULL_EPOCHS = 40


class SeveralResult(msgspec.Struct, frozen=True):
    """One seed; ``count`` of images and ``recall`` by class, ``recall_without`` [device][class]."""

    seed: int
    data: str
    images: int
    full_accuracy: float
    full_parameters: int
    sub_parameters: tuple[int, ...]
    own: tuple[tuple[int, ...], ...]
    accuracy: float
    without: tuple[float, ...]
    count: tuple[int, ...]
    recall: tuple[float, ...]
    recall_without: tuple[tuple[float, ...], ...]

    def kept(self, device: int) -> int:
        """Return how many classes are at full accuracy without a device: one image in a hundred fewer right, or one."""
        pairs = zip(self.count, self.recall, self.recall_without[device], strict=True)
        return sum(round(n * (a - b)) <= max(n // 100, 1) for n, a, b in pairs)


@dataclass(frozen=True)
class Task:
    """A full ViT and its data.

    epoch   images, labels and teachers' answers, where they are kept, of an epoch's number
    seen    images and labels that decide who gets which classes and what is pruned
    test    images float32 [N, 3, H, W] that nothing was trained on, and their labels
    """

    name: str
    full: Any
    small: Any
    epoch: Callable[[int], tuple[Any, ...]]
    seen: tuple[Any, Any]
    test: tuple[Array, Array]
    recipe: Any


def cifar(data: Cifar, seed: int, out: Path, epochs: int) -> Task:
    """Return the shipped ViT."""
    from bitship.models.vit import VitConfig
    from bitship.split.several import SeveralRecipe

    seen, test = (data.held, data.held_labels), (data.test, data.test_labels)
    config, recipe = VitConfig(dim=24, depth=3, heads=2), SeveralRecipe(together=epochs)
    return Task(
        "vit_micro, CIFAR-10", models.load_module("vit_micro"), config, data.taught(seed, out), seen, test, recipe
    )


def digits(seed: int, epochs: int) -> Task:
    """Train a ViT on enlarged digits, moved at random and with noise."""
    import torch
    from sklearn.datasets import load_digits

    from bitship.models.vit import VitConfig, vit
    from bitship.split.several import SeveralRecipe
    from bitship.split.train import Data, Recipe, classifier

    found = load_digits()
    small = torch.from_numpy(found.images.astype(np.float32) / 8 - 1)[:, None]
    images = torch.nn.functional.interpolate(small, (SIDE, SIDE), mode="bilinear").repeat(1, 3, 1, 1)
    labels = torch.from_numpy(found.target.astype(np.int64))
    train, given = images[:-TESTED], labels[:-TESTED]

    def epoch(number: int) -> tuple[Any, Any]:
        r = np.random.default_rng((seed, number))
        chosen = torch.from_numpy(r.integers(0, len(train), EPOCH))
        wide = torch.nn.functional.pad(train[chosen], (SHIFT,) * 4, value=-1.0)
        dy, dx = (torch.from_numpy(r.integers(0, 2 * SHIFT + 1, (EPOCH, 1))) + torch.arange(SIDE) for _ in range(2))
        x = wide[torch.arange(EPOCH)[:, None, None], :, dy[:, :, None], dx[:, None, :]].permute(0, 3, 1, 2)
        noise = torch.from_numpy(r.normal(0, 0.15, x.shape).astype(np.float32))
        return (x + noise).contiguous(), given[chosen]

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    full = vit(VitConfig(image=SIDE, patch=4))
    recipe = Recipe(batch=128, rate=1e-3, muon=0.02, weight_decay=0.05)
    apart = SeveralRecipe(together=epochs, missing=0.7)
    full = classifier(full, Data(epoch), recipe, FULL_EPOCHS, report(seed))
    config = VitConfig(image=SIDE, patch=4, dim=24, depth=3, heads=2)
    test = (images[-TESTED:].numpy(), labels[-TESTED:].numpy())
    return Task("a ViT of the digits", full, config, epoch, epoch(FULL_EPOCHS), test, apart)


def several(task: Task, seed: int, out: Path) -> SeveralResult:
    """Deal the ViT to four devices, train, quantize and measure, with every device and without each."""
    import torch

    from bitship.split import build
    from bitship.split import several as dealt
    from bitship.split.train import Data

    torch.manual_seed(seed)
    seen, labels = task.seen
    with torch.no_grad():
        answers = torch.cat([task.full(part) for part in seen.split(500)]).argmax(1).numpy()
        test = torch.from_numpy(task.test[0])
        full = torch.cat([task.full(part) for part in test.split(500)]).argmax(1).numpy()
    confusion = np.zeros((10, 10))
    np.add.at(confusion, (labels.numpy(), answers), 1)
    own = dealt.groups(confusion, DEVICES)
    subs = []
    for group in own:
        chosen = torch.isin(labels, torch.tensor(group))
        subs.append(dealt.prune(task.full, task.small, FEATURES, seen[chosen][:512], labels[chosen][:512]))
    whole = dealt.Several(task.full, subs, dealt.Fusion(DEVICES, FEATURES, 10), own)
    whole.train(Data(task.epoch), task.recipe, report(seed))
    devices, fusion = dealt.integer_parts(whole, seen[:256])
    manifest = deploy.SeveralManifest(
        name=task.name,
        classes=10,
        own=own,
        digests=tuple(g.digest for g in (*devices, fusion)),
        offsets=dealt.integer_offsets(whole, fusion, *task.epoch(2 * task.recipe.together)[:2]),
    )
    package = deploy.write(out, manifest, devices, fusion)
    found, recalls = _fused(package, build.inputs_of(devices[0], task.test[0]), task.test[1])
    manifest = msgspec.structs.replace(manifest, accuracy=found[0], without=tuple(found[1:]))
    deploy.write(out, manifest, devices, fusion)
    return SeveralResult(
        seed=seed,
        data=task.name,
        images=len(test),
        full_accuracy=float((full == task.test[1]).mean()),
        full_parameters=parameters(task.full),
        sub_parameters=tuple(parameters(s) for s in subs),
        own=own,
        accuracy=found[0],
        without=tuple(found[1:]),
        count=tuple(np.bincount(task.test[1], minlength=10).tolist()),
        recall=recalls[0],
        recall_without=tuple(recalls[1:]),
    )


def _fused(
    package: deploy.SeveralPackage, inputs: list[Array], labels: Array
) -> tuple[list[float], list[tuple[float, ...]]]:
    """Return accuracy, and recall by class, of all devices and without each."""
    features = [[g.run(x)[0] for x in inputs] for g in package.devices]
    accuracy, recalls = [], []
    for missing in (None, *range(len(features))):
        answers = np.array(
            [
                int(package.fuse([None if d == missing else f[i] for d, f in enumerate(features)]).argmax())
                for i in range(len(inputs))
            ]
        )
        right = answers == labels
        accuracy.append(float(right.mean()))
        recalls.append(tuple(float(right[labels == c].mean()) for c in range(package.manifest.classes)))
    return accuracy, recalls


def show(results: list[SeveralResult]) -> None:
    """Print the table."""
    from bitship.cli.output import table

    rows = []
    for s in results:
        smaller = f"{s.full_parameters / max(s.sub_parameters):.1f}"

        def row(lost: str, accuracy: float, kept: str, of: SeveralResult = s, by: str = smaller) -> tuple[object, ...]:
            against = f"{100 * (accuracy - of.full_accuracy):+.2f}"
            return of.seed, lost, f"{100 * of.full_accuracy:.2f}", f"{100 * accuracy:.2f}", against, by, kept

        rows.append(row("none", s.accuracy, "-"))
        for device, accuracy in enumerate(s.without):
            rows.append(row(f"{device} {list(s.own[device])}", accuracy, f"{s.kept(device)} of 10"))
    table(
        f"{results[0].data} on four devices, {results[0].images} images, integer sub-models and fusion (measured)",
        ["seed", "lost", "full %", "right %", "points", "sub-model smaller x", "classes at full accuracy (one image)"],
        rows,
        left=2,
    )
    shares = [10 * s.kept(device) for s in results for device in range(DEVICES)]
    print(
        f"one device lost: {statistics.fmean(shares):.0f} % of the classes at full accuracy, "
        f"{min(shares)} % in the worst of {len(shares)} cases (one image in a hundred fewer right, or one)"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", action="store_true", help="the shipped ViT and CIFAR-10, half an hour a seed")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of all devices together; 40, with --cifar 80")
    parser.add_argument("--out", type=Path, default=Path("build/split"))
    arguments = parser.parse_args(words)
    out, name = arguments.out, "several_cifar" if arguments.cifar else "several"
    out.mkdir(parents=True, exist_ok=True)
    data = load(data_folder(arguments.data)) if arguments.cifar else None

    def one(seed: int) -> SeveralResult:
        task = cifar(data, seed, out, arguments.epochs or 80) if data else digits(seed, arguments.epochs or 40)
        return several(task, seed, out / f"{name}{seed}")

    show(kept(out, arguments.seeds, name, SeveralResult, one))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.split_several: {e}")
