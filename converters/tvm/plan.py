"""Where every tensor lives in the one workspace: greedy by size, lifetimes in node indices."""

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64


@dataclass(frozen=True)
class Block:
    """A tensor or scratch of ``nbytes`` that must survive nodes first..last, both included."""

    name: str
    nbytes: int
    first: int
    last: int


def aligned(nbytes: int) -> int:
    """Round up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def place(blocks: Sequence[Block]) -> tuple[dict[str, int], int]:
    """Return the byte offset of every block and the size of the workspace.

    Largest first, each at the lowest offset where no block that lives at the same time is.
    """
    placed: list[tuple[int, Block]] = []
    offsets: dict[str, int] = {}
    for block in sorted(blocks, key=lambda b: (-b.nbytes, b.first, b.name)):
        at = 0
        for start, other in sorted(placed, key=lambda p: p[0]):
            if other.last < block.first or block.last < other.first:
                continue
            if at + block.nbytes <= start:
                break
            at = max(at, aligned(start + other.nbytes))
        offsets[block.name] = at
        placed.append((at, block))
    return offsets, max((aligned(start + b.nbytes) for start, b in placed), default=0)
