"""A split package: head, tail, rungs and coder tables in one folder (docs/split.md)."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from bitship.errors import PackageError
from bitship.graph import Graph, store
from bitship.graph.base import Array
from bitship.package import Staging

MANIFEST, HEAD, TAIL, TABLES = "split.json", "head.bitship", "tail.bitship", "tables.bin"
FORMAT = 1
HASH_BYTES = 8
MARGINS = 256


class Rung(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rate of a head.

    shift           the symbols are the features' codes shifted right by it, rounded
    table_hash      of this rung's block in tables.bin, 16 hexadecimal digits
    mean_bytes      measured mean of a frame, header and CRC included, on ``measured_on`` inputs; 0 where not measured
    p99_bytes       its 99th percentile
    accuracy        measured share of right answers of head and tail at this rung; 0 where not measured
    """

    shift: int
    table_hash: str
    mean_bytes: float = 0.0
    p99_bytes: float = 0.0
    accuracy: float = 0.0
    measured_on: int = 0


class Exit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The head's own classifier.

    confidence  256 values of 65,535: the calibrated probability of being right, by the margin between the two largest
                codes of the exit's logits
    threshold   from this confidence on, the local answer is taken and nothing is sent
    accuracy    measured share of right local answers over all inputs; 0 where not measured
    """

    confidence: tuple[int, ...]
    threshold: int
    accuracy: float = 0.0


class SplitManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``split.json`` holds. ``features`` is [height, width, channels]; ``zero_point`` that of their codes."""

    name: str
    head_digest: str
    tail_digest: str
    model_hash: str
    features: tuple[int, int, int]
    zero_point: int
    classes: int
    rungs: tuple[Rung, ...]
    exit: Exit
    format: int = FORMAT


def model_hash(head_digest: str, tail_digest: str) -> bytes:
    """Return the 8 bytes that say which head and tail belong together."""
    return hashlib.sha256(f"{head_digest}\n{tail_digest}\n".encode()).digest()[:HASH_BYTES]


def table_hash(block: bytes) -> bytes:
    """Return the 8 bytes that say which tables a stream was coded with."""
    return hashlib.sha256(block).digest()[:HASH_BYTES]


def block_bytes(channels: int) -> int:
    """Return the size of one rung's tables."""
    return channels * (1 + 2 * 33)


def symbols_of(codes: Array, zero_point: int, shift: int) -> Array:
    """Return a rung's symbols, int8 of the codes' shape: codes less their zero point, shifted right and rounded."""
    wide = codes.astype(np.int32) - zero_point
    return np.clip((wide + ((1 << shift) >> 1)) >> shift, -128, 127).astype(np.int8)


def codes_of(symbols: Array, zero_point: int, shift: int) -> Array:
    """Return the int8 codes that the tail is given for symbols."""
    return np.clip((symbols.astype(np.int32) << shift) + zero_point, -128, 127).astype(np.int8)


def margins_of(logits: Array) -> Array:
    """Return the difference of the two largest codes of each row [N, classes], 0 to 255; 255 for a single class."""
    top = np.sort(logits.astype(np.int32), axis=1)
    return top[:, -1] - top[:, -2] if top.shape[1] > 1 else np.full(len(top), MARGINS - 1)


@dataclass(frozen=True)
class SplitPackage:
    """A split package on disk."""

    path: Path
    manifest: SplitManifest

    @cached_property
    def head(self) -> Graph:
        """The head's integer graph."""
        return store.load(self.path / HEAD)

    @cached_property
    def tail(self) -> Graph:
        """The tail's integer graph."""
        return store.load(self.path / TAIL)

    @cached_property
    def _tables(self) -> bytes:
        try:
            return (self.path / TABLES).read_bytes()
        except OSError as e:
            raise PackageError(f"{self.path / TABLES}: cannot be read: {e.strerror}") from None

    def tables(self, rung: int) -> bytes:
        """Return a rung's block of tables; PackageError for a rung there is none of or a block of another hash."""
        rungs = self.manifest.rungs
        if not 0 <= rung < len(rungs):
            raise PackageError(f"{self.path}: rung {rung}: the package has 0 to {len(rungs) - 1}")
        size = block_bytes(self.manifest.features[2])
        block = self._tables[rung * size : (rung + 1) * size]
        if table_hash(block).hex() != rungs[rung].table_hash:
            raise PackageError(f"{self.path / TABLES}: rung {rung}: the tables are not those of {MANIFEST}")
        return block


def write(path: Path, manifest: SplitManifest, head: Graph, tail: Graph, tables: bytes) -> SplitPackage:
    """Write a package whole or not at all; an older one of the same name is replaced."""
    with Staging(path, True, MANIFEST) as made:
        store.save(head, made / HEAD)
        store.save(tail, made / TAIL)
        (made / TABLES).write_bytes(tables)
        (made / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    return SplitPackage(path, manifest)


Manifest = TypeVar("Manifest")


def decoded(file: Path, kind: type[Manifest], what: str, hint: str = "") -> Manifest:
    """Return a folder's manifest; PackageError where there is none (``what``), or it is damaged."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except OSError as e:
        raise PackageError(f"{file.parent}: {what}: {e.strerror}{hint}") from None
    except msgspec.DecodeError as e:
        raise PackageError(f"{file}: {e}") from None


def check_digest(file: Path, graph: Graph, digest: str, manifest: str) -> None:
    """Raise PackageError unless a graph is the one that its folder's manifest names."""
    if graph.digest != digest:
        raise PackageError(f"{file}: digest {graph.digest[:12]}: {manifest} has {digest[:12]}")


def read(path: Path) -> SplitPackage:
    """Open a package and check its graphs against its hashes; PackageError says what is damaged."""
    manifest = decoded(path / MANIFEST, SplitManifest, "no split package", "; bitship split demo makes one")
    if manifest.format != FORMAT:
        raise PackageError(f"{path / MANIFEST}: format {manifest.format}: this bitship reads {FORMAT}")
    package = SplitPackage(path, manifest)
    check_digest(path / HEAD, package.head, manifest.head_digest, MANIFEST)
    check_digest(path / TAIL, package.tail, manifest.tail_digest, MANIFEST)
    if model_hash(manifest.head_digest, manifest.tail_digest).hex() != manifest.model_hash:
        raise PackageError(f"{path / MANIFEST}: model_hash is not that of head and tail")
    for rung in range(len(manifest.rungs)):
        package.tables(rung)
    return package
