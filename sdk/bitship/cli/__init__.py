"""The command line. Commands import what they need when they run, so that ``bitship --help`` is quick."""

from bitship.cli.main import main

__all__ = ["main"]
