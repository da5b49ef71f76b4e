"""Buffers over several memories: what is read and written most goes into the fastest that has room for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bitship.graph import Graph
from bitship.passes.exact import place_exactly
from bitship.passes.place import Sharing, Slot, peak_of, place
from bitship.passes.plan import ALIGNMENT, Plan, buffers_of, scratch_name
from bitship.passes.views import View

SCRATCH_READS = 8  # a kernel goes over its scratch memory this often, about


@dataclass(frozen=True)
class Region:
    """A memory that tensors may lie in; ``name`` is empty for the target's ``ram``."""

    name: str
    nbytes: int


def spread(
    graph: Graph,
    found: Plan,
    overlaps: Mapping[str, Mapping[str, int]],
    regions: Sequence[Region],
    alignment: int = ALIGNMENT,
) -> Plan:
    """Return the plan of one arena as one of several: each buffer whole in one memory, with its offset there.

    graph    in the order of the plan; overlaps  as ``plan``'s
    regions  in order of speed; the last takes what is left, even if it is too much: the caller compares

    By bytes moved (accesses times size) the buffers in turn take the fastest memory in which all that have chosen it so
    far still find a place. The offsets in each memory are of the least peak.
    """
    lives, sharing = buffers_of(graph, found, overlaps, alignment)
    rank = _traffic(graph, found, lives)
    left = sorted(lives, key=lambda n: (-rank[n], lives[n].first, n))
    slots: dict[str, Slot] = {}
    peaks: dict[str, int] = {}
    optimal = True
    for i, region in enumerate(regions):
        chosen = left if i == len(regions) - 1 else _fitting(lives, left, sharing, alignment, region.nbytes)
        part = {name: life for name, life in lives.items() if name in chosen}
        placed = place_exactly(part, _within(sharing, part), alignment)
        slots |= {n: replace(s, offset=placed.offsets[n], memory=region.name) for n, s in part.items()}
        peaks[region.name] = placed.peak
        optimal &= placed.optimal
        left = [name for name in left if name not in part]
    elsewhere = {name: peak for name, peak in peaks.items() if name}
    return replace(found, slots=slots, peak=peaks.get("", 0), elsewhere=elsewhere, optimal=optimal)


def _fitting(
    lives: Mapping[str, Slot], order: Sequence[str], sharing: Sharing, alignment: int, nbytes: int
) -> list[str]:
    """Return the buffers, taken in this order, that find a place together; all of them where they do."""
    if place_exactly(lives_of(lives, order), _within(sharing, set(order)), alignment).peak <= nbytes:
        return list(order)
    chosen: list[str] = []
    for name in order:
        part = lives_of(lives, [*chosen, name])
        if peak_of(part, place(part, _within(sharing, part), alignment)) <= nbytes:
            chosen.append(name)
    return chosen


def lives_of(lives: Mapping[str, Slot], names: Sequence[str]) -> dict[str, Slot]:
    """Return some of the buffers, in the order they have among all."""
    wanted = set(names)
    return {name: life for name, life in lives.items() if name in wanted}


def _within(sharing: Sharing, names: Mapping[str, Slot] | set[str]) -> dict[tuple[str, str], int]:
    return {(a, b): d for (a, b), d in sharing.items() if a in names and b in names}


def _traffic(graph: Graph, found: Plan, lives: Mapping[str, Slot]) -> dict[str, int]:
    """Return the bytes moved by buffer: once for every node that reads or writes it, scratch more often."""
    times = dict.fromkeys(lives, 0)
    for node in graph.nodes:
        for name in (*node.inputs, node.output):
            buffer = found.views.get(name, View(name)).buffer
            if buffer in times:
                times[buffer] += 1
        if scratch_name(node.output) in times:
            times[scratch_name(node.output)] = SCRATCH_READS
    return {name: count * lives[name].size for name, count in times.items()}
