"""Results of float ops whose quantization the front end has not read yet."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from bitship.importers.functions import Function
from bitship.importers.integerize import NO_LIMITS, Integerizer, Limits, QParams, QuantizedTensor

Emit = Callable[[QParams, Limits], QuantizedTensor]


@dataclass(frozen=True)
class Pending:
    """A result whose quantization is not read yet; ``emit`` writes its op once it is."""

    emit: Emit
    limits: Limits = NO_LIMITS

    def clamped(self, limits: Limits) -> "Pending":
        """Return the same result under one more clamp."""
        low, high = self.limits
        clip = (min(max(limits[0], low), high), max(min(limits[1], high), low))
        return replace(self, limits=clip)


def table(g: Integerizer, name: str, x: QuantizedTensor, function: Function) -> Pending:
    """Return a function of one variable, later clamps folded into its table."""

    return Pending(lambda q, limits: g.unary(name, x, function, q, limits))
