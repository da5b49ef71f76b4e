"""A stage as C: one loop over strips or tiles, every call once in it."""

from bitship.converters.firmware.ctext import Constants, invoke, tensor_type, title, where
from bitship.converters.firmware.program import Program
from bitship.converters.firmware.stage import (
    StageCall,
    StageProgram,
    cut_name,
    pixel_bytes,
    row_bytes,
    tile_name,
)
from bitship.graph import Node
from bitship.passes.stage import Edge, Halo

READ = "model_read_rows read, void *context"


def stage_function(p: Program, s: StageProgram, constants: Constants) -> str:
    """Return ``run_stage``, a function that runs the stage's nodes."""
    lines = _strips(p, s, constants) if s.stage.halo is Halo.CACHED else _tiles(p, s, constants)
    arguments = READ if s.stage.streamed else "void"
    return "\n".join([f"static int run_stage({arguments}) {{", "    int error = BITSHIP_OK;", *lines, "    return error;", "}\n"])


def _calls(p: Program, node: Node, call: StageCall, constants: Constants, fields: list[str], places: dict[str, str], indent: str) -> list[str]:
    """Return a call with a copy of its parameters in which ``fields`` are set."""
    params = call.call.params
    lines = [
        f"{indent}{{",
        f"{indent}    struct bitship_{params.name} p = {constants.name(params)};",
        *(f"{indent}    p.{field};" for field in fields),
        *invoke(p, node, call.call, "&p", places, indent + "    "),
        f"{indent}}}",
    ]
    return lines


def _sized(call: StageCall, pixels: str) -> list[str]:
    """Return the fields of a call that is no window's, for so many pixels."""
    return [f"{name} = {f'{base} + ' if base else ''}{each} * {pixels}" for name, base, each in call.by_size]


def _lowest(items: list[str]) -> str:
    """Return an expression for the least of several."""
    return items[0] if len(items) == 1 else f"bitship_lower({items[0]}, {_lowest(items[1:])})"


def _strips(p: Program, s: StageProgram, constants: Constants) -> list[str]:
    g = s.geometry
    number = {name: i for i, name in enumerate(g.tensors)}
    whole = 0 if s.stage.streamed else g.extent(g.source)[0]
    lines = [f"    struct bitship_strip s0 = {{0, 0, {whole}}};" ]
    lines += [f"    struct bitship_strip s{i} = {{0, 0, 0}};" for i in range(1, len(g.tensors))]
    lines += ["", f"    for (int32_t step = 1; step <= {g.steps[0]}; step++) {{"]
    for name, i in number.items():
        if i == 0 and not s.stage.streamed:
            continue
        edge, slot = g.reach[name], p.plan.slots[name]
        reads = [
            f"bitship_first_row(s{number[n.output]}.to, {g.axes(n)[0].stride}, {g.axes(n)[0].before})"
            for n in g.readers[name]
        ]
        base = _lowest(reads) if reads else "0"
        reach = f"bitship_reach({_line(edge, 'step')}, {edge.divisor}, {edge.cap})"
        held = "whole" if name == g.output else f"{g.rows_held[name]} rows of {row_bytes(g, name)} B"
        lines += [
            f"        /* {tensor_type(p, name)}: {held} */",
            f"        bitship_strip_next(&s{i}, arena + {slot.offset}, {row_bytes(g, name)}, {base}, {reach});",
        ]
    if s.stage.streamed:
        at = f"arena + {p.plan.slots[g.source].offset} + (s0.from - s0.base) * {row_bytes(g, g.source)}"
        lines += ["        if (s0.to > s0.from) {", f"            TRY(read(context, s0.from, s0.to - s0.from, {at}));", "        }"]
    for node, calls in s.calls:
        lines += _strip_node(p, s, node, calls, constants, number)
    return [*lines, "    }"]


def _strip_node(p: Program, s: StageProgram, node: Node, calls: tuple[StageCall, ...], constants: Constants, number: dict[str, int]) -> list[str]:
    g, axis = s.geometry, s.geometry.axes(node)[0]
    out = f"s{number[node.output]}"
    places = {f"to {node.output}": where(p, node.output, True, f" + ({out}.from - {out}.base) * {row_bytes(g, node.output)}")}
    for name in g.operands(node):
        places[name] = where(p, name, False, f" + (first - s{number[name]}.base) * {row_bytes(g, name)}")
    lines = [
        f"        if ({out}.to > {out}.from) {{ /* {title(p, node)} */",
        f"            const int32_t first = bitship_first_row({out}.from, {axis.stride}, {axis.before});",
    ]
    pixels = f"({out}.to - {out}.from) * {g.extent(node.output)[1]}"
    for call in calls:
        fields = _sized(call, pixels)
        if call.window:
            fields = [
                f"in_h = s{number[g.operands(node)[0]]}.to - first",
                f"out_h = {out}.to - {out}.from",
                f"pad_top = first - ({out}.from * {axis.stride} - {axis.before})",
            ]
        lines += _calls(p, node, call, constants, fields, places, "            ")
    return [*lines, "        }"]


def _line(edge: Edge, step: str) -> str:
    """Return ``scale * step + offset``."""
    line = step if edge.scale == 1 else f"{edge.scale} * {step}"
    return line if edge.offset == 0 else f"{line} {'+' if edge.offset > 0 else '-'} {abs(edge.offset)}"


def _tiles(p: Program, s: StageProgram, constants: Constants) -> list[str]:
    g = s.geometry
    number = {name: i for i, name in enumerate(g.tensors)}
    end = len(g.tensors) - 1
    source, output = p.plan.slots[g.source].offset, p.plan.slots[g.output].offset
    (rows, columns), (out_rows, out_columns) = g.extent(g.source), g.extent(g.output)
    lines = [
        f"    const struct bitship_region image = {{0, {rows}, 0, {columns}}}, result = {{0, {out_rows}, 0, {out_columns}}};",
        "",
        f"    for (int32_t y = 0; y < {g.steps[0]}; y++) {{",
        f"        for (int32_t x = 0; x < {g.steps[1]}; x++) {{",
    ]
    for name, i in number.items():
        (top, left), (bottom, right) = g.starts[name], g.ends[name]
        edges = [(top, "y"), (bottom, "(y + 1)"), (left, "x"), (right, "(x + 1)")]
        text = ", ".join(f"bitship_clamped({_line(e, step)}, {e.cap})" for e, step in edges)
        lines += [f"            /* {tensor_type(p, name)} */", f"            const struct bitship_region r{i} = {{{text}}};"]
    tile = p.plan.slots[tile_name(g.source)].offset
    lines.append(f"            bitship_cut(arena + {source}, image, r0, {pixel_bytes(g, g.source)}, arena + {tile});")
    for node, calls in s.calls:
        lines += _tile_node(p, s, node, calls, constants, number)
    tile = p.plan.slots[tile_name(g.output)].offset
    lines.append(f"            bitship_put(arena + {tile}, r{end}, result, {pixel_bytes(g, g.output)}, arena + {output});")
    return [*lines, "        }", "    }"]


def _pair(a: int, b: int) -> str:
    return f"(const int32_t[]){{{a}, {b}}}"


def _tile_node(p: Program, s: StageProgram, node: Node, calls: tuple[StageCall, ...], constants: Constants, number: dict[str, int]) -> list[str]:
    g = s.geometry
    (rows, columns), out = g.axes(node), f"r{number[node.output]}"
    places = {}
    if node.output == g.output:
        places[f"to {node.output}"] = where(p, tile_name(node.output), True)
    lines = [f"            {{ /* {title(p, node)} */"]
    needed = out
    if calls and calls[0].window:
        name = g.operands(node)[0]
        text = f"{_pair(rows.stride, columns.stride)}, {_pair(rows.before, columns.before)}, {_pair(rows.extent, columns.extent)}"
        height, width = g.extent(name)
        needed = "n"
        lines.append(f"                const struct bitship_region n = bitship_needed({out}, {text}, {height}, {width});")
    for name in g.operands(node):
        held = tile_name(name) if name == g.source else name
        places[name] = where(p, held, False)
        if (node.output, name) in s.cut:
            cut = p.plan.slots[cut_name(node.output, name)].offset
            held_at = p.plan.slots[held].offset
            lines.append(
                f"                bitship_cut(arena + {held_at}, r{number[name]}, {needed}, {pixel_bytes(g, name)}, arena + {cut});"
            )
            places[name] = where(p, cut_name(node.output, name), False)
    for call in calls:
        fields = _sized(call, f"({out}.bottom - {out}.top) * ({out}.right - {out}.left)")
        if call.window:
            fields = [
                "in_h = n.bottom - n.top",
                "in_w = n.right - n.left",
                f"out_h = {out}.bottom - {out}.top",
                f"out_w = {out}.right - {out}.left",
                f"pad_top = n.top - ({out}.top * {rows.stride} - {rows.before})",
                f"pad_left = n.left - ({out}.left * {columns.stride} - {columns.before})",
            ]
        lines += _calls(p, node, call, constants, fields, places, "                ")
    return [*lines, "            }"]
