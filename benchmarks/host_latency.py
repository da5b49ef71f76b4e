"""A model on this machine: bitship against other runtimes, interleaved in one process.

python -m benchmarks.host_latency [--suite mobilenet|transformers] [--data FOLDER] [--rounds 60] [--only NAME]
                                  [--json FILE]

Every runtime runs once per round, in turn, so that a busy moment of the machine hits all of them; a run that was
preempted is repeated. The figures are medians and quantiles over the rounds, the ratio is the median of the per-round
ratios to bitship's first row. A runtime that is not installed says so in its row.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks import mobilenet_suite, rivals, transformer_suite
from benchmarks.latency import Row, rows, show
from bitship.errors import BitshipError


def measured(suite: str, data: Path | None, rounds: int, only: list[str]) -> tuple[str, list[Row]]:
    """Return a suite's title and rows."""
    with tempfile.TemporaryDirectory() as folder:
        if suite == "transformers":
            table, title = transformer_suite.runtimes(Path(folder)), transformer_suite.TITLE
        else:
            table, title = mobilenet_suite.runtimes(data, Path(folder)), mobilenet_suite.TITLE
        # Pinned only once all are open: threads that a row asked for are to have other cores.
        return title, rows(table, rounds, only, settle=rivals.pin_to_one_core)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A model on this machine against other runtimes.")
    parser.add_argument("--suite", choices=("mobilenet", "transformers"), default="mobilenet", help="which model")
    parser.add_argument("--data", type=Path, help="the folder of real models; BITSHIP_DATA when not given")
    parser.add_argument("--rounds", type=int, default=60, help="runs of every runtime")
    parser.add_argument("--only", action="append", default=[], help="part of a runtime's name; may be repeated")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()
    given = args.data or (Path(os.environ["BITSHIP_DATA"]) if os.environ.get("BITSHIP_DATA") else None)
    title, found = measured(args.suite, given, args.rounds, args.only)
    show(title, found)
    if args.json:
        args.json.write_bytes(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BitshipError as e:
        sys.exit(f"benchmarks.host_latency: {e}")
