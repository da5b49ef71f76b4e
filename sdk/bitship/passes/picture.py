"""A memory plan as a table and as a picture: who holds which bytes of the arena, and when."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

import msgspec

from bitship.passes.place import Slot
from bitship.passes.plan import Plan

FILE = "plan.svg"  # in a package

_WIDTH, _LEFT, _RIGHT, _TOP = 1060, 92, 44, 66
_PLOT, _LABELS = 420, 124  # heights
_COLOURS = {"input": "#7fb2e5", "output": "#8fce9b", "tensor": "#c9d3df", "scratch": "#f2c27a"}

_Scale = Callable[[float], float]  # an address to a height in the picture


class Row(msgspec.Struct, frozen=True):
    """One buffer: bytes [offset, offset + size) of the arena from step ``first`` to step ``last``, both included.

    shares  the buffers that it overlaps while both are held: an output and the operand it replaces
    memory  the region, empty for the target's RAM
    """

    name: str
    kind: str
    offset: int
    size: int
    first: int
    last: int
    shares: tuple[str, ...] = ()
    memory: str = ""


def rows(plan: Plan, inputs: Sequence[str], outputs: Sequence[str]) -> list[Row]:
    """Return the buffers by the step they begin with; ``inputs`` and ``outputs`` are the graph's tensors."""
    kinds = {plan.root(name): "output" for name in outputs} | {plan.root(name): "input" for name in inputs}

    def row(name: str, slot: Slot) -> Row:
        kind = "scratch" if name.endswith(".scratch") else kinds.get(name, "tensor")
        shares = tuple(n for n, other in plan.slots.items() if n != name and _meet(slot, other))
        return Row(name, kind, slot.offset, slot.size, slot.first, slot.last, shares, slot.memory)

    found = [row(name, slot) for name, slot in plan.slots.items()]
    return sorted(found, key=lambda r: (r.first, r.last, r.memory, r.offset, r.name))


def _meet(a: Slot, b: Slot) -> bool:
    return a.memory == b.memory and a.alive_with(b) and a.offset < b.offset + b.size and b.offset < a.offset + a.size


def summary(plan: Plan) -> str:
    """Return one line about a plan's size."""
    proven = "proven: no placement in this order needs less" if plan.optimal else "not proven to be the least"
    saved = f"; {plan.bound:,} B are held at the fullest step" if plan.bound != plan.peak else ""
    parts = "".join(f" + {nbytes:,} B in {name}" for name, nbytes in plan.elsewhere.items())
    return f"arena {plan.peak:,} B{parts}, {proven}{saved}"


def draw(plan: Plan, found: Sequence[Row], steps: Sequence[str], title: str) -> str:
    """Return the plan as SVG: steps from left to right, addresses upwards, a rectangle for every buffer.

    steps  what runs at step 1, 2, ...; step 0 fills the inputs, the one behind the last reads the outputs

    Several memories are stacked: the target's RAM, then the others.
    """
    found = [msgspec.structs.replace(r, offset=r.offset + _base(plan, r.memory)) for r in found]
    labels = ["fill", *steps, "read"]
    column = (_WIDTH - _LEFT - _RIGHT) / len(labels)
    scale = _PLOT / max(plan.total, plan.bound, 1)
    height = _TOP + _PLOT + _LABELS

    def y(address: float) -> float:
        return _TOP + _PLOT - address * scale

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="11" fill="#1c2430">',
        '<defs><pattern id="over" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path d="M0 0V5" stroke="#8b1a1a" stroke-width="1.6"/></pattern></defs>',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="38" fill="#5a6675">{escape(summary(plan))}</text>',
        *_legend(),
    ]
    for address in _ticks(max(plan.total, plan.bound)):
        parts.append(_line(_LEFT, _WIDTH - _RIGHT, y(address), "#e3e8ee"))
        parts.append(f'<text x="{_LEFT - 6}" y="{y(address) + 4:.1f}" text-anchor="end">{address:,}</text>')
    for r in found:
        parts += _buffer(r, column, y, scale)
    parts += _shared({r.name: r for r in found}, column, y, scale)
    ends = [(_base(plan, m) + n, n, f"arena in {m}", "#c0392b") for m, n in plan.elsewhere.items()]
    ends = [(plan.peak, plan.peak, "arena", "#c0392b"), *ends] if plan.peak else ends
    for value, nbytes, text, colour in ((plan.bound, plan.bound, "held, nothing shared", "#8a5a00"), *ends):
        parts.append(_line(_LEFT, _WIDTH - _RIGHT, y(value), colour, ' stroke-dasharray="6 3"'))
        if text.startswith("arena") or plan.bound != plan.total:
            parts.append(
                f'<text x="{_WIDTH - _RIGHT}" y="{y(value) - 3:.1f}" text-anchor="end" fill="{colour}">'
                f"{text} {nbytes:,} B</text>"
            )
    parts += _axis(labels, column)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _base(plan: Plan, memory: str) -> int:
    """Return where a region begins in the picture."""
    at = plan.peak
    for name, nbytes in plan.elsewhere.items():
        if name == memory:
            return at
        at += nbytes
    return 0


def _line(left: float, right: float, y: float, colour: str, more: str = "") -> str:
    return f'<path d="M{left} {y:.1f}H{right}" stroke="{colour}"{more}/>'


def _legend() -> Iterator[str]:
    x = float(_LEFT)
    for kind, colour in (*_COLOURS.items(), ("an output over its operand", "url(#over)")):
        yield f'<rect x="{x:.1f}" y="46" width="12" height="12" fill="{colour}" stroke="#5a6675" stroke-width="0.6"/>'
        yield f'<text x="{x + 17:.1f}" y="56">{kind}</text>'
        x += 34 + 6.2 * len(kind)


def _ticks(most: int) -> list[int]:
    """Return round addresses, at most eight."""
    steps = (digit * 10**power for power in range(12) for digit in (1, 2, 5))
    step = next(step for step in steps if most <= 7 * step)
    return list(range(0, most + 1, step))


def _buffer(r: Row, column: float, y: _Scale, scale: float) -> Iterator[str]:
    x, width = _LEFT + r.first * column, (r.last - r.first + 1) * column
    height, top = r.size * scale, y(r.offset + r.size)
    shared = f"; shares with {', '.join(r.shares)}" if r.shares else ""
    about = f"{r.name}: {r.kind}, {r.size:,} B at {r.offset:,}, steps {r.first} to {r.last}{shared}"
    yield (
        f'<g><title>{escape(about)}</title><rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{_COLOURS[r.kind]}" fill-opacity="0.85" stroke="#5a6675" stroke-width="0.6"/>'
    )
    room = int((width - 4 - (column if r.shares and r.last > r.first else 0)) / 6.5)
    if height > 13 and room >= 5:
        text = r.name if len(r.name) <= room else f"{r.name[: room - 1]}…"
        yield f'<text x="{x + 4:.1f}" y="{top + height / 2 + 4:.1f}">{escape(text)}</text>'
    yield "</g>"


def _shared(known: Mapping[str, Row], column: float, y: _Scale, scale: float) -> Iterator[str]:
    """Yield the bytes that two buffers hold at the same step."""
    for r in known.values():
        for other in (known[name] for name in r.shares if name > r.name):
            first, last = max(r.first, other.first), min(r.last, other.last)
            low, high = max(r.offset, other.offset), min(r.offset + r.size, other.offset + other.size)
            yield (
                f'<rect x="{_LEFT + first * column:.1f}" y="{y(high):.1f}" width="{(last - first + 1) * column:.1f}" '
                f'height="{(high - low) * scale:.1f}" fill="url(#over)" fill-opacity="0.55" pointer-events="none"/>'
            )


def _axis(labels: Sequence[str], column: float) -> Iterator[str]:
    yield f'<path d="M{_LEFT} {_TOP}V{_TOP + _PLOT}H{_WIDTH - _RIGHT}" stroke="#1c2430" fill="none"/>'
    every = max(1, -(-11 // int(max(column, 1))))
    for i in range(0, len(labels), every):
        x, at = _LEFT + (i + 0.5) * column, _TOP + _PLOT + 8
        yield (
            f'<text x="{x:.1f}" y="{at}" font-size="10" transform="rotate(60 {x:.1f} {at})">'
            f"{i}: {escape(labels[i])}</text>"
        )
