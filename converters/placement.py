"""Where a delegate runs each node, what that is estimated to cost, and how far its bits are from the graph's."""

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from bitship.converters.measure import Difference
from bitship.errors import PackageError
from bitship.figures import FigureKind
from bitship.graph import Graph, Node

SUFFIX = ".placement.json"
SKIPPED = "skipped.json"

T = TypeVar("T")


class Place(enum.Enum):
    """Who computes a node: the delegate's hardware or library, the CPU beside it, or nobody (it was folded away)."""

    DELEGATE = "delegate"
    CPU = "cpu"
    FOLDED = "folded"


class Placed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node of the graph: the tensor it makes, its op, its multiply-accumulates, where it runs and why there.

    reason  for a node that fell back to the CPU: what the delegate refuses in it, and the rewrite that was tried
    """

    node: str
    op: str
    macs: int
    place: Place
    reason: str = ""


class CostFigure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure of a vendor's tool: what, how much, in which unit, and where it comes from."""

    name: str
    value: float
    unit: str
    kind: FigureKind = FigureKind.ESTIMATED


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a delegate makes of a graph.

    delegate    its name with the configuration: ``ethos-u55-128``, ``xnnpack``
    nodes       every node of the graph, in order
    parts       how many separate pieces the delegate got; each costs a hand-over
    figures     estimates of the vendor's compiler, each marked
    difference  measured against the exact graph, where the delegate runs on the machine that converts
    untested    why nothing was measured, where nothing was
    """

    delegate: str
    nodes: tuple[Placed, ...]
    parts: int = 0
    figures: tuple[CostFigure, ...] = ()
    difference: Difference | None = None
    untested: str = ""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole graph."""
        return sum(n.macs for n in self.nodes)

    @property
    def delegated_macs(self) -> int:
        """Multiply-accumulates that the delegate computes."""
        return sum(n.macs for n in self.nodes if n.place is Place.DELEGATE)

    @property
    def share(self) -> float:
        """The delegate's share of the multiply-accumulates, 0 to 1; of the nodes where there are none to count."""
        if self.macs:
            return self.delegated_macs / self.macs
        counted = [n for n in self.nodes if n.place is not Place.FOLDED]
        return sum(n.place is Place.DELEGATE for n in counted) / len(counted) if counted else 0.0

    @property
    def fallbacks(self) -> tuple[Placed, ...]:
        """The nodes that the CPU computes."""
        return tuple(n for n in self.nodes if n.place is Place.CPU)


class Skipped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A delegate that got no artifact, and why, in one line; the rest of the package was made without it."""

    delegate: str
    reason: str


def placed(graph: Graph, node: Node, place: Place, reason: str = "") -> Placed:
    """Return the record of one node of the graph."""
    return Placed(node.output, node.op.name, graph.node_macs(node), place, reason)


def write(path: Path, placement: Placement) -> str:
    """Write it beside an artifact (``model.pte`` gives ``model.pte.placement.json``); return the file's name."""
    target = path.with_name(path.name + SUFFIX)
    target.write_bytes(_json(placement))
    return target.name


def read(path: Path) -> Placement:
    """Read what ``write`` wrote; PackageError when it is missing or damaged."""
    return _decode(path, Placement)


def write_skipped(folder: Path, skipped: Sequence[Skipped]) -> str:
    """Write ``skipped.json`` into a package's folder; return the file's name."""
    (folder / SKIPPED).write_bytes(_json(skipped))
    return SKIPPED


def read_skipped(folder: Path) -> tuple[Skipped, ...]:
    """Read the delegates that a package was made without; PackageError when the file is damaged."""
    path = folder / SKIPPED
    return _decode(path, tuple[Skipped, ...]) if path.is_file() else ()


def _json(what: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(what), indent=2) + b"\n"


def _decode(path: Path, what: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=what)
    except OSError as e:
        raise PackageError(f"{path}: {e.strerror}; export the package again") from None
    except msgspec.MsgspecError as e:
        raise PackageError(f"{path}: damaged: {e}; export the package again") from None


def fallen(placement: Placement) -> list[str]:
    """Return a line for each kind of node that fell back: the op, a few of the nodes, the reason."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for node in placement.fallbacks:
        kinds.setdefault((node.op, node.reason), []).append(node.node)
    return [
        f"{op} ({', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}): {reason}"
        for (op, reason), names in kinds.items()
    ]


def lines(placement: Placement) -> list[str]:
    """Return what people are told: the share of the work, what fell back and why, cost, and how far the bits are."""
    said = [f"{placement.share:.2%} of the MACs on {placement.delegate}, in {placement.parts} parts"]
    said += [f"on the CPU: {line}" for line in fallen(placement)]
    if placement.figures:
        said.append("; ".join(f"{f.name} {f.value:,.6g} {f.unit} ({f.kind.value})" for f in placement.figures))
    d = placement.difference
    if d is not None:
        sqnr = "no element differs" if d.sqnr_db is None else f"SQNR {d.sqnr_db:.1f} dB"
        said.append(
            f"against the graph on {d.inputs} {d.source} inputs: at most {d.max_lsb} LSB, {d.equal:.1%} equal, {sqnr}, "
            f"top-1 agrees in {d.top1_agreement:.1%}"
        )
    if placement.untested:
        said.append(f"{'not measured' if d is None else 'not run there'}: {placement.untested}")
    return said
