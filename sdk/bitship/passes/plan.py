"""Memory plan: one static arena, every tensor at a fixed offset, sharing bytes with tensors that are dead by then."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bitship.graph import Graph
from bitship.graph.ops import Reshape
from bitship.passes.exact import place_exactly, place_first_fit
from bitship.passes.place import Slot

ALIGNMENT = 16


@dataclass(frozen=True)
class Plan:
    """Where everything lies.

    slots    by buffer name: a tensor's, or ``<node>.scratch``
    aliases  tensors that are another tensor's bytes (reshape): name to the buffer's, or a constant's, name
    peak     bytes of the arena
    bound    bytes alive at the fullest step: what a plan needs in which nothing lies over anything
    optimal  whether it is proven that no placement of these tensors in this order needs fewer bytes
    """

    slots: Mapping[str, Slot]
    aliases: Mapping[str, str] = field(default_factory=dict)
    peak: int = 0
    bound: int = 0
    optimal: bool = False

    def root(self, name: str) -> str:
        """Return the buffer (or the constant) that holds a tensor."""
        return self.aliases.get(name, name)

    def slot(self, name: str) -> Slot | None:
        """Return where a tensor lies, None for a constant."""
        return self.slots.get(self.root(name))


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
    exact: bool = True,
) -> Plan:
    """Place every tensor that is not a constant, and the scratch memory of nodes.

    scratch   bytes by node (its output's name)
    aliases   tensors that need no memory of their own, beside reshapes: name to the tensor whose memory they share
    overlaps  by node (its output's name), by operand: how many bytes the operand must start behind the output for the
              two to share memory, should the operand be dead after the node (``Call.overlap``)
    held      buffers whose size or life is not what the graph says, or that it does not have; offsets do not matter
    exact     look for the placement of the least peak; else first fit, in milliseconds

    Deterministic.
    """
    aliases = all_aliases(graph, aliases or {})
    lives = _lives(graph, aliases, scratch or {}, alignment) | dict(held or {})
    sharing = _sharing(graph, lives, aliases, overlaps or {}, alignment)
    found = (place_exactly if exact else place_first_fit)(lives, sharing, alignment)
    slots = {name: replace(life, offset=found.offsets[name]) for name, life in lives.items()}
    return Plan(slots, aliases, found.peak, _bound(lives, len(graph.nodes) + 2), found.optimal)


def _sharing(
    graph: Graph,
    lives: Mapping[str, Slot],
    aliases: Mapping[str, str],
    overlaps: Mapping[str, Mapping[str, int]],
    alignment: int,
) -> dict[tuple[str, str], int]:
    """Return the distance of every (output, operand) that may share: the operand dies where the output begins.

    An operand read under two names, of which one must stay, stays.
    """
    found: dict[tuple[str, str], int] = {}
    for node in graph.nodes:
        allowed = overlaps.get(node.output, {})
        stay = {aliases.get(i, i) for i in node.inputs if i not in allowed}
        for operand, distance in allowed.items():
            root = aliases.get(operand, operand)
            if not {root, node.output} <= lives.keys() or root in stay:
                continue
            if lives[root].last == lives[node.output].first:
                rounded = -(-distance // alignment) * alignment
                found[node.output, root] = max(rounded, found.get((node.output, root), rounded))
    return found


def all_aliases(graph: Graph, known: Mapping[str, str]) -> dict[str, str]:
    """Return every tensor that is another's bytes, the known ones and reshapes: to the buffer's or constant's name."""
    aliases: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, Reshape) or node.output in known:
            source = known.get(node.output, node.inputs[0])
            aliases[node.output] = aliases.get(source, source)
    return aliases


def _lives(graph: Graph, aliases: Mapping[str, str], scratch: Mapping[str, int], alignment: int) -> dict[str, Slot]:
    """Return every buffer's size and life, at offset 0."""

    def rounded(nbytes: int) -> int:
        return -(-nbytes // alignment) * alignment

    end = len(graph.nodes) + 1
    lives = {p.name: Slot(0, rounded(p.type.nbytes), 0, 0) for p in graph.inputs}

    def touch(name: str, step: int) -> None:
        root = aliases.get(name, name)
        if root in lives:
            old = lives[root]
            lives[root] = Slot(0, old.size, old.first, max(old.last, step))

    for step, node in enumerate(graph.nodes, 1):
        for name in node.inputs:
            touch(name, step)
        if node.output not in aliases:
            lives[node.output] = Slot(0, rounded(graph.types[node.output].nbytes), step, step)
        if scratch.get(node.output):
            lives[scratch_name(node.output)] = Slot(0, rounded(scratch[node.output]), step, step)
    for port in graph.outputs:
        touch(port.name, end)
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
