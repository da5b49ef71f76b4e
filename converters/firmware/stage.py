"""A stage as kernel calls: which buffers hold its tensors, and which parameters change from tile to tile.

A window op's call keeps its parameters and gets the extents and the padding above of each tile. Any other call gets
what depends on the number of pixels, found by lowering it for one, two and three of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bitship.errors import UnsupportedError
from bitship.graph import Graph, GraphBuilder, Node
from bitship.graph.calls import Call, CStruct
from bitship.passes.place import Slot
from bitship.passes.plan import ALIGNMENT
from bitship.passes.stage import Geometry, Halo, Stage, geometry

Lower = Callable[[Graph, Node], tuple[Call, ...]]


@dataclass(frozen=True)
class StageCall:
    """One kernel call of a stage.

    window   whether extents and padding are set by tile
    by_size  otherwise: field to (value for no pixels, what each pixel adds)
    """

    call: Call
    window: bool
    by_size: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class StageProgram:
    """A stage lowered: its geometry, its calls, the buffers it needs beside or instead of whole tensors.

    calls  (node, its calls), in order
    held   buffers whose size or life is not what the graph says: by name
    cut    (node output, operand): copied out of the tile that holds it before the node runs (recomputed halo)
    """

    geometry: Geometry
    calls: tuple[tuple[Node, tuple[StageCall, ...]], ...]
    held: dict[str, Slot]
    cut: frozenset[tuple[str, str]]

    @property
    def stage(self) -> Stage:
        """The schedule."""
        return self.geometry.stage


def tile_name(tensor: str) -> str:
    """Return the buffer name of a tensor's tile, where the tensor is whole elsewhere."""
    return f"{tensor}.tile"


def cut_name(node: str, operand: str) -> str:
    """Return the buffer name of what a node reads of an operand's tile."""
    return f"{node}.cut.{operand}"


def lower_stage(graph: Graph, stage: Stage, lower: Lower) -> StageProgram:
    """Lower the stage's nodes; UnsupportedError when the graph cannot run so."""
    g = geometry(graph, stage)
    calls = tuple((node, _calls(graph, node, lower)) for node in g.nodes)
    cut = frozenset() if stage.halo is Halo.CACHED else _cuts(g)
    held = _strips(g) if stage.halo is Halo.CACHED else _tiles(g, cut)
    return StageProgram(g, calls, held, cut)


def _calls(graph: Graph, node: Node, lower: Lower) -> tuple[StageCall, ...]:
    whole = lower(graph, node)
    if hasattr(node.op, "stride"):
        return tuple(StageCall(call, True) for call in whole)
    sizes = [lower(*_pixels(graph, node, n)) for n in (1, 2, 3)]
    return tuple(
        StageCall(call, False, _by_size(graph, node, *same)) for call, *same in zip(whole, *sizes, strict=True)
    )


def _pixels(graph: Graph, node: Node, count: int) -> tuple[Graph, Node]:
    """Return the node alone, for so many pixels."""
    b, names = GraphBuilder(graph.name), dict[str, str]()
    for name in dict.fromkeys(node.inputs):
        t = graph.types[name]
        if name in graph.constants:
            names[name] = b.constant(name, graph.constants[name], graph.packing.get(name))
        else:
            names[name] = b.input(name, (1, 1, count, t.shape[3]), t.dtype)
    made = b.finish([(b.node(node.output, node.op, *(names[i] for i in node.inputs)), None)])
    return made, made.nodes[0]


def _by_size(graph: Graph, node: Node, *calls: Call) -> tuple[tuple[str, int, int], ...]:
    """Return the fields that differ with the number of pixels, as lines."""
    one, two, three = (_fields(c.params) for c in calls)
    found = []
    for name, value in one.items():
        if value == two[name] == three[name]:
            continue
        a, b, c = value, two[name], three[name]
        if not (isinstance(a, int) and isinstance(b, int) and isinstance(c, int) and c - b == b - a):
            raise UnsupportedError(
                f"{graph.name}: node '{node.output}' ({node.op.name}): {name} is not linear in pixels"
            )
        found.append((name, 2 * a - b, b - a))
    return tuple(found)


def _fields(params: CStruct) -> dict[str, object]:
    """Return the struct's fields; an entry of an array is a field ``name[i]``."""
    found: dict[str, object] = {}
    for name, value in params.fields:
        if isinstance(value, tuple):
            found |= {f"{name}[{i}]": v for i, v in enumerate(value)}
        else:
            found[name] = value
    return found


def pixel_bytes(g: Geometry, tensor: str) -> int:
    """Return the bytes of one pixel."""
    t = g.graph.types[tensor]
    return t.shape[3] * t.dtype.itemsize


def row_bytes(g: Geometry, tensor: str) -> int:
    """Return the bytes of one row of the whole tensor."""
    return pixel_bytes(g, tensor) * g.extent(tensor)[1]


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _last_use(g: Geometry, tensor: str) -> int:
    """Return the step (see Slot) of the last node of the stage that reads a tensor."""
    return max(i for i, node in enumerate(g.nodes, 1) if tensor in node.inputs)


def _whole_life(g: Geometry, tensor: str) -> int:
    """Return the last step at which anything reads the stage's output."""
    graph = g.graph
    reads = [i for i, node in enumerate(graph.nodes, 1) if tensor in node.inputs]
    return len(graph.nodes) + 1 if tensor in {p.name for p in graph.outputs} else max(reads, default=len(g.nodes))


def _output(g: Geometry) -> Slot:
    """Return the life of the stage's output, which is whole: rows are written from the first step on."""
    nbytes = g.graph.types[g.output].nbytes
    return Slot(0, _rounded(nbytes), 1, _whole_life(g, g.output))


def _strips(g: Geometry) -> dict[str, Slot]:
    """Return the line buffers: those that carry rows live as long as the stage, the others from write to last read."""
    end = len(g.nodes)
    held = {g.output: _output(g)}
    for i, name in enumerate(g.tensors[:-1]):
        size = _rounded(g.rows_held[name] * row_bytes(g, name))
        if name == g.source:
            whole = _rounded(g.graph.types[name].nbytes)
            held[name] = Slot(0, size if g.stage.streamed else whole, 0, end)
        elif name in g.carried:
            held[name] = Slot(0, size, 1, end)
        else:
            held[name] = Slot(0, size, i, _last_use(g, name))
    return held


def _tiles(g: Geometry, cut: frozenset[tuple[str, str]]) -> dict[str, Slot]:
    """Return the tiles' buffers; image and output are whole beside their tiles."""
    end = len(g.nodes)
    held = {g.output: _output(g), g.source: Slot(0, _rounded(g.graph.types[g.source].nbytes), 0, end)}
    for i, name in enumerate(g.tensors):
        size = _rounded(g.pixels_held[name] * pixel_bytes(g, name))
        if name == g.source:
            held[tile_name(name)] = Slot(0, size, 1, _last_use(g, name))
        elif name == g.output:
            held[tile_name(name)] = Slot(0, size, i, i)
        else:
            held[name] = Slot(0, size, i, _last_use(g, name))
    for i, node in enumerate(g.nodes, 1):
        for name in g.operands(node):
            if (node.output, name) in cut:
                most = max(g.needed(node, name, tile[node.output]).pixels for tile in g.tiles)
                held[cut_name(node.output, name)] = Slot(0, _rounded(most * pixel_bytes(g, name)), i, i)
    return held


def _cuts(g: Geometry) -> frozenset[tuple[str, str]]:
    """Return (node output, operand) wherever some tile of the operand is not just what the node reads."""
    return frozenset(
        (node.output, name)
        for node in g.nodes
        for name in g.operands(node)
        if any(g.needed(node, name, tile[node.output]) != tile[name] for tile in g.tiles)
    )
