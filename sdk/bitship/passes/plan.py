"""Memory plan: one static arena, every tensor at a fixed offset, sharing bytes with tensors that are dead by then."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bitship.graph import Graph, Node
from bitship.passes.exact import place_exactly, place_first_fit
from bitship.passes.place import Slot
from bitship.passes.views import View, Views, reshapes, resolve

ALIGNMENT = 16


@dataclass(frozen=True)
class Plan:
    """Where everything lies.

    slots    by buffer name: a tensor's, or ``<node>.scratch``
    views    tensors that are another's bytes: name to the buffer, or constant, and the byte in it where they begin
    peak     bytes of the arena in the target's RAM
    bound    bytes alive at the fullest step: what a plan needs in which nothing lies over anything
    optimal  whether it is proven that no placement of these tensors in this order needs fewer bytes
    elsewhere  bytes of arenas in other memories than the target's RAM, by region
    """

    slots: Mapping[str, Slot]
    views: Views = field(default_factory=dict)
    peak: int = 0
    bound: int = 0
    optimal: bool = False
    elsewhere: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of all arenas."""
        return self.peak + sum(self.elsewhere.values())

    @property
    def aliases(self) -> dict[str, str]:
        """The buffer (or constant) of every tensor that is another's bytes."""
        return {name: view.buffer for name, view in self.views.items()}

    def root(self, name: str) -> str:
        """Return the buffer (or the constant) that holds a tensor."""
        return self.views.get(name, View(name)).buffer

    def slot(self, name: str) -> Slot | None:
        """Return where a tensor lies, None for a constant."""
        buffer, shift = self.views.get(name, View(name))
        held = self.slots.get(buffer)
        return held and replace(held, offset=held.offset + shift, size=held.size - shift)


def scratch_name(node: str) -> str:
    """Return the buffer name of a node's scratch memory."""
    return f"{node}.scratch"


def plan(
    graph: Graph,
    scratch: Mapping[str, int] | None = None,
    alignment: int = ALIGNMENT,
    aliases: Mapping[str, str] | None = None,
    overlaps: Mapping[str, Mapping[str, int]] | None = None,
    held: Mapping[str, Slot] | None = None,
    views: Views | None = None,
    exact: bool = True,
) -> Plan:
    """Place every tensor that is not a constant, and the scratch memory of nodes.

    scratch   bytes by node (its output's name)
    aliases   tensors that need no memory of their own, beside reshapes: name to the tensor whose memory they share
    overlaps  by node (its output's name), by operand: how many bytes the operand must start behind the output for the
              two to share memory, should the operand be dead after the node (``Call.overlap``)
    held      buffers whose size or life is not what the graph says, or that it does not have; offsets do not matter
    views     tensors that are written into, or read from, another's memory: name to where
    exact     look for the placement of the least peak; else first fit, in milliseconds

    Deterministic.
    """
    known = all_views(graph, aliases or {}, views or {})
    lives = _lives(graph, known, views or {}, scratch or {}, alignment) | dict(held or {})
    sharing = _sharing(graph, lives, known, overlaps or {}, alignment)
    found = (place_exactly if exact else place_first_fit)(lives, sharing, alignment)
    slots = {name: replace(life, offset=found.offsets[name]) for name, life in lives.items()}
    return Plan(slots, known, found.peak, _bound(lives, len(graph.nodes) + 2), found.optimal)


def all_views(graph: Graph, aliases: Mapping[str, str], views: Views) -> dict[str, View]:
    """Return every tensor that is another's bytes: the known ones and reshapes."""
    return resolve({**reshapes(graph), **{name: View(of) for name, of in aliases.items()}, **views})


def buffers_of(
    graph: Graph, found: Plan, overlaps: Mapping[str, Mapping[str, int]], alignment: int
) -> tuple[dict[str, Slot], dict[tuple[str, str], int]]:
    """Return the lives of a plan's buffers, at offset 0, and which of them may lie over one another."""
    lives = {name: replace(slot, offset=0) for name, slot in found.slots.items()}
    return lives, _sharing(graph, lives, found.views, overlaps, alignment)


def allowed_overlaps(node: Node, known: Views, overlaps: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return what ``overlaps`` says of a node, by buffer: how far the operand's must begin behind the output's.

    An operand read under two names, of which one must stay, stays.
    """
    allowed = overlaps.get(node.output, {})
    stay = {known.get(i, View(i)).buffer for i in node.inputs if i not in allowed}
    into = known.get(node.output, View(node.output)).shift
    found: dict[str, int] = {}
    for operand, distance in allowed.items():
        buffer, shift = known.get(operand, View(operand))
        if buffer not in stay:
            found[buffer] = max(distance + into - shift, found.get(buffer, distance + into - shift))
    return found


def _sharing(
    graph: Graph,
    lives: Mapping[str, Slot],
    known: Views,
    overlaps: Mapping[str, Mapping[str, int]],
    alignment: int,
) -> dict[tuple[str, str], int]:
    """Return the distance of every (output, operand) that may share: the operand dies where the output begins."""
    found: dict[tuple[str, str], int] = {}
    for node in graph.nodes:
        output = known.get(node.output, View(node.output)).buffer
        for operand, distance in allowed_overlaps(node, known, overlaps).items():
            both = {operand, output} <= lives.keys() and operand != output
            if both and lives[operand].last == lives[output].first:
                found[output, operand] = -(-distance // alignment) * alignment
    return found


def _lives(graph: Graph, known: Views, views: Views, scratch: Mapping[str, int], alignment: int) -> dict[str, Slot]:
    """Return every buffer's size and life, at offset 0; a buffer begins with the first of its views that is written."""

    def rounded(nbytes: int) -> int:
        return -(-nbytes // alignment) * alignment

    lives: dict[str, Slot] = {}

    def touch(name: str, step: int) -> None:
        buffer = known.get(name, View(name)).buffer
        if buffer not in graph.constants:
            old = lives.get(buffer, Slot(0, rounded(graph.types[buffer].nbytes), step, step))
            lives[buffer] = replace(old, last=step)

    for port in graph.inputs:
        touch(port.name, 0)
    for step, node in enumerate(graph.nodes, 1):
        for name in node.inputs:
            touch(name, step)
        if node.output not in known or node.output in views:
            touch(node.output, step)
        if scratch.get(node.output):
            lives[scratch_name(node.output)] = Slot(0, rounded(scratch[node.output]), step, step)
    for port in graph.outputs:
        touch(port.name, len(graph.nodes) + 1)
    return lives


def _bound(lives: Mapping[str, Slot], steps: int) -> int:
    change = [0] * (steps + 1)
    for s in lives.values():
        change[s.first] += s.size
        change[s.last + 1] -= s.size
    most = now = 0
    for delta in change:
        now += delta
        most = max(most, now)
    return most
