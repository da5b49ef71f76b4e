"""Where to cut a model between a device and a server: every cut, what crosses it, and what each side takes."""

import math
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from bitship.errors import BitshipError, GraphError
from bitship.figures import FigureKind
from bitship.graph import Graph
from bitship.graph.ir import Port
from bitship.report import Report
from bitship.split.frame import EXTRA_BYTES

RUNS = 5
_LINK = re.compile(r"(\d+(?:\.\d+)?)([kMG]?)/(\d+(?:\.\d+)?)")
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


class Link(msgspec.Struct, frozen=True):
    """A link: bits per second, round trip in seconds, bytes that every message costs besides its payload."""

    rate: float
    round_trip: float
    overhead: int = EXTRA_BYTES

    def seconds(self, payload: int) -> float:
        """Return the time until a payload of bytes is there and a short answer is back."""
        return self.round_trip + 8 * (payload + self.overhead) / self.rate


class Cost(msgspec.Struct, frozen=True):
    """Seconds that every node takes, in execution order, and how they were obtained."""

    seconds: tuple[float, ...]
    kind: FigureKind


class Cut(msgspec.Struct, frozen=True):
    """A cut behind ``nodes`` nodes; times in seconds.

    after    the last node on the device; empty where the image itself is sent
    tensors  what crosses; empty where the device computes everything
    payload  bytes of them, as they are
    """

    nodes: int
    after: str
    tensors: tuple[str, ...]
    payload: int
    macs: int
    device: float
    link: float
    server: float

    @property
    def total(self) -> float:
        """Seconds from the image to the answer."""
        return self.device + self.link + self.server


def parse_link(text: str) -> Link:
    """Return the link that ``RATE/RTT`` names, bit/s (with k, M or G) and ms: ``9.6k/20``; BitshipError otherwise."""
    found = _LINK.fullmatch(text)
    if found is None or float(found[1]) == 0:
        raise BitshipError(f"link '{text}': RATE/RTT is needed, bits a second over milliseconds: 9.6k/20, 1M/100")
    return Link(float(found[1]) * _UNITS[found[2]], float(found[3]) / 1e3)


def from_report(graph: Graph, report: Report, hz: float = 0.0) -> Cost:
    """Return what a report says every node takes on its device.

    hz  the device's clock, where the report counts instructions or cycles: one instruction a cycle is then assumed, and
        the figure is an estimate

    Raises BitshipError: the report is another graph's, has no figures per op, or counts and no clock was given.
    """
    if report.graph_digest != graph.digest:
        raise BitshipError(
            f"report of {report.package}: its graph is {report.graph_digest[:12]}, not {graph.digest[:12]}"
        )
    if not report.ops:
        raise BitshipError(f"report of {report.package}: no figures per op; bench a firmware package on a board")
    unit = report.ops[0].samples.unit
    if unit not in _SECONDS and not hz:
        raise BitshipError(f"report of {report.package}: it counts {unit}; give the device's clock with --hz")
    factor = _SECONDS.get(unit, 1 / hz if hz else 0.0)
    taken = {o.tensor: statistics.median(o.samples.values) * factor for o in report.ops}
    if unknown := sorted(set(taken) - {n.output for n in graph.nodes}):
        raise BitshipError(f"report of {report.package}: '{unknown[0]}' is no tensor of {graph.name}")
    kind = report.ops[0].samples.kind if unit in _SECONDS else FigureKind.ESTIMATED
    return Cost(tuple(taken.get(n.output, 0.0) for n in graph.nodes), kind)


def from_rate(graph: Graph, macs_per_second: float) -> Cost:
    """Return an estimate: every node takes its multiply-accumulates at one rate."""
    return Cost(tuple(graph.node_macs(n) / macs_per_second for n in graph.nodes), FigureKind.ESTIMATED)


def from_host(graph: Graph) -> Cost:
    """Return an estimate for a server like this machine: the whole graph's median time, shared out by MACs."""
    inputs = [np.zeros(p.type.shape, p.type.dtype.numpy) for p in graph.inputs]
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        graph.run(*inputs)
        times.append(time.perf_counter() - start)
    return from_rate(graph, max(graph.macs, 1) / statistics.median(times))


def cuts(graph: Graph, device: Cost, server: Cost, link: Link) -> list[Cut]:
    """Return every cut in execution order: from the image itself to nothing at all.

    A cut is a prefix of the order, so that both halves are graphs; of neighbours where the same tensors cross (a cut
    among views, say) all are listed.
    """
    ops, found = [graph.node_macs(n) for n in graph.nodes], []
    for k in range(len(graph.nodes) + 1):
        whole = k == len(graph.nodes)
        crossing = () if whole else _crossing(graph, k)
        payload = sum(graph.types[t].nbytes for t in crossing)
        found.append(
            Cut(
                nodes=k,
                after=graph.nodes[k - 1].output if k else "",
                tensors=crossing,
                payload=payload,
                macs=sum(ops[:k]),
                device=math.fsum(device.seconds[:k]),
                link=0.0 if whole else link.seconds(payload),
                server=math.fsum(server.seconds[k:]),
            )
        )
    return found


def best(found: Sequence[Cut]) -> Cut:
    """Return the cut that answers first; of equals the one that sends least."""
    return min(found, key=lambda c: (c.total, c.payload))


def halves(graph: Graph, nodes: int) -> tuple[Graph, Graph]:
    """Return head and tail of a cut behind so many nodes; the tail's inputs are the head's outputs, in order.

    GraphError where there is no such cut, or where nothing would be left on one side.
    """
    if not 0 < nodes < len(graph.nodes):
        raise GraphError(f"{graph.name}: a cut behind {nodes} nodes; 1 to {len(graph.nodes) - 1} are possible")
    ports = {p.name: p for p in (*graph.inputs, *graph.outputs)}
    crossing = tuple(ports.get(t) or Port(t, graph.types[t]) for t in _crossing(graph, nodes))
    head = replace(graph, name=f"{graph.name}-head", outputs=crossing, nodes=graph.nodes[:nodes])
    tail = replace(graph, name=f"{graph.name}-tail", inputs=crossing, nodes=graph.nodes[nodes:])
    return _own(head), _own(tail)


def node_count(graph: Graph, after: str) -> int:
    """Return how many nodes a head has whose last one is called so, or whose name ends so; GraphError for no such."""
    found = [k for k, n in enumerate(graph.nodes, 1) if after == n.output or n.output.rstrip(";").endswith(after)]
    if len(found) != 1:
        raise GraphError(f"{graph.name}: '{after}' names {len(found)} nodes; give one name, whole")
    return found[0]


def _crossing(graph: Graph, k: int) -> tuple[str, ...]:
    made = [p.name for p in graph.inputs] + [n.output for n in graph.nodes[:k]]
    read = {i for n in graph.nodes[k:] for i in n.inputs} | {p.name for p in graph.outputs}
    return tuple(t for t in made if t in read)


def _own(graph: Graph) -> Graph:
    used = {i for n in graph.nodes for i in n.inputs} | {p.name for p in graph.outputs}

    constants = {name: value for name, value in graph.constants.items() if name in used}
    packing = {name: how for name, how in graph.packing.items() if name in used}
    return replace(graph, constants=constants, packing=packing)


def draw(found: Sequence[Cut]) -> str:
    """Return an SVG: a bar per cut, device, link and server on top of one another; the best one is named."""
    from bitship.report.charts import stacked

    parts = [(c.device, c.link, c.server) for c in found]
    names = [c.after.rsplit(";", 1)[-1][-28:] or "the image" for c in found]
    return stacked(names, parts, ("device", "link", "server"), "s", found.index(best(found)))
