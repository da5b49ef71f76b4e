"""Does a suite on four emulated boards take no longer than on one? Wall time of the command, packages made before.

Runs of one board and of four take turns, so that other work on the machine meets both.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import bitship
from bitship.cli.output import table

BOARDS = ("mps2-an385", "mps2-an386", "mps2-an500", "mps3-an547")


def seconds(packages: Sequence[Path], folder: Path, runs: int) -> float:
    """Return the wall time of ``bitship bench`` on a suite of these packages; raises when it fails."""
    named = ", ".join(f'"{p}"' for p in packages)
    suite = folder / "suite.toml"
    suite.write_text(f'name = "parallel"\n[effort]\nruns = {runs}\nwarmup = 1\n[[run]]\npackages = [{named}]\n')
    with tempfile.TemporaryDirectory(dir=folder) as out:
        words = [sys.executable, "-m", "bitship", "bench", str(suite), "-o", out, "--workers", str(len(packages))]
        start = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real models")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.data / "mlperf_tiny" / "kws01_dscnn_int8.tflite"
        packages = [bitship.export(model, board, folder / board).path for board in BOARDS]
        single: dict[str, list[float]] = {board: [] for board in BOARDS}
        together = []
        for _ in range(args.rounds):
            for board, package in zip(BOARDS, packages, strict=True):
                single[board].append(seconds([package], folder, args.runs))
            together.append(seconds(packages, folder, args.runs))
    medians = {board: statistics.median(values) for board, values in single.items()}
    all_four = statistics.median(together)
    rows = [(board, m, all_four / m) for board, m in medians.items()]
    rows.append(("mean of the four", statistics.fmean(medians.values()), all_four / statistics.fmean(medians.values())))
    table(f"four boards at once: {all_four:.2f} s (measured)", ["one board", "seconds (measured)", "four / one"], rows)


if __name__ == "__main__":
    main()
