"""Where a figure comes from."""

import enum


class FigureKind(enum.Enum):
    """Where a figure comes from. An emulator's instruction count is never a latency of a board."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    ESTIMATED = "estimated"
