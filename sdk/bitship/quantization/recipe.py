"""What a quantization is asked to do."""

import enum
from dataclasses import dataclass

from bitship.errors import QuantizationError


class Calibrator(enum.Enum):
    """How the range of an activation is chosen from what calibration saw.

    MINMAX      everything seen
    PERCENTILE  the central ``Recipe.percentile`` per cent of what was seen
    MSE         the range of least expected squared error (rounding inside, clipping outside)
    """

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"


@dataclass(frozen=True)
class Recipe:
    """int8: symmetric weights per output channel, affine activations per tensor, int32 bias, one rounding.

    percentile  in (50, 100], for Calibrator.PERCENTILE
    """

    calibrator: Calibrator = Calibrator.MINMAX
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise QuantizationError(f"recipe: percentile {self.percentile}: (50, 100] is allowed")


RECIPES = {
    "int8": Recipe(),
    "int8-mse": Recipe(Calibrator.MSE),
    "int8-percentile": Recipe(Calibrator.PERCENTILE),
}


def recipe_named(name: str) -> Recipe:
    """Return a recipe by its name; QuantizationError lists the names there are."""
    if name not in RECIPES:
        raise QuantizationError(f"recipe '{name}': unknown; {', '.join(RECIPES)} are known")
    return RECIPES[name]
