"""What a meter is: something that samples the power a board draws."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bitship.figures import FigureKind


@dataclass(frozen=True)
class PowerTrace:
    """Power over time, as the meter gave it.

    seconds  float64 [n], time of every sample from the first one, rising
    watts    float64 [n]
    marker   bool [n], level of the marker line; None where the meter has none
    start_s  the host's monotonic clock at the first sample, as well as it is known; slack_s  how well
    lost     samples the meter says it lost: a trace with any is not integrated
    kind     measured by an instrument, or estimated by a model (RAPL)
    """

    seconds: NDArray[np.float64]
    watts: NDArray[np.float64]
    marker: NDArray[np.bool_] | None
    start_s: float
    slack_s: float = 0.0
    lost: int = 0
    kind: FigureKind = FigureKind.MEASURED


class Recording(Protocol):
    """A meter that is sampling."""

    def stop(self) -> PowerTrace:
        """Stop and return everything since the start; DeviceError on silence or garbage."""
        ...


class MeterDriver(Protocol):
    """Settings of one driver, a struct of ``devices.toml``."""

    def record(self) -> AbstractContextManager[Recording]:
        """Begin to sample; DeviceError when the meter is silent or another device answers."""
        ...

    def title(self) -> str:
        """What reports call it: instrument, rate, range."""
        ...
