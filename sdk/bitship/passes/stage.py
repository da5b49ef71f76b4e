"""Patch-based inference: the first nodes of a graph run tile by tile, so that their tensors are never whole in memory.

Two schedules. ``Halo.CACHED`` goes by strips of whole rows; every tensor keeps the few rows that later strips still
read (a line buffer), so nothing is computed twice. ``Halo.RECOMPUTED`` goes by tiles of rows and columns, each computed
from its own patch of the image, halo and all (Lin et al. 2021, "MCUNetV2", arXiv 2110.15352, section 3.1).

A schedule changes no bits: a converter may follow it, ``unroll`` turns it into an ordinary graph.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from bitship.errors import UnsupportedError
from bitship.graph import Graph, Node, ops
from bitship.graph.base import Op
from bitship.passes.spans import POINT, Axis, Edge, Region

_POINTWISE = (
    ops.Rescale,
    ops.Table,
    ops.Clamp,
    ops.Cast,
    ops.LogicalLeftShift,
    ops.ArithmeticRightShift,
    ops.Add,
    ops.Sub,
    ops.Mul,
)


class Halo(enum.Enum):
    """What happens to the rows and columns that neighbouring tiles share."""

    CACHED = "cached"
    RECOMPUTED = "recomputed"


@dataclass(frozen=True)
class Stage:
    """Which nodes run by tiles, and how.

    nodes          the first so many of the graph; only the last one's output is read by the rest
    rows, columns  recomputed halo: extent of a tile of that output; cached halo: rows of the image that one step
                   takes in, and the image's columns
    streamed       the image arrives by rows while the stage runs, and is never whole in memory (cached halo only)
    """

    nodes: int
    rows: int
    columns: int
    halo: Halo = Halo.CACHED
    streamed: bool = False


def window_axes(graph: Graph, node: Node) -> tuple[Axis, Axis] | None:
    """Return the windows along rows and columns of an op that a stage may hold, None for any other op.

    A pointwise op has windows of one: output pixel i reads pixel i of every operand that is no constant.
    """
    op = node.op
    out = graph.types[node.output]
    if len(out.shape) != 4 or out.shape[0] != 1:
        return None
    kernel = _kernel(graph, node)
    if kernel is not None:
        dilation = getattr(op, "dilation", (1, 1))
        return _axis(op, kernel, dilation, 0), _axis(op, kernel, dilation, 1)
    if isinstance(op, ops.Concat) and op.axis == 3:
        return (POINT, POINT) if not any(i in graph.constants for i in node.inputs) else None
    if not isinstance(op, _POINTWISE):
        return None
    for name in node.inputs:
        shape = graph.types[name].shape
        whole = name not in graph.constants
        if (whole and shape != out.shape) or (not whole and len(shape) == 4 and shape[:3] != (1, 1, 1)):
            return None
        if not whole and not isinstance(op, ops.Table) and len(shape) in (2, 3) and set(shape[:-1]) != {1}:
            return None
    return POINT, POINT


def _kernel(graph: Graph, node: Node) -> tuple[int, int] | None:
    op = node.op
    if isinstance(op, (ops.Conv2D, ops.DepthwiseConv2D)):
        if any(i not in graph.constants for i in node.inputs[1:]):
            return None
        shape = graph.types[node.inputs[1]].shape
        return (shape[1], shape[2]) if isinstance(op, ops.Conv2D) else (shape[0], shape[1])
    return op.kernel if isinstance(op, (ops.AvgPool2D, ops.MaxPool2D)) else None


def _axis(op: Op, kernel: tuple[int, int], dilation: tuple[int, int], i: int) -> Axis:
    padding: tuple[int, ...] = op.padding  # type: ignore[attr-defined]
    stride: tuple[int, int] = op.stride  # type: ignore[attr-defined]
    return Axis((kernel[i] - 1) * dilation[i] + 1, stride[i], padding[2 * i])


@dataclass(frozen=True)
class Geometry:
    """A stage of one graph, checked: which rows and columns of every tensor each step computes and keeps."""

    graph: Graph
    stage: Stage

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The stage's nodes, in order."""
        return self.graph.nodes[: self.stage.nodes]

    @property
    def source(self) -> str:
        """The image."""
        return self.graph.inputs[0].name

    @property
    def output(self) -> str:
        """The tensor that the rest of the graph reads."""
        return self.nodes[-1].output

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """The image, then every node's output."""
        return (self.source, *(n.output for n in self.nodes))

    @cached_property
    def readers(self) -> Mapping[str, tuple[Node, ...]]:
        """Nodes of the stage that read a tensor."""
        return {t: tuple(n for n in self.nodes if t in n.inputs) for t in self.tensors}

    def operands(self, node: Node) -> tuple[str, ...]:
        """Return the node's operands that are no constants, each once."""
        return tuple(dict.fromkeys(i for i in node.inputs if i not in self.graph.constants))

    def axes(self, node: Node) -> tuple[Axis, Axis]:
        """Return the node's windows; UnsupportedError when a stage cannot hold it."""
        found = window_axes(self.graph, node)
        if found is None:
            raise UnsupportedError(
                f"{self.graph.name}: node '{node.output}' ({node.op.name}) cannot run by tiles; "
                "convolutions, pools and pointwise ops of one image can: end the stage before it"
            )
        return found

    def extent(self, tensor: str) -> tuple[int, int]:
        """Return a tensor's rows and columns."""
        shape = self.graph.types[tensor].shape
        return shape[1], shape[2]

    def tile(self, axis: int) -> int:
        """Return the tile's extent along an axis."""
        if self.stage.halo is Halo.CACHED:
            return self.extent(self.output)[axis]
        return (self.stage.rows, self.stage.columns)[axis]

    @cached_property
    def steps(self) -> tuple[int, int]:
        """How many tiles there are, down and across; a cached halo's steps go down."""
        rows, columns = self.extent(self.output)
        if self.stage.halo is Halo.CACHED:
            last = self.reach[self.output]
            return -(-(rows * last.divisor - last.offset) // last.scale), 1
        return -(-rows // self.stage.rows), -(-columns // self.stage.columns)

    @cached_property
    def reach(self) -> Mapping[str, Edge]:
        """For every tensor: how many rows are computed by the end of step t, ``edge.at(t + 1)`` (cached halo)."""
        found = {self.source: Edge(self.stage.rows, 0, self.ends[self.source][0].cap)}
        for node in self.nodes:
            axis, cap = self.axes(node)[0], self.ends[node.output][0].cap
            edges = [found[name].after(axis, cap) for name in self.operands(node)]
            if len({(e.scale, e.divisor) for e in edges}) != 1:
                raise self._strides(node.output)
            found[node.output] = min(edges, key=lambda e: e.offset)
        for name in reversed(self.tensors[:-1]):  # no earlier than any reader can use it: a short branch waits
            edge, latest = found[name], []
            for node in self.readers[name]:
                axis = self.axes(node)[0]
                more = axis.extent - axis.stride - axis.before
                latest.append(found[node.output].offset + more * edge.divisor)
            found[name] = replace(edge, offset=min(edge.offset, max(latest)))
        return found

    def _strides(self, name: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.graph.name}: '{name}' joins different strides within the stage; end it before them"
        )

    @cached_property
    def ends(self) -> Mapping[str, tuple[Edge, Edge]]:
        """For every tensor and axis: one past the last row of step t is ``edge.at(t + 1)``."""
        return {t: (self._ends[0][t], self._ends[1][t]) for t in self.tensors}

    @cached_property
    def starts(self) -> Mapping[str, tuple[Edge, Edge]]:
        """For every tensor and axis: the first row of tile t is ``edge.at(t)`` (recomputed halo)."""
        return {t: (self._starts[0][t], self._starts[1][t]) for t in self.tensors}

    @cached_property
    def _ends(self) -> tuple[dict[str, Edge], dict[str, Edge]]:
        return self._edges(0, True), self._edges(1, True)

    @cached_property
    def _starts(self) -> tuple[dict[str, Edge], dict[str, Edge]]:
        return self._edges(0, False), self._edges(1, False)

    def _edges(self, axis: int, ends: bool) -> dict[str, Edge]:
        found = {self.output: Edge(self.tile(axis), 0, self.extent(self.output)[axis])}
        for name in reversed(self.tensors[:-1]):
            wanted = []
            for node in self.readers[name]:
                edge, window = found[node.output], self.axes(node)[axis]
                wanted.append(edge.through(window, self.extent(name)[axis]) if ends else edge.before(window))
            if len({e.scale for e in wanted}) != 1:
                raise self._strides(name)
            pick = max if ends else min
            cap = max(e.cap for e in wanted) if ends else self.extent(name)[axis]
            found[name] = Edge(wanted[0].scale, pick(e.offset for e in wanted), cap)
        return found

    def first_row(self, node: Node, done: int) -> int:
        """Return the first operand row that a node reads for output rows from ``done`` on."""
        axis = self.axes(node)[0]
        return max(done * axis.stride - axis.before, 0)

    @cached_property
    def strips(self) -> tuple[dict[str, tuple[int, int, int]], ...]:
        """For every step of the cached schedule and every tensor: (base, from, to).

        Rows [base, from) are kept from earlier steps, rows [from, to) are computed in this one.
        """
        steps = []
        done = dict.fromkeys(self.tensors, 0)
        for step in range(self.steps[0]):
            now = {}
            for name in self.tensors:
                reads = [self.first_row(n, done[n.output]) for n in self.readers[name]]
                base = min((*reads, done[name])) if reads else 0
                now[name] = (base, done[name], self.reach[name].at(step + 1))
            steps.append(now)
            done = {name: to for name, (_, _, to) in now.items()}
        return tuple(steps)

    @cached_property
    def tiles(self) -> tuple[dict[str, Region], ...]:
        """For every tile of the recomputed schedule: the region of every tensor."""
        down, across = self.steps
        return tuple(
            {name: self.region(name, y, x) for name in self.tensors} for y in range(down) for x in range(across)
        )

    def region(self, name: str, y: int, x: int) -> Region:
        """Return what tile (y, x) computes of a tensor."""
        (top, left), (bottom, right) = self.starts[name], self.ends[name]
        return Region(top.at(y), bottom.at(y + 1), left.at(x), right.at(x + 1))

    def needed(self, node: Node, tensor: str, out: Region) -> Region:
        """Return what a node reads of an operand for a region of its output."""
        (rows, columns), (height, width) = self.axes(node), self.extent(tensor)
        return Region(
            min(max(out.top * rows.stride - rows.before, 0), height),
            min(max((out.bottom - 1) * rows.stride - rows.before + rows.extent, 0), height),
            min(max(out.left * columns.stride - columns.before, 0), width),
            min(max((out.right - 1) * columns.stride - columns.before + columns.extent, 0), width),
        )

    @cached_property
    def rows_held(self) -> Mapping[str, int]:
        """Most rows of every tensor held at once (cached halo)."""
        held = dict.fromkeys(self.tensors, 0)
        for now in self.strips:
            for name, (base, _, to) in now.items():
                held[name] = max(held[name], to - base)
        return held

    @cached_property
    def carried(self) -> frozenset[str]:
        """Tensors of which rows outlive a step (cached halo)."""
        return frozenset(name for now in self.strips for name, (base, start, _) in now.items() if start > base)

    @cached_property
    def pixels_held(self) -> Mapping[str, int]:
        """Most pixels of every tensor in one tile (recomputed halo)."""
        held = dict.fromkeys(self.tensors, 0)
        for tile in self.tiles:
            for name, region in tile.items():
                held[name] = max(held[name], region.pixels)
        return held

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of the stage, halo included."""
        total = 0
        for node in self.nodes:
            whole = self.graph.node_macs(node)
            rows, columns = self.extent(node.output)
            if not whole:
                continue
            if self.stage.halo is Halo.CACHED:
                pixels = self.reach[node.output].at(self.steps[0]) * columns
            else:
                pixels = self._spans(node.output, 0) * self._spans(node.output, 1)
            total += whole * pixels // (rows * columns)
        return total

    def _spans(self, name: str, axis: int) -> int:
        start, end = self.starts[name][axis], self.ends[name][axis]
        return sum(max(end.at(t + 1) - start.at(t), 0) for t in range(self.steps[axis]))


def geometry(graph: Graph, stage: Stage) -> Geometry:
    """Check a stage and return its geometry; UnsupportedError says why the graph cannot run so."""
    where = f"{graph.name}: stage of {stage.nodes} nodes"
    if not 1 <= stage.nodes <= len(graph.nodes):
        raise UnsupportedError(f"{where}: the graph has {len(graph.nodes)}")
    if len(graph.inputs) != 1 or len(graph.inputs[0].type.shape) != 4 or graph.inputs[0].type.shape[0] != 1:
        raise UnsupportedError(f"{where}: one image [1, H, W, C] as the only input is needed")
    if stage.nodes not in splits(graph):
        raise UnsupportedError(f"{where}: the rest of the graph reads more than its last output; end it elsewhere")
    if stage.streamed and stage.halo is not Halo.CACHED:
        raise UnsupportedError(f"{where}: an image that arrives by rows needs a cached halo")
    found = Geometry(graph, stage)
    rows, columns = found.extent(found.source if stage.halo is Halo.CACHED else found.output)
    if not (1 <= stage.rows <= rows and 1 <= stage.columns <= columns):
        raise UnsupportedError(f"{where}: tiles of {stage.rows} x {stage.columns} of {rows} x {columns}")
    if stage.halo is Halo.CACHED and stage.columns != columns:
        raise UnsupportedError(f"{where}: a cached halo goes by whole rows of {columns} columns")
    for node in found.nodes:
        extents = zip(found.axes(node), found.extent(node.inputs[0]), found.extent(node.output), strict=True)
        for axis, extent, out in extents:
            if axis.before >= axis.extent or (out - 1) * axis.stride - axis.before >= extent:
                raise UnsupportedError(f"{where}: node '{node.output}' has windows that lie in the padding alone")
    _ = found.steps, found.starts
    return found


def splits(graph: Graph) -> list[int]:
    """Return every count of first nodes after which one tensor alone is still needed: where a stage may end."""
    last = {p.name: len(graph.nodes) for p in graph.outputs}
    for i, node in enumerate(graph.nodes):
        for name in node.inputs:
            last[name] = max(last.get(name, i), i)
    found, alive = [], {p.name for p in graph.inputs}
    for i, node in enumerate(graph.nodes):
        if window_axes(graph, node) is None:
            break
        alive = {name for name in (*alive, node.output) if last.get(name, i) > i}
        if alive == {node.output}:
            found.append(i + 1)
    return found
