"""What a quantization is asked to do: plain data."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

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


class Migration(enum.Enum):
    """What moves from the activations after a layer norm into the weights that read them; the float value stays.

    NONE            nothing
    REPARAMETERISE  every channel gets one scale and zero point: RepQ-ViT, arXiv 2212.08254
    SMOOTH          part of every channel's range, its middle too: SmoothQuant, arXiv 2211.10438, with the bias of
                    MPTQ-ViT, arXiv 2401.14895
    """

    NONE = "none"
    REPARAMETERISE = "reparameterise"
    SMOOTH = "smooth"


class SoftmaxForm(enum.Enum):
    """TABLE: 256-entry exponential, normalised after the product. SHIFTMAX: I-ViT's."""

    TABLE = "table"
    SHIFTMAX = "shiftmax"


class GeluForm(enum.Enum):
    """TABLE: exact table. SHIFTGELU: I-ViT's."""

    TABLE = "table"
    SHIFTGELU = "shiftgelu"


class NormForm(enum.Enum):
    """EXACT: exact statistics. I_LAYER_NORM: I-ViT's."""

    EXACT = "exact"
    I_LAYER_NORM = "i_layer_norm"


@dataclass(frozen=True)
class Recipe:
    """Symmetric weights per output channel, activations per tensor, int32 bias, one rounding.

    percentile        in (50, 100], for Calibrator.PERCENTILE
    weight_bits       2 to 8; of 4 or fewer, packed two to a byte (`bitship.graph.packing`)
    weight_group      inputs that share an integer multiplier, in matrix products and 1x1 convolutions of 4 bits or
                      fewer; 0: one scale per output channel alone
    layer_bits        weight bits of single layers, by their module path (``blocks.0.mlp.fc1``)
    activation_bits   8 (affine, or symmetric) or 16 (always symmetric)
    residual_bits     of the tensors that are added up into what a layer norm reads: 8, or 16 (symmetric)
    symmetric         8-bit activations without zero point
    migration_strength  of Migration.SMOOTH: share of the range that moves, in [0, 1]
    """

    calibrator: Calibrator = Calibrator.MINMAX
    percentile: float = 99.99
    weight_bits: int = 8
    weight_group: int = 0
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    activation_bits: int = 8
    residual_bits: int = 16
    symmetric: bool = False
    migration: Migration = Migration.NONE
    migration_strength: float = 0.5
    softmax: SoftmaxForm = SoftmaxForm.TABLE
    gelu: GeluForm = GeluForm.TABLE
    norm: NormForm = NormForm.EXACT

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, *self.layer_bits.values()):
            _check(2 <= bits <= 8, f"weight bits {bits}: 2 to 8 are allowed")
        _check(self.weight_group in (0, 32, 64), f"weight_group {self.weight_group}: 0, 32 and 64 are allowed")
        _check(50 < self.percentile <= 100, f"percentile {self.percentile}: (50, 100] is allowed")
        for what, bits in (("activation_bits", self.activation_bits), ("residual_bits", self.residual_bits)):
            _check(bits in (8, 16), f"{what} {bits}: 8 and 16 are allowed")
        _check(0 <= self.migration_strength <= 1, f"migration_strength {self.migration_strength}: [0, 1] is allowed")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise QuantizationError(f"recipe: {message}")


RECIPES = {
    "int8": Recipe(),
    "int8-mse": Recipe(Calibrator.MSE),
    "int8-percentile": Recipe(Calibrator.PERCENTILE),
    "int8-repq": Recipe(migration=Migration.REPARAMETERISE),
    "int8-smooth": Recipe(migration=Migration.SMOOTH),
    "ivit": Recipe(symmetric=True, softmax=SoftmaxForm.SHIFTMAX, gelu=GeluForm.SHIFTGELU, norm=NormForm.I_LAYER_NORM),
    "w8a16": Recipe(activation_bits=16),
    "w4a8": Recipe(weight_bits=4, migration=Migration.REPARAMETERISE),
    "w4a8_g32": Recipe(weight_bits=4, weight_group=32, migration=Migration.REPARAMETERISE),
    "w4a8_g64": Recipe(weight_bits=4, weight_group=64, migration=Migration.REPARAMETERISE),
}


def recipe_named(name: str) -> Recipe:
    """Return a recipe by its name; QuantizationError lists the names there are."""
    if name not in RECIPES:
        raise QuantizationError(f"recipe '{name}': unknown; {', '.join(RECIPES)} are known")
    return RECIPES[name]
