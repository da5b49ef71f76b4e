"""The coder's tables: built from counts with integers only, as bytes, checked (docs/split.md).

A channel has an offset and 32 codes: code k in 0..30 is the symbol offset + k, code 31 the escape. A row of 33
cumulative frequencies starts at 0, rises strictly and ends at 4096.
"""

from dataclasses import dataclass

import numpy as np

from bitship.errors import FormatError
from bitship.graph.base import Array
from bitship.split.package import block_bytes, table_hash

TOTAL = 4096
CODES = 32
ESCAPE = CODES - 1
_LOWEST = -128


@dataclass(frozen=True)
class Tables:
    """One rung's tables. offsets [C] int8, cumulative [C, 33] uint16."""

    offsets: Array
    cumulative: Array

    def __post_init__(self) -> None:
        channels = self.offsets.shape[0] if self.offsets.ndim == 1 else 0
        if channels < 1 or self.cumulative.shape != (channels, CODES + 1):
            raise FormatError(
                f"tables: offsets {self.offsets.shape}, cumulative {self.cumulative.shape}: (C,) and (C, 33) are needed"
            )
        wide = self.cumulative.astype(np.int64)
        bad = (wide[:, 0] != 0) | (wide[:, -1] != TOTAL) | (np.diff(wide, axis=1) < 1).any(axis=1)
        if bad.any():
            raise FormatError(
                f"tables: channel {int(bad.argmax())}: a row starts at 0, rises strictly, ends at {TOTAL}"
            )
        object.__setattr__(self, "offsets", np.ascontiguousarray(self.offsets, np.int8))
        object.__setattr__(self, "cumulative", np.ascontiguousarray(self.cumulative, np.uint16))

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return len(self.offsets)

    def block(self) -> bytes:
        """Return the bytes that ``tables.bin`` holds: the offsets, then the rows, little-endian."""
        return self.offsets.tobytes() + self.cumulative.astype("<u2").tobytes()

    def hash(self) -> bytes:
        """Return the 8 bytes that name these tables."""
        return table_hash(self.block())

    def bits(self, counts: Array) -> float:
        """Return what symbols of these counts [C, 256] cost, in bits, without the state's four bytes."""
        cost = np.log2(TOTAL / np.diff(self.cumulative.astype(np.float64), axis=1))
        cost[:, ESCAPE] += 8
        return float((_by_code(counts, self.offsets) * cost).sum())


def parse(block: bytes, channels: int) -> Tables:
    """Read a block; FormatError says what is wrong with it."""
    if channels < 1 or len(block) != block_bytes(channels):
        raise FormatError(
            f"tables: {len(block)} B for {channels} channels: {block_bytes(max(channels, 1))} B are needed"
        )
    rows = np.frombuffer(block, "<u2", offset=channels).reshape(channels, CODES + 1)
    return Tables(np.frombuffer(block, np.int8, channels), rows.astype(np.uint16))


def count(symbols: Array) -> Array:
    """Count symbols [N, C, H, W] int8: int64 [C, 256], the first column that of -128."""
    channels = symbols.shape[1]
    flat = symbols.astype(np.int64).transpose(1, 0, 2, 3).reshape(channels, -1) - _LOWEST
    return np.stack([np.bincount(row, minlength=256) for row in flat])


def build(counts: Array) -> Tables:
    """Make tables for symbols that occur as in counts [C, 256] (integers >= 0); the same on every machine."""
    if counts.ndim != 2 or counts.shape[1] != 256 or counts.shape[0] < 1 or (counts < 0).any():
        raise FormatError(f"tables: counts {counts.shape}: [C, 256] integers of 0 and more are needed")
    offsets = [_offset([int(n) for n in row]) for row in counts]
    rows = _by_code(counts, np.array(offsets, np.int64))
    return Tables(np.array(offsets, np.int8), np.array([_cumulative([int(n) for n in row]) for row in rows], np.uint16))


def _offset(row: list[int]) -> int:
    """Return the symbol of code 0, so that the upper median is in the middle."""
    total, seen, median = sum(row), 0, 0
    for i, n in enumerate(row if total else ()):
        seen += n
        if seen > total // 2:
            median = i + _LOWEST
            break
    return max(-128, min(127, median - 15))


def _by_code(counts: Array, offsets: Array) -> Array:
    """Return how often every code occurs: [C, 32]."""
    result = np.zeros((len(counts), CODES), np.int64)
    for c, (row, offset) in enumerate(zip(counts, offsets, strict=True)):
        direct = row[int(offset) - _LOWEST :][:ESCAPE]
        result[c, : len(direct)] = direct
        result[c, ESCAPE] = row.sum() - direct.sum()
    return result


def _cumulative(codes: list[int]) -> list[int]:
    """Return frequencies of at least 1 that sum to 4096, cumulated."""
    weights = [2 * n + 1 for n in codes]
    total = sum(weights)
    found = [max(1, w * TOTAL // total) for w in weights]
    left = TOTAL - sum(found)
    while left:
        largest = found.index(max(found))
        step = left if left > 0 else max(left, 1 - found[largest])
        found[largest] += step
        left -= step
    result = [0]
    for f in found:
        result.append(result[-1] + f)
    return result
