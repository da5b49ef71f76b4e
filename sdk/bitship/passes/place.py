"""Offsets of buffers in one arena: nothing alive at once overlaps, save an output its operand where a kernel allows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Sharing = Mapping[
    tuple[str, str], int
]  # (output, operand): least offset of the operand less that of the output, aligned


@dataclass(frozen=True)
class Slot:
    """Bytes [offset, offset + size) of the arena, held from step ``first`` to step ``last``, both included.

    Step 0 is before the first node (graph inputs are written), step i + 1 runs node i, the last step reads outputs.
    ``size`` is rounded up to the alignment. ``memory`` is the name of the region, empty for the target's RAM.
    """

    offset: int
    size: int
    first: int
    last: int
    memory: str = ""

    def alive_with(self, other: "Slot") -> bool:
        """Whether both are held at some step."""
        return self.first <= other.last and other.first <= self.last


def forbidden(a: str, b: str, lives: Mapping[str, Slot], at: int, sharing: Sharing) -> tuple[int, int] | None:
    """Return the open interval of offsets that ``a`` may not have while ``b`` lies at ``at``; None: any."""
    first, second = lives[a], lives[b]
    if not first.alive_with(second):
        return None
    low, high = at - first.size, at + second.size
    if (b, a) in sharing:  # a is the operand
        high = min(high, at + sharing[b, a])
    if (a, b) in sharing:
        low = max(low, at - sharing[a, b])
    return (low, high) if low < high else None


def first_fit(lives: Mapping[str, Slot], order: Sequence[str], sharing: Sharing, alignment: int) -> dict[str, int]:
    """Return offsets: every buffer in this order at the lowest one that is free."""
    placed: dict[str, int] = {}
    for name in order:
        taken = (forbidden(name, other, lives, at, sharing) for other, at in placed.items())
        offset = 0
        for low, high in sorted(t for t in taken if t is not None):
            if low < offset < high:
                offset = -(-high // alignment) * alignment
        placed[name] = offset
    return placed


def peak_of(lives: Mapping[str, Slot], offsets: Mapping[str, int]) -> int:
    """Return the bytes of the arena."""
    return max((offsets[n] + life.size for n, life in lives.items()), default=0)


def _orders(lives: Mapping[str, Slot]) -> Iterator[list[str]]:
    """Orders worth trying: by size, by first use, by last use, by what is alive at the fullest step."""
    yield sorted(lives, key=lambda n: (-lives[n].size, lives[n].first, n))
    yield sorted(lives, key=lambda n: (lives[n].first, -lives[n].size, n))
    yield sorted(lives, key=lambda n: (-lives[n].last, -lives[n].size, n))
    yield sorted(lives, key=lambda n: (-lives[n].size * (lives[n].last - lives[n].first + 1), n))


def place(lives: Mapping[str, Slot], sharing: Sharing, alignment: int) -> dict[str, int]:
    """Return the offsets of the best of several first-fit placements."""
    found = (first_fit(lives, order, sharing, alignment) for order in _orders(lives))
    return min(found, key=lambda offsets: peak_of(lives, offsets))
