"""A captured module with its calibration: what graphs, reports and training are made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bitship.graph import Graph
from bitship.graph.base import Array
from bitship.quantization.migration import migrate, norms_before_layers
from bitship.quantization.plan import Plan, make_plan
from bitship.quantization.planned import PlannedWalk
from bitship.quantization.ranges import calibrate
from bitship.quantization.recipe import Migration, Recipe
from bitship.quantization.rewrite import computed
from bitship.quantization.sensitivity import Sensitivity, sensitivity

Item = tuple[Any, ...]


@dataclass
class Prepared:
    """A module ready to become integers.

    module    the captured torch.fx.GraphModule in float, rewritten and folded
    items     the calibration inputs, batch 1 each
    plan      bits and ranges of every tensor
    channels  ranges per channel that decided a migration; empty without one
    """

    name: str
    module: Any
    items: Sequence[Item]
    plan: Plan
    channels: dict[str, tuple[Array, Array]]

    @classmethod
    def of(cls, module: Any, items: Sequence[Item], recipe: Recipe, name: str) -> "Prepared":
        """Capture a torch.nn.Module in eval mode and calibrate it."""
        captured = capture_eval(module, items[0])
        channels: dict[str, tuple[Array, Array]] = {}
        if recipe.migration is not Migration.NONE:
            channels = calibrate(captured, items, Recipe(), norms_before_layers(captured)).channels
            migrate(captured, channels, recipe)
        return cls(name, captured, items, make_plan(captured, calibrate(captured, items, recipe), recipe), channels)

    def graph(self) -> Graph:
        """Return the verified integer graph for batch 1."""
        return self.walk()[0]

    def walk(self) -> tuple[Graph, PlannedWalk]:
        """Return the graph, and the walk that wrote it, which knows what every node of the module has become."""
        walk = PlannedWalk(self.module, self.name, self.plan)
        return walk.run(), walk

    def sensitivity(self, items: Sequence[Item] = ()) -> Sensitivity:
        """Return the signal-to-noise ratio of every tensor, float against integer, on inputs (by default 4 known)."""
        return sensitivity(self, items or self.items[:4])

    def recalibrate(self) -> None:
        """Take the ranges anew from the module's weights as they are now."""
        self.plan.ranges = calibrate(self.module, self.items, self.plan.recipe)


def capture_eval(module: Any, example: Item) -> Any:
    """Return a captured module whose every computed op has a handler; training flags are left as they were."""
    from bitship.quantization.capture import capture
    from bitship.quantization.handlers import handler_of

    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        captured = capture(module, example)
    finally:
        for m in training:
            m.training = True
    for node in computed(captured):  # refuse an op without integer form before anything is calibrated
        if node.op == "call_function":
            handler_of(node)
    return captured
