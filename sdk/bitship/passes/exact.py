"""Offsets of the least peak, by constraint programming (OR-tools CP-SAT), proven where time suffices.

Buffers alive at once are pairwise ordered: one lies a gap below the other or the other way round. The gap is a size, or
the distance of a kernel that lets its output lie over its operand.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

from bitship.passes.place import Sharing, Slot, peak_of, place

EFFORT = 0.3  # deterministic seconds, the same on every machine: about two real ones; most models take a tenth
PAIRS_MAX = 6000  # a model of more is left to first fit: it would not be finished in time


class Placement(NamedTuple):
    """Offsets by buffer, the arena's bytes, and whether no other offsets need fewer."""

    offsets: dict[str, int]
    peak: int
    optimal: bool


def step_bytes(sizes: Mapping[str, int], output: str, operands: Mapping[str, int]) -> int:
    """Return the fewest bytes that buffers alive at one step take.

    sizes     of all that are alive; operands  distances of those that the output may lie over
    """
    inside = [name for name in operands if name in sizes]
    apart = sum(size for name, size in sizes.items() if name not in inside and name != output)
    over = max(sum(sizes[n] for n in inside), sizes.get(output, 0))
    if len(inside) == 1:
        over = max(over, min(sizes[inside[0]] + operands[inside[0]], sizes[inside[0]] + sizes[output]))
    return apart + over


def least_bytes(lives: Mapping[str, Slot], sharing: Sharing) -> int:
    """Return a size that no placement goes below: the most that is alive at any step, sharing where it may."""
    by_output: dict[str, dict[str, int]] = {}
    for (output, operand), d in sharing.items():
        by_output.setdefault(output, {})[operand] = d
    most = 0
    for step in sorted({s.first for s in lives.values()}):
        alive = {n: s.size for n, s in lives.items() if s.first <= step <= s.last}
        output = next((o for o in by_output if o in alive and lives[o].first == step), "")
        most = max(most, step_bytes(alive, output, by_output.get(output, {})))
    return most


def place_exactly(lives: Mapping[str, Slot], sharing: Sharing, alignment: int) -> Placement:
    """Return the best offsets found: first fit's, or better ones when the solver is installed and time suffices."""
    offsets = place(lives, sharing, alignment)
    peak, least = peak_of(lives, offsets), least_bytes(lives, sharing)
    if peak <= least:
        return Placement(offsets, peak, True)
    pairs = [(a, b) for a, b in combinations(lives, 2) if lives[a].alive_with(lives[b])]
    found = _solve(lives, pairs, sharing, alignment, offsets, least) if len(pairs) <= PAIRS_MAX else None
    return found or Placement(offsets, peak, False)


def place_first_fit(lives: Mapping[str, Slot], sharing: Sharing, alignment: int) -> Placement:
    """Return first fit's offsets."""
    offsets = place(lives, sharing, alignment)
    peak = peak_of(lives, offsets)
    return Placement(offsets, peak, peak <= least_bytes(lives, sharing))


def _gaps(a: str, b: str, lives: Mapping[str, Slot], sharing: Sharing) -> Iterator[int]:
    """Yield what must lie between the starts: of a below b, of b below a."""
    for low, high in ((a, b), (b, a)):
        size = lives[low].size
        yield min(size, sharing.get((low, high), size))


def _solve(
    lives: Mapping[str, Slot],
    pairs: list[tuple[str, str]],
    sharing: Sharing,
    unit: int,
    hint: Mapping[str, int],
    least: int,
) -> Placement | None:
    """Return the solver's placement; None when it is not installed or found nothing better than the hint."""
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        return None
    limit = peak_of(lives, hint)
    model = cp_model.CpModel()
    start = {n: model.new_int_var(0, (limit - s.size) // unit, n) for n, s in lives.items()}
    peak = model.new_int_var(-(-least // unit), limit // unit, "peak")
    for name, life in lives.items():
        model.add(start[name] + life.size // unit <= peak)
        model.add_hint(start[name], hint[name] // unit)
    for a, b in pairs:
        below, above = (-(-gap // unit) for gap in _gaps(a, b, lives, sharing))
        first = model.new_bool_var("")
        model.add(start[a] + below <= start[b]).only_enforce_if(first)
        model.add(start[b] + above <= start[a]).only_enforce_if(~first)
        model.add_hint(first, hint[a] + below * unit <= hint[b])
    model.minimize(peak)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    solver.parameters.max_deterministic_time = EFFORT
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    offsets = {name: solver.value(at) * unit for name, at in start.items()}
    return Placement(offsets, peak_of(lives, offsets), status == cp_model.OPTIMAL)
