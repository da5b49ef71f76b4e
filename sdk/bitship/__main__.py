"""``python -m bitship``: the command line."""

from bitship.cli import main

main()
