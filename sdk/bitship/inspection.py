"""Show a graph: rows for a table, a drawing through Graphviz, a page with both."""

from pathlib import Path

import msgspec

from bitship.errors import MissingDependencyError
from bitship.graph import Graph
from bitship.graph.ops import Rescale
from bitship.graph.store import write_atomic

_COLOURS = {
    "conv2d": "#cfe3f7",
    "depthwise_conv2d": "#d8f0dc",
    "fully_connected": "#cfe3f7",
    "matmul": "#cfe3f7",
    "add": "#fbe5c8",
    "mul": "#fbe5c8",
    "sub": "#fbe5c8",
    "softmax": "#f3d4e0",
    "table": "#f3d4e0",
}


class Row(msgspec.Struct, frozen=True):
    """One node: sizes in bytes; ``rounding`` is how it requantizes, empty where it does not."""

    name: str
    op: str
    type: str
    inputs: tuple[str, ...]
    macs: int
    weight_bytes: int
    output_bytes: int
    rounding: str


def rows(graph: Graph) -> list[Row]:
    """Return one row per node, in execution order."""
    result = []
    for node in graph.nodes:
        out = graph.types[node.output]
        requant = node.op if isinstance(node.op, Rescale) else getattr(node.op, "requant", None)
        rounding = ""
        if requant is not None:
            rounding = f"{requant.rounding.value}{', per channel' if requant.per_channel else ''}"
        result.append(
            Row(
                name=node.output,
                op=node.op.name,
                type=str(out),
                inputs=tuple(str(graph.types[i]) for i in node.inputs),
                macs=graph.node_macs(node),
                weight_bytes=sum(graph.stored_bytes(i) for i in node.inputs if i in graph.constants),
                output_bytes=out.nbytes,
                rounding=rounding,
            )
        )
    return result


def draw(graph: Graph) -> str:
    """Return the graph as SVG; MissingDependencyError when Graphviz's ``dot`` is not installed."""
    import graphviz

    dot = graphviz.Digraph(
        graph.name, graph_attr={"rankdir": "TB"}, node_attr={"fontname": "sans-serif", "fontsize": "10"}
    )
    ids = {name: f"n{i}" for i, name in enumerate(graph.types)}
    for port in graph.inputs:
        dot.node(ids[port.name], f"{graphviz.escape(port.name)}\n{port.type}", shape="oval")
    for node in graph.nodes:
        label = f"{node.op.name}\n{graph.types[node.output]}"
        dot.node(
            ids[node.output],
            label,
            shape="box",
            style="filled",
            fillcolor=_COLOURS.get(node.op.name, "#eeeeee"),
            tooltip=graphviz.escape(node.output),
        )
        for name in node.inputs:
            if name not in graph.constants:
                dot.edge(ids[name], ids[node.output])
    for i, port in enumerate(graph.outputs):
        dot.node(f"o{i}", f"{graphviz.escape(port.name)}\n{port.type}", shape="oval")
        dot.edge(ids[port.name], f"o{i}")
    try:
        return str(dot.pipe(format="svg", encoding="utf-8"))
    except graphviz.ExecutableNotFound:
        raise MissingDependencyError("inspect: Graphviz's 'dot' is missing; apt-get install graphviz") from None


def write_svg(graph: Graph, path: Path) -> None:
    """Write the drawing."""
    write_atomic(path, draw(graph).encode())


def write_html(graph: Graph, path: Path) -> None:
    """Write a self-contained page with the table and the drawing."""
    import jinja2

    svg = draw(graph)
    env = jinja2.Environment(loader=jinja2.PackageLoader("bitship", "templates"), autoescape=True)
    page = env.get_template("graph.html").render(graph=graph, rows=rows(graph), svg=svg[svg.index("<svg") :])
    write_atomic(path, page.encode())
