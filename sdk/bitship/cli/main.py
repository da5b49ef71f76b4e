"""Assemble the commands, and turn every user error into one line and exit code 2."""

import os
import sys
from collections.abc import Callable

import typer

from bitship.cli import benches, memory, models, packages, split, system
from bitship.errors import BitshipError
from bitship.version import VERSION

app = typer.Typer(
    name="bitship",
    help="Ship the same bits to every device: integer-only vision models, proven bit-exact from server to "
    "microcontroller.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: tuple[Callable[..., None], ...] = (
    models.quantize,
    models.inspect,
    models.sensitivity,
    packages.fit,
    memory.plan,
    packages.export,
    benches.bench,
    benches.compare,
    benches.report,
    system.targets,
    system.devices,
    system.doctor,
    system.demo,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(split.app)


def _version(value: bool) -> None:
    if value:
        print(f"bitship {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Ship the same bits to every device."""


def main() -> None:
    """Run the command line; a BitshipError is printed as one line, exit code 2."""
    try:
        app()
    except BitshipError as e:
        print(f"bitship: error: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("bitship: interrupted; nothing half-written is left", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()
