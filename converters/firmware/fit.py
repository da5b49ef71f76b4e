"""Which schedules of a graph fit a RAM budget, and what they cost: stages of every length, strips and tiles."""

from collections.abc import Iterator
from dataclasses import dataclass

from bitship.converters.firmware.program import Lowered
from bitship.converters.firmware.stage import row_bytes
from bitship.errors import DoesNotFitError, UnsupportedError
from bitship.graph import Graph
from bitship.passes.plan import Plan
from bitship.passes.stage import Geometry, Halo, Stage, geometry, splits

STRIP_ROWS = (1, 2, 4, 8, 16)
TILE_GRIDS = ((2, 1), (2, 2), (3, 1), (3, 3), (4, 1), (4, 4), (5, 5), (6, 6), (8, 8))

EXACT_TRIES = 8  # schedules planned exactly where first fit is over the budget
EXACT_REACH = 1.3  # and by how much, at most

# Instructions, for choosing between schedules alone: what a call, a tensor's step and a moved byte add; per MAC.
_CALL, _STEP, _BYTE, _MAC = 90.0, 25.0, 0.3, 1.5


def title(stage: Stage) -> str:
    """A few words on a schedule."""
    image = ", image streamed" if stage.streamed else ""
    if stage.halo is Halo.CACHED:
        rows = "1 row" if stage.rows == 1 else f"{stage.rows} rows"
        return f"{stage.nodes} nodes by strips of {rows}{image}"
    return f"{stage.nodes} nodes by tiles of {stage.rows} x {stage.columns}"


@dataclass(frozen=True)
class Option:
    """A schedule and what it needs.

    stage     None: every node whole
    arena     bytes, planned; optimal  whether it is known that no plan of this schedule needs fewer
    macs      of one inference, halo included
    overhead  instructions that the schedule adds: estimated, for choosing
    """

    stage: Stage | None
    arena: int
    macs: int
    overhead: float
    optimal: bool = True

    @property
    def title(self) -> str:
        """A few words."""
        return "whole" if self.stage is None else title(self.stage)


def options(lowered: Lowered, streamed: bool = False) -> list[Option]:
    """Return every schedule considered, the whole graph first; sizes by first fit.

    streamed  the image arrives by rows: only strips are considered
    """
    graph = lowered.graph
    found = []
    if not streamed:
        found.append(Option(None, lowered.plan(None)[1].peak, graph.macs, 0.0))
    for stage in _stages(graph, streamed):
        if found and not streamed and _least(graph, stage) >= found[0].arena:
            continue
        try:
            g = geometry(graph, stage)
            made = lowered.plan(lowered.stage(stage), exact=False)[1]
        except UnsupportedError:
            continue
        extra = g.macs - sum(graph.node_macs(n) for n in g.nodes)
        cost = extra * _MAC + _added(g)
        found.append(Option(stage, made.peak, graph.macs + extra, cost, made.optimal))
    return found


def _least(graph: Graph, stage: Stage) -> int:
    """Return bytes that a stage without a streamed image cannot do without: image and output, both whole."""
    return graph.inputs[0].type.nbytes + graph.types[graph.nodes[stage.nodes - 1].output].nbytes


def _stages(graph: Graph, streamed: bool) -> Iterator[Stage]:
    for nodes in splits(graph):
        height, width = graph.inputs[0].type.shape[1:3]
        for rows in STRIP_ROWS:
            if rows <= height:
                yield Stage(nodes, rows, width, Halo.CACHED, streamed)
        if streamed:
            continue
        height, width = graph.types[graph.nodes[nodes - 1].output].shape[1:3]
        for down, across in TILE_GRIDS:
            if down <= height and across <= width:
                yield Stage(nodes, -(-height // down), -(-width // across), Halo.RECOMPUTED)


def _added(g: Geometry) -> float:
    """Instructions of loops, calls and copies that the whole graph does not have."""
    if g.stage.halo is Halo.CACHED:
        added = 0.0
        for now in g.strips:
            for name, (base, start, to) in now.items():
                added += _STEP + (_CALL if to > start else 0) + (start - base) * row_bytes(g, name) * _BYTE
        return added
    tiles = g.steps[0] * g.steps[1]
    moved = sum(region.pixels for tile in g.tiles for region in (tile[g.source], tile[g.output]))
    return tiles * len(g.nodes) * (_CALL + _STEP) + moved * _BYTE


def pareto(found: list[Option]) -> list[Option]:
    """Return the options of which none needs fewer bytes at no more cost, the cheapest first."""
    kept: list[Option] = []
    for option in sorted(found, key=lambda o: (o.overhead, o.arena)):
        if not kept or option.arena < kept[-1].arena:
            kept.append(option)
    return kept


def choose(lowered: Lowered, arena_bytes: int | None, streamed: bool | None = False) -> Stage | None:
    """Return the cheapest schedule whose arena fits, None for the whole graph.

    Without a budget: the whole graph, or the smallest arena where the image is streamed.
    streamed  whether the image arrives by rows; None: where the whole graph does not fit and it is the cheapest way

    Raises DoesNotFitError that names the tensors of the fullest step, the bytes over, and what was tried.
    """
    if not streamed and (arena_bytes is None or lowered.plan(None)[1].peak <= arena_bytes):
        return None
    found = [o for s in ((False, True) if streamed is None else (streamed,)) for o in options(lowered, s)]
    if found and arena_bytes is None:
        return pareto(found)[-1].stage
    tries = EXACT_TRIES
    for option in sorted(found, key=lambda o: (o.overhead, o.arena)):
        if arena_bytes is None or option.arena <= arena_bytes:
            return option.stage
        if option.stage and not option.optimal and tries and option.arena <= EXACT_REACH * arena_bytes:
            tries -= 1
            if lowered.plan(lowered.stage(option.stage))[1].peak <= arena_bytes:
                return option.stage
    raise DoesNotFitError(_why(lowered, found, arena_bytes or 0, streamed))


def _why(lowered: Lowered, found: list[Option], arena_bytes: int, streamed: bool | None) -> str:
    name = lowered.graph.name
    if not found:
        return f"{name}: no beginning of it can run by strips of the image; do without a streamed image"
    best = min(found, key=lambda o: o.arena)
    plan = lowered.plan(None if best.stage is None else lowered.stage(best.stage), exact=False)[1]
    hint = "" if streamed is not False else "; a streamed image needs less where the image itself is at the peak"
    return (
        f"{name}: the arena needs {best.arena} B, {arena_bytes} B are allowed, {best.arena - arena_bytes} B too "
        f"many; schedules tried: {len(found)}, the smallest: {best.title}; at its peak are {_peak_set(plan)}; "
        f"use a smaller input or model, or more RAM{hint}"
    )


def _peak_set(plan: Plan) -> str:
    """Return the buffers alive at the fullest step, the largest first."""
    steps = {slot.first for slot in plan.slots.values()}
    alive = {t: [(s.size, n) for n, s in plan.slots.items() if s.first <= t <= s.last] for t in steps}
    fullest = max(alive.values(), key=lambda buffers: sum(size for size, _ in buffers))
    shown = sorted(fullest, reverse=True)
    rest = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return ", ".join(f"'{name}' ({size} B)" for size, name in shown[:4]) + rest
