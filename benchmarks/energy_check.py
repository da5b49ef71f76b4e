"""How near the energy drivers come to a known load: stand-ins of an LPM01A and a PPK2 on pseudo terminals.

    python -m benchmarks.energy_check

For every meter and way to find the edges: microjoules per inference as reported, the exact integral of the load over
the same windows, and the largest relative difference. Needs the source tree: the stand-ins are in tests/standins.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bitship.device.energy import Energy, Windows, measure_energy
from bitship.device.meters import Lpm01aMeter, Ppk2Meter
from bitship.device.meters.lpm01a import Lpm01aFormat, Lpm01aOutput

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from standins import lpm01a, ports, ppk2
from standins.bench_load import Board

EFFORT = Windows(window_s=1.0, least=3, most=3)


class Row(NamedTuple):
    """One meter: what it said and what was true, in uJ per inference."""

    meter: str
    edges: str
    reported: float
    true: float
    worst: float
    bound: float


def compare(board: Board, found: Energy) -> Row:
    """Compare every window with the exact integral of the load."""
    reported = np.array(found.samples[0].values)
    first = len(board.bursts) - len(reported)
    true = np.array([board.joules(first + i) for i in range(len(reported))]) / found.runs * 1e6
    worst = float(np.max(np.abs(reported / true - 1)))
    bound = found.samples[0].resolution
    return Row(found.meter, found.edges, float(reported.mean()), float(true.mean()), worst, bound)


def with_ppk2(marker: bool) -> Row:
    """Measure with a PPK2."""
    board = Board()
    with ppk2.ppk2(board.amps, board.marker, 3) as kit:
        return compare(board, measure_energy(board, Ppk2Meter(kit.port, marker=3 if marker else None), (), EFFORT))


def with_lpm01a(marker: bool, form: Lpm01aFormat, output: Lpm01aOutput, rate: int) -> Row:
    """Measure with a PowerShield."""
    board = Board()
    with ports.serve(lpm01a.Shield(board.amps, board.marker).serve) as port:
        meter = Lpm01aMeter(port, rate_hz=rate, format=form, output=output, marker=marker)
        return compare(board, measure_energy(board, meter, (), EFFORT))


def rows() -> list[Row]:
    """Measure with all of them."""
    return [
        with_ppk2(marker=True),
        with_ppk2(marker=False),
        with_lpm01a(True, Lpm01aFormat.ASCII, Lpm01aOutput.ENERGY, 5_000),
        with_lpm01a(False, Lpm01aFormat.ASCII, Lpm01aOutput.ENERGY, 5_000),
        with_lpm01a(True, Lpm01aFormat.BINARY, Lpm01aOutput.ENERGY, 10_000),
        with_lpm01a(True, Lpm01aFormat.BINARY, Lpm01aOutput.CURRENT, 20_000),
    ]


def main() -> None:
    """Print the table; exit status 1 where a meter is off by more than 1 %."""
    table = Table("meter", "edges", "reported uJ", "integral uJ", "off by", "stated bound uJ")
    found = rows()
    for r in found:
        figures = f"{r.reported:.3f}", f"{r.true:.3f}", f"{r.worst * 100:.4f} %", f"{r.bound:.3f}"
        table.add_row(r.meter, r.edges, *figures)
    Console(width=150).print(table)
    sys.exit(int(max(r.worst for r in found) > 0.01))


if __name__ == "__main__":
    main()
