"""Which op of a graph a device computes wrongly: prefixes of its program are run there, their last tensors compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bitship.device.base import Difference, Looks
from bitship.graph import Graph, Port
from bitship.graph.base import Array
from bitship.passes.simplify import simplify


def first_difference(session: Looks, graph: Graph, row: tuple[Array, ...]) -> Difference | None:
    """Return the step whose operands are right and whose tensor is not, None when every tensor looked at is right.

    graph  as the package has it; the names of steps are those of ``simplify(graph)``

    Some 2 log2(steps) prefixes are run. Where several branches go wrong on their own, one of them is named.
    """
    return _Search(session, simplify(graph), row, session.steps()).run()


@dataclass
class _Search:
    session: Looks
    graph: Graph
    row: tuple[Array, ...]
    steps: tuple[tuple[str, str], ...]
    known: dict[int, Difference | None] = field(default_factory=dict)
    wanted: Mapping[str, Array] = field(default_factory=dict)

    def run(self) -> Difference | None:
        """Halve the steps until a wrong one follows a right one, then go up its operands."""
        self.wanted = self._reference()
        last = next((i for i in reversed(range(len(self.steps))) if self.at(i)), None)
        while last is not None:
            low, high = -1, last  # right (or before the first), wrong
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self.at(middle) else (middle, high)
            wrong = [i for i in self.operands(high) if self.at(i)]
            if not wrong:
                return self.at(high)
            last = wrong[0]
        return None

    def at(self, step: int) -> Difference | None:
        """Return how a step's tensor differs."""
        if step not in self.known:
            op, tensor = self.steps[step]
            found, wanted = self.session.look(self.row, step), self.wanted[tensor]
            differs = np.argwhere(found.reshape(wanted.shape) != wanted)
            index = tuple(int(k) for k in differs[0]) if len(differs) else None
            self.known[step] = (
                None
                if index is None
                else Difference(step, op, tensor, index, int(found.reshape(wanted.shape)[index]), int(wanted[index]))
            )
        return self.known[step]

    def operands(self, step: int) -> list[int]:
        """Return the steps that compute what a step reads, through nodes that are no steps (views, reshapes)."""
        nodes = {n.output: n for n in self.graph.nodes}
        places = {tensor: i for i, (_, tensor) in enumerate(self.steps)}
        found, seen, waiting = [], set[str](), list(nodes[self.steps[step][1]].inputs)
        while waiting:
            name = waiting.pop()
            if name in seen or name not in nodes:
                continue
            seen.add(name)
            if name in places:
                found.append(places[name])
            else:
                waiting += nodes[name].inputs
        return sorted(found)

    def _reference(self) -> Mapping[str, Array]:
        names = list(dict.fromkeys(tensor for _, tensor in self.steps))
        outputs = tuple(Port(name, self.graph.types[name]) for name in names)
        return dict(zip(names, replace(self.graph, outputs=outputs).run(*self.row), strict=True))
