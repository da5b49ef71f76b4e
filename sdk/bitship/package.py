"""A package: a folder that holds everything to run one graph on one target, and the vectors that prove it."""

import hashlib
import io
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import msgspec
import numpy as np

from bitship.arrays import load_npz
from bitship.converters.base import Artifact, Conversion, Footprint, Numerics
from bitship.errors import BitshipError, PackageError
from bitship.graph import Graph, Port, store
from bitship.graph.base import Array
from bitship.targets import ConverterName, Target, TargetKind
from bitship.version import VERSION

SCHEMA = 1
MANIFEST, GRAPH, VECTORS = "manifest.json", f"graph{store.SUFFIX}", "vectors.npz"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a package says of itself. ``files`` maps every file but the manifest to its sha256."""

    schema: int
    name: str
    bitship: str
    target: str
    kind: TargetKind
    converter: ConverterName
    graph_digest: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    macs: int
    footprint: Footprint
    artifacts: tuple[Artifact, ...]
    tools: dict[str, str]
    files: dict[str, str]
    schedule: str = ""


@dataclass(frozen=True)
class Package:
    """A package on disk, its manifest checked."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> "Package":
        """Read a package and check every file's sha256; PackageError when something is missing or altered."""
        try:
            manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
        except OSError as e:
            raise PackageError(f"{path}: not a package: {MANIFEST}: {e.strerror}; 'bitship export' makes one") from None
        except msgspec.MsgspecError as e:
            raise PackageError(f"{path / MANIFEST}: damaged: {e}") from None
        if manifest.schema != SCHEMA:
            raise PackageError(f"{path}: package schema {manifest.schema}, this bitship reads schema {SCHEMA}")
        for name, wanted in manifest.files.items():
            file = path / name
            if not file.resolve().is_relative_to(path.resolve()):
                raise PackageError(f"{path / MANIFEST}: '{name}' lies outside the package")
            if not file.is_file():
                raise PackageError(f"{file}: missing from the package; export it again")
            if _sha256(file) != wanted:
                raise PackageError(f"{file}: altered since the export (its sha256 differs); export it again")
        return cls(path, manifest)

    def graph(self) -> Graph:
        """Return the integer graph; PackageError when it is not the one the manifest names."""
        graph = store.load(self.path / GRAPH)
        if graph.digest != self.manifest.graph_digest:
            raise PackageError(f"{self.path / GRAPH}: digest differs from the manifest's; export it again")
        return graph

    def vectors(self) -> tuple[list[tuple[Array, ...]], list[tuple[Array, ...]]]:
        """Return the golden (inputs, outputs), one tuple per vector."""
        path = self.path / VECTORS
        try:
            data = load_npz(path)
            inputs = [data[f"input_{i}"] for i in range(len(self.manifest.inputs))]
            outputs = [data[f"output_{i}"] for i in range(len(self.manifest.outputs))]
        except (OSError, ValueError, KeyError) as e:
            raise PackageError(f"{path}: damaged: {e}") from None
        return list(zip(*inputs, strict=True)), list(zip(*outputs, strict=True))

    def artifact(self, role: str | None = None) -> Artifact:
        """Return the artifact of a role, or the first exact one."""
        for artifact in self.manifest.artifacts:
            if artifact.role == role or (role is None and artifact.numerics is Numerics.EXACT):
                return artifact
        roles = ", ".join(a.role for a in self.manifest.artifacts) or "none"
        raise PackageError(f"{self.path}: no artifact of role '{role or 'exact'}'; there are: {roles}")


def golden_inputs(graph: Graph, count: int, seed: int = 0) -> list[tuple[Array, ...]]:
    """Return ``count`` input tuples: all lowest, all highest, then random ones from a fixed seed."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Array, ...]] = []
    for k in range(count):
        row = []
        for port in graph.inputs:
            shape, dtype = port.type.shape, port.type.dtype
            if k < 2:
                row.append(np.full(shape, dtype.qmax if k else dtype.qmin, dtype.numpy))
            else:
                row.append(rng.integers(dtype.qmin, dtype.qmax, shape, np.int64, endpoint=True).astype(dtype.numpy))
        rows.append(tuple(row))
    return rows


def write(
    out: Path,
    graph: Graph,
    target: Target,
    converter: ConverterName,
    folder: Path,
    conversion: Conversion,
    vectors: tuple[list[tuple[Array, ...]], list[tuple[Array, ...]]],
) -> None:
    """Complete a converted folder into a package: graph, vectors, manifest (last)."""
    store.save(graph, folder / GRAPH)
    (folder / VECTORS).write_bytes(_npz(vectors))
    names = sorted({*conversion.files, GRAPH, VECTORS})
    manifest = Manifest(
        schema=SCHEMA,
        name=out.name,
        bitship=VERSION,
        target=target.name,
        kind=target.kind,
        converter=converter,
        graph_digest=graph.digest,
        inputs=graph.inputs,
        outputs=graph.outputs,
        macs=graph.macs,
        footprint=conversion.footprint,
        artifacts=conversion.artifacts,
        tools=dict(sorted(conversion.tools.items())),
        files={name: _sha256(folder / name) for name in names},
        schedule=conversion.schedule,
    )
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST).write_bytes(text + b"\n")


def _npz(vectors: tuple[list[tuple[Array, ...]], list[tuple[Array, ...]]]) -> bytes:
    """Return an .npz with fixed dates: input_i and output_i, the vectors along the first axis."""
    arrays: dict[str, Array] = {}
    for prefix, rows in zip(("input", "output"), vectors, strict=True):
        for i, column in enumerate(zip(*rows, strict=True)):
            arrays[f"{prefix}_{i}"] = np.stack(column)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Staging:
    """A hidden folder beside the final one: renamed into place on success, removed on any failure.

    manifest  the file by which a folder is known as a package, which may be overwritten

    SIGTERM is turned into an ordinary exit meanwhile, so that a killed export leaves nothing; what a SIGKILL leaves is
    a hidden folder that carries the dead process's id, and the next export to the same place removes it.
    """

    def __init__(self, out: Path, overwrite: bool, manifest: str = MANIFEST) -> None:
        self.manifest = manifest
        self.out = out
        self.overwrite = overwrite
        self.path = out.parent / f".{out.name}.{os.getpid()}.partial"
        self._handler: object = None

    def __enter__(self) -> Path:
        if self.out.exists() and not self.overwrite:
            raise PackageError(f"{self.out}: already exists; choose another folder, or --overwrite to replace it")
        if self.out.exists() and not (self.out / self.manifest).is_file():
            raise PackageError(f"{self.out}: exists and is not a package; only a package is overwritten")
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            for stale in self.out.parent.glob(f".{self.out.name}.*.partial"):
                if not _alive(stale.name.split(".")[-2]):
                    shutil.rmtree(stale, ignore_errors=True)
            self.path.mkdir()
        except OSError as e:
            raise PackageError(f"{self.path}: cannot be created: {e.strerror}") from None
        self._handler = _on_terminate()
        return self.path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if error is None:
                self._commit()
        finally:
            shutil.rmtree(self.path, ignore_errors=True)
            if self._handler is not None:
                signal.signal(signal.SIGTERM, self._handler)  # type: ignore[arg-type]
        if isinstance(error, OSError) and not isinstance(error, BitshipError):
            raise PackageError(f"{self.out}: cannot be written: {error.strerror}; nothing was left behind") from None

    def _commit(self) -> None:
        if self.out.exists():
            old = self.path.with_suffix(".old")
            self.out.rename(old)
            self.path.rename(self.out)
            shutil.rmtree(old, ignore_errors=True)
        else:
            self.path.rename(self.out)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _on_terminate() -> object:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    try:
        return signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        return None
