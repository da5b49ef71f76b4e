"""Pieces of generated C: constants, addresses, comments."""

import re
from dataclasses import dataclass, field

from bitship.converters.firmware.program import Foreign, Program
from bitship.graph import Node
from bitship.graph.calls import Call, CArray, CStruct, CValue, Operand, Packed
from bitship.passes.plan import scratch_name


@dataclass
class Constants:
    """Static constants of model.c, each distinct value once."""

    lines: list[str] = field(default_factory=list)
    names: dict[CArray | CStruct, str] = field(default_factory=dict)

    def name(self, value: CArray | CStruct) -> str:
        """Return the identifier of a constant, declaring it the first time."""
        if value in self.names:
            return self.names[value]
        if isinstance(value, CArray):
            kind, prefix, suffix = value.ctype, "table", f"[{len(value.values)}]"
            body = _wrap([_integer(v) for v in value.values])
        else:
            kind, prefix, suffix = f"struct bitship_{value.name}", value.name, ""
            body = ",\n    ".join(f".{name} = {self.text(v)}" for name, v in value.fields if v not in (None, 0))
        name = f"{prefix}_{len(self.names)}"
        self.names[value] = name
        self.lines.append(f"static const {kind} {name}{suffix} = {{\n    {body}}};")
        return name

    def text(self, value: CValue) -> str:
        """Return a field's initializer."""
        if isinstance(value, CArray):
            return self.name(value)
        if isinstance(value, CStruct):
            return f"&{self.name(value)}"
        if isinstance(value, tuple):
            return f"{{{', '.join(_integer(v) for v in value)}}}"
        return "0" if value is None else _integer(value)


def _integer(value: int) -> str:
    return "(-2147483647 - 1)" if value == -(1 << 31) else str(value)


def _wrap(items: list[str]) -> str:
    lines = [", ".join(items[i : i + 16]) for i in range(0, len(items), 16)]
    return (",\n    ").join(lines)


def comment(text: str) -> str:
    """A tensor's name fit for a C comment."""
    return re.sub(r"[^A-Za-z0-9_.:;#/\[\]-]", "_", text).replace("/*", "/_")[:60]


def tensor_type(p: Program, name: str) -> str:
    """A tensor's type and name for a comment."""
    return f"{p.lowered.types[name]} {comment(name)}"


def title(p: Program, node: Node) -> str:
    """One line about a node: op, shapes, MACs."""
    operands = ", ".join(str(p.lowered.types[i]) for i in node.inputs)
    macs = p.lowered.node_macs(node)
    return f"{node.op.name}: {operands} -> {tensor_type(p, node.output)}{f'; {macs} MACs' if macs else ''}"


def where(p: Program, operand: Operand, writable: bool, more: str = "") -> str:
    """Return the address of an operand, ``more`` bytes into it."""
    slot = None if isinstance(operand, Packed) else p.plan.slot(operand)
    if slot is None:
        known = operand if isinstance(operand, Packed) else p.plan.root(operand)
        return f"(const void *)(model_weights + {p.offsets[known]})"
    return f"({'void' if writable else 'const void'} *)({arena(slot.memory)} + {slot.offset}{more})"


def arena(memory: str) -> str:
    """Return the C name of a region's arena."""
    return f"arena_{memory}" if memory else "arena"


def invoke(p: Program, node: Node, call: Call, params: str, places: dict[str, str], indent: str) -> list[str]:
    """Return the lines of one call; ``places`` has the addresses of tensors that are not where the plan says."""
    arguments = [params]
    for operand in call.operands:
        at = places.get(operand) if isinstance(operand, str) else None
        arguments.append(at or where(p, operand, False))
    if call.scratch_bytes:
        slot = p.plan.slots[scratch_name(node.output)]
        arguments += [f"(void *)({arena(slot.memory)} + {slot.offset})", str(call.scratch_bytes)]
    arguments.append(places.get(f"to {call.output}") or where(p, call.output, True))
    return [f"{indent}TRY({call.function}({', '.join(arguments)}));"]


def node_lines(p: Program, node: Node, calls: tuple[Call, ...], constants: Constants) -> list[str]:
    """Return a node's lines in model_run."""
    lines = [f"    /* {title(p, node)} */"]
    for call in calls:
        if isinstance(call, Foreign):
            lines.append(_foreign(p, node, call))
        else:
            lines += invoke(p, node, call, f"&{constants.name(call.params)}", {}, "    ")
    return lines


def _foreign(p: Program, node: Node, call: Foreign) -> str:
    """Return the line that calls a function of another tool."""
    arguments = []
    for a in call.arguments:
        if isinstance(a, int):
            slot = p.plan.slots[scratch_name(node.output)]
            arguments.append(f"{arena(slot.memory)} + {slot.offset + a}")
        else:
            arguments.append(f"(void *)(uintptr_t){where(p, a, False)}")
    return f"    TRY(({call.function}({''.join(f'{a}, ' for a in arguments)}0, 1), BITSHIP_OK));"


def prototypes(p: Program) -> str:
    """Return the declarations of functions of another tool."""
    found = {call.function: len(call.arguments) for call in p.foreign}
    return "".join(f"void {name}({'void *, ' * count}int32_t, int32_t);\n" for name, count in found.items())
