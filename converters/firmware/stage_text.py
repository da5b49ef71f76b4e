"""A stage as C: one loop over strips or tiles, every call once in it."""

from dataclasses import dataclass

from bitship.converters.firmware.ctext import Constants, invoke, tensor_type, title, where
from bitship.converters.firmware.program import Program, step_of
from bitship.converters.firmware.stage import StageCall, StageProgram, cut_name, pixel_bytes, row_bytes, tile_name
from bitship.graph import Node
from bitship.passes.spans import Axis, Edge
from bitship.passes.stage import Geometry, Halo

READ = "model_read_rows read, void *context"
HOOK = "model_step after, void *watcher"


def stage_function(p: Program, s: StageProgram, constants: Constants, hooks: bool = False) -> str:
    """Return ``run_stage``, a function that runs the stage's nodes; with hooks ``run_stage_steps``, beside it."""
    text = _StageText(p, s, s.geometry, constants, hooks)
    lines = text.strips() if s.stage.halo is Halo.CACHED else text.tiles()
    arguments = [*([READ] if s.stage.streamed else []), *([HOOK] if hooks else [])]
    name = "run_stage_steps" if hooks else "run_stage"
    head = [f"static int {name}({', '.join(arguments) or 'void'}) {{", "    int error = BITSHIP_OK;"]
    return "\n".join([*head, *lines, "    return error;", "}\n"])


def _sized(call: StageCall, pixels: str) -> list[str]:
    """Return the fields of a call that is no window's, for so many pixels."""
    return [f"{name} = {f'{base} + ' if base else ''}{each} * {pixels}" for name, base, each in call.by_size]


def _lowest(items: list[str]) -> str:
    """Return an expression for the least of several."""
    return items[0] if len(items) == 1 else f"bitship_lower({items[0]}, {_lowest(items[1:])})"


def _line(edge: Edge, step: str) -> str:
    """Return ``scale * step + offset``."""
    line = step if edge.scale == 1 else f"{edge.scale} * {step}"
    return line if edge.offset == 0 else f"{line} {'+' if edge.offset > 0 else '-'} {abs(edge.offset)}"


def _pair(a: int, b: int) -> str:
    return f"(const int32_t[]){{{a}, {b}}}"


@dataclass(frozen=True)
class _StageText:
    p: Program
    s: StageProgram
    g: Geometry
    constants: Constants
    hooks: bool

    def step(self, node: Node, indent: str) -> list[str]:
        """Return the hook after a node's calls, where hooks are asked for."""
        return [f"{indent}STEP({step_of(self.p, node)}, 0);"] if self.hooks else []

    def number(self, tensor: str) -> int:
        """Return which tensor of the stage it is: its variable's number."""
        return self.g.tensors.index(tensor)

    def offset(self, buffer: str) -> int:
        """Return where a buffer lies in the arena."""
        return self.p.plan.slots[buffer].offset

    def call(self, node: Node, call: StageCall, fields: list[str], places: dict[str, str], indent: str) -> list[str]:
        """Return a call with a copy of its parameters in which ``fields`` are set."""
        params = call.call.params
        return [
            f"{indent}{{",
            f"{indent}    struct bitship_{params.name} p = {self.constants.name(params)};",
            *(f"{indent}    p.{field};" for field in fields),
            *invoke(self.p, node, call.call, "&p", places, indent + "    "),
            f"{indent}}}",
        ]

    def strips(self) -> list[str]:
        """Return the loop over strips of rows."""
        g, streamed = self.g, self.s.stage.streamed
        lines = [f"    struct bitship_strip s0 = {{0, 0, {0 if streamed else g.extent(g.source)[0]}}};"]
        lines += [f"    struct bitship_strip s{i} = {{0, 0, 0}};" for i in range(1, len(g.tensors))]
        lines += ["", f"    for (int32_t step = 1; step <= {g.steps[0]}; step++) {{"]
        for name in g.tensors[0 if streamed else 1 :]:
            lines += self.advance(name)
        if streamed:
            at = f"arena + {self.offset(g.source)} + (s0.from - s0.base) * {row_bytes(g, g.source)}"
            lines += [
                "        if (s0.to > s0.from) {",
                f"            TRY(read(context, s0.from, s0.to - s0.from, {at}));",
            ]
            lines += ["        }"]
        for node, calls in self.s.calls:
            lines += self.strip_node(node, calls)
        return [*lines, "    }"]

    def advance(self, name: str) -> list[str]:
        """Return what begins a step for a tensor."""
        g, i = self.g, self.number(name)
        edge, reads = g.reach[name], []
        for node in g.readers[name]:
            axis = g.axes(node)[0]
            reads.append(f"bitship_first_row(s{self.number(node.output)}.to, {axis.stride}, {axis.before})")
        reach = f"bitship_reach({_line(edge, 'step')}, {edge.divisor}, {edge.cap})"
        held = "whole" if name == g.output else f"{g.rows_held[name]} rows of {row_bytes(g, name)} B"
        lines = [f"        /* {tensor_type(self.p, name)}: {held} */"]
        if reads and name not in g.carried:
            return [*lines, f"        bitship_strip_anew(&s{i}, {reach});"]
        at = f"arena + {self.offset(name)}, {row_bytes(g, name)}"
        return [
            *lines,
            f"        bitship_strip_next(&s{i}, {at}, {_lowest(reads) if reads else '0'}, {reach});",
        ]

    def strip_node(self, node: Node, calls: tuple[StageCall, ...]) -> list[str]:
        """Return a node's new rows."""
        g, axis, out = self.g, self.g.axes(node)[0], f"s{self.number(node.output)}"
        more = f" + ({out}.from - {out}.base) * {row_bytes(g, node.output)}"
        places = {f"to {node.output}": where(self.p, node.output, True, more)}
        for name in g.operands(node):
            places[name] = where(self.p, name, False, f" + (first - s{self.number(name)}.base) * {row_bytes(g, name)}")
        lines = [
            f"        if ({out}.to > {out}.from) {{ /* {title(self.p, node)} */",
            f"            const int32_t first = bitship_first_row({out}.from, {axis.stride}, {axis.before});",
        ]
        held = f"s{self.number(g.operands(node)[0])}"
        for call in calls:
            fields = _sized(call, f"({out}.to - {out}.from) * {g.extent(node.output)[1]}")
            if call.window:
                fields = [
                    f"out_h = {out}.to - {out}.from",
                    f"pad_top = first - ({out}.from * {axis.stride} - {axis.before})",
                    f"in_h = bitship_rows_in(p.out_h, {axis.stride}, {axis.extent}, p.pad_top, {held}.to - first)",
                ]
            lines += self.call(node, call, fields, places, "            ")
        return [*lines, *self.step(node, "            "), "        }"]

    def tiles(self) -> list[str]:
        """Return the loops over tiles of rows and columns."""
        g, end = self.g, len(self.g.tensors) - 1
        (rows, columns), (out_rows, out_columns) = g.extent(g.source), g.extent(g.output)
        indent = "            "
        lines = [
            f"    const struct bitship_region image = {{0, {rows}, 0, {columns}}};",
            f"    const struct bitship_region result = {{0, {out_rows}, 0, {out_columns}}};",
            "",
            f"    for (int32_t y = 0; y < {g.steps[0]}; y++) {{",
            f"        for (int32_t x = 0; x < {g.steps[1]}; x++) {{",
        ]
        for i, name in enumerate(g.tensors):
            (top, left), (bottom, right) = g.starts[name], g.ends[name]
            edges = [(top, "y"), (bottom, "(y + 1)"), (left, "x"), (right, "(x + 1)")]
            text = ", ".join(f"bitship_clamped({_line(e, step)}, {e.cap})" for e, step in edges)
            lines.append(f"{indent}/* {tensor_type(self.p, name)} */")
            lines.append(f"{indent}const struct bitship_region r{i} = {{{text}}};")
        tile, size = self.offset(tile_name(g.source)), pixel_bytes(g, g.source)
        lines.append(f"{indent}bitship_cut(arena + {self.offset(g.source)}, image, r0, {size}, arena + {tile});")
        for node, calls in self.s.calls:
            lines += self.tile_node(node, calls)
        tile, size = self.offset(tile_name(g.output)), pixel_bytes(g, g.output)
        lines.append(f"{indent}bitship_put(arena + {tile}, r{end}, result, {size}, arena + {self.offset(g.output)});")
        return [*lines, "        }", "    }"]

    def tile_node(self, node: Node, calls: tuple[StageCall, ...]) -> list[str]:
        """Return a node's part of a tile."""
        g, (rows, columns), out = self.g, self.g.axes(node), f"r{self.number(node.output)}"
        indent = "                "
        lines = [f"            {{ /* {title(self.p, node)} */"]
        needed = out
        if calls[0].window:
            needed = "n"
            lines.append(f"{indent}const struct bitship_region n = {self.needed(node, out)};")
        places = {}
        for name in g.operands(node):
            held = tile_name(name) if name == g.source else name
            if (node.output, name) in self.s.cut:
                to, size = cut_name(node.output, name), pixel_bytes(g, name)
                at = f"arena + {self.offset(held)}, r{self.number(name)}"
                lines.append(f"{indent}bitship_cut({at}, {needed}, {size}, arena + {self.offset(to)});")
                held = to
            places[name] = where(self.p, held, False)
        if node.output == g.output:
            places[f"to {node.output}"] = where(self.p, tile_name(node.output), True)
        for call in calls:
            fields = _sized(call, f"({out}.bottom - {out}.top) * ({out}.right - {out}.left)")
            lines += self.call(node, call, _extents(out, rows, columns) if call.window else fields, places, indent)
        return [*lines, *self.step(node, indent), "            }"]

    def needed(self, node: Node, out: str) -> str:
        """Return the expression of what a window op reads for a region."""
        rows, columns = self.g.axes(node)
        height, width = self.g.extent(self.g.operands(node)[0])
        taps = [_pair(rows.stride, columns.stride), _pair(rows.before, columns.before)]
        taps.append(_pair(rows.extent, columns.extent))
        return f"bitship_needed({out}, {', '.join(taps)}, {height}, {width})"


def _extents(out: str, rows: Axis, columns: Axis) -> list[str]:
    """Return the fields of a window op that computes region ``out`` from region ``n``."""
    return [
        "in_h = n.bottom - n.top",
        "in_w = n.right - n.left",
        f"out_h = {out}.bottom - {out}.top",
        f"out_w = {out}.right - {out}.left",
        f"pad_top = n.top - ({out}.top * {rows.stride} - {rows.before})",
        f"pad_left = n.left - ({out}.left * {columns.stride} - {columns.before})",
    ]
