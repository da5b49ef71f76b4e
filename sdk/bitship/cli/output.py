"""How commands speak: tables and progress for people, one JSON value for programs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from bitship.report import number

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN_WIDTH = 180  # where the output is no terminal


def console(stderr: bool = False) -> "Console":
    """Return a rich console on stdout or stderr; brackets are text, not markup."""
    from rich.console import Console

    c = Console(stderr=stderr, highlight=False, markup=False)
    return c if c.is_terminal else Console(stderr=stderr, highlight=False, markup=False, width=_PLAIN_WIDTH)


def emit_json(value: Any) -> None:
    """Print one JSON value, indented, and nothing else."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> None:
    """Print a table; the first ``left`` columns are text, the others are aligned right."""
    from rich import box
    from rich.table import Table

    t = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, name in enumerate(columns):
        t.add_column(name, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        t.add_row(*(_text(v) for v in row))
    console().print(t)


def short(name: str, width: int = 40) -> str:
    """Return a tensor name's last part, with an ellipsis when it is longer than ``width``."""
    last = name.rstrip(";").rsplit(";", 1)[-1]
    return last if len(last) <= width else f"...{last[3 - width :]}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    return "-" if value is None else str(value)


@contextmanager
def working(what: str, quiet: bool) -> Iterator[None]:
    """Show a spinner on stderr while a step runs, unless quiet or stderr is no terminal."""
    c = console(stderr=True)
    if quiet or not c.is_terminal:
        yield
        return
    with c.status(what):
        yield
