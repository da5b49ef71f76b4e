"""A model dealt to several devices: its folder on disk, and the devices at work - one may be lost."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from bitship.errors import BitshipError, DeviceError, PackageError
from bitship.graph import Graph, store
from bitship.graph.base import Array
from bitship.package import Staging
from bitship.split.package import check_digest, decoded

MANIFEST, FUSION = "several.json", "fusion.bitship"
FORMAT = 1
DEVICES = 2  # that run at once, emulated on this machine


class SeveralManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``several.json`` holds.

    own         classes of each device
    digests     of the devices' graphs, then of the fusion's
    offsets     for each device: what is added to the logits' codes where it alone is missing; nothing when empty
    accuracy    measured share of right answers with every device; 0 where not measured
    without     the same with device i missing
    """

    name: str
    classes: int
    own: tuple[tuple[int, ...], ...]
    digests: tuple[str, ...]
    offsets: tuple[tuple[int, ...], ...] = ()
    accuracy: float = 0.0
    without: tuple[float, ...] = ()
    format: int = FORMAT


@dataclass(frozen=True)
class SeveralPackage:
    """A folder with one graph a device and the fusion's."""

    path: Path
    manifest: SeveralManifest

    @cached_property
    def devices(self) -> tuple[Graph, ...]:
        """The sub-models: image to int8 features [1, F]."""
        return tuple(store.load(self.path / device_file(i)) for i in range(len(self.manifest.own)))

    @cached_property
    def fusion(self) -> Graph:
        """Features of every device to logits."""
        return store.load(self.path / FUSION)

    def fuse(self, features: Sequence[Array | None]) -> Array:
        """Return the logits' codes int32 [classes] for one image's features; None for a missing device: zeros."""
        given = []
        for port, value in zip(self.fusion.inputs, features, strict=True):
            zero = port.quant.zero_point if port.quant else 0
            given.append(np.full(port.type.shape, zero, port.type.dtype.numpy) if value is None else value)
        logits = self.fusion.run(*given)[0].reshape(-1).astype(np.int32)
        missing = [i for i, value in enumerate(features) if value is None]
        if len(missing) == 1 and self.manifest.offsets:
            logits += np.array(self.manifest.offsets[missing[0]], np.int32)
        return logits


def device_file(number: int) -> str:
    """Return the name of a device's graph."""
    return f"device{number}.bitship"


def write(path: Path, manifest: SeveralManifest, devices: Sequence[Graph], fusion: Graph) -> SeveralPackage:
    """Write a folder whole or not at all."""
    with Staging(path, True, MANIFEST) as made:
        for number, graph in enumerate(devices):
            store.save(graph, made / device_file(number))
        store.save(fusion, made / FUSION)
        (made / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    return SeveralPackage(path, manifest)


def read(path: Path) -> SeveralPackage:
    """Open a folder and check its graphs; PackageError says what is damaged."""
    manifest = decoded(path / MANIFEST, SeveralManifest, "no model of several devices")
    if manifest.format != FORMAT or len(manifest.digests) != len(manifest.own) + 1:
        raise PackageError(
            f"{path / MANIFEST}: format {manifest.format}, {len(manifest.digests)} digests: damaged, or newer"
        )
    shape = {len(row) for row in manifest.offsets}
    if manifest.offsets and (len(manifest.offsets) != len(manifest.own) or shape != {manifest.classes}):
        raise PackageError(
            f"{path / MANIFEST}: offsets of {len(manifest.offsets)} devices and {sorted(shape)} classes; "
            f"{len(manifest.own)} and {manifest.classes} are there: damaged"
        )
    package = SeveralPackage(path, manifest)
    names = [*(device_file(i) for i in range(len(manifest.own))), FUSION]
    for name, graph, digest in zip(names, (*package.devices, package.fusion), manifest.digests, strict=True):
        check_digest(path / name, graph, digest, MANIFEST)
    return package


class FusedAnswer(msgspec.Struct, frozen=True):
    """One image's answer. ``missing`` names the devices that gave nothing: the answer is degraded then."""

    label: int
    missing: tuple[int, ...]


class Deployed(msgspec.Struct, frozen=True):
    """What came of a run: an answer an image; ``lost`` says why a device gave nothing, by its number."""

    answers: tuple[FusedAnswer, ...]
    lost: dict[int, str]
    feature_bytes: int
    digest: str


def run(package: SeveralPackage, target: str, inputs: Sequence[Array], out: Path, lose: Sequence[int] = ()) -> Deployed:
    """Run every sub-model on an emulated device of its own, and fuse what comes back; every image is answered.

    inputs  each of the sub-models' input type
    lose    devices that fail on the way; any other that fails is taken as lost too
    """
    count = len(package.manifest.own)
    if bad := [n for n in lose if not 0 <= n < count]:
        raise PackageError(f"device {bad[0]}: there are 0 to {count - 1}")

    def one(number: int) -> list[Array] | str:
        try:
            return _run_one(package.devices[number], target, inputs, out / f"device{number}", number in lose)
        except BitshipError as e:
            return str(e)

    with ThreadPoolExecutor(DEVICES) as pool:
        found = list(pool.map(one, range(count)))
    missing = tuple(i for i, f in enumerate(found) if isinstance(f, str))
    if len(missing) == count:
        raise DeviceError(f"no device answered; the first: {found[0]}")
    answers, seen = [], hashlib.sha256()
    for row in range(len(inputs)):
        features = [None if isinstance(f, str) else f[row] for f in found]
        for value in features:
            seen.update(b"-" if value is None else value.tobytes())
        answers.append(FusedAnswer(int(package.fuse(features).argmax()), missing))
    sizes = sum(p.type.nbytes for p in package.fusion.inputs)
    lost = {i: f for i, f in enumerate(found) if isinstance(f, str)}
    return Deployed(tuple(answers), lost, sizes, seen.hexdigest()[:16])


def _run_one(graph: Graph, target: str, inputs: Sequence[Array], out: Path, fails: bool) -> list[Array]:
    from bitship.benchmarking import default_device
    from bitship.exporting import export

    package = export(graph, target, out, inputs=[(inputs[0],)], overwrite=True)
    with default_device(package).open(package, None) as session:
        rows = [(x,) for x in inputs]
        if fails:
            session.run(rows[:1])
            raise DeviceError(f"{out.name}: the device was switched off on the way")
        return [outputs[0] for outputs in session.run(rows)]
