"""A captured module with its calibration: what graphs, reports and training are made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bitship.graph import Graph
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

    module  the captured torch.fx.GraphModule in float, rewritten and folded
    items   the calibration inputs, batch 1 each
    plan    bits and ranges of every tensor
    """

    name: str
    module: Any
    items: Sequence[Item]
    plan: Plan

    @classmethod
    def of(cls, module: Any, items: Sequence[Item], recipe: Recipe, name: str) -> "Prepared":
        """Capture a torch.nn.Module in eval mode and calibrate it."""
        from bitship.quantization.capture import capture

        training = [m for m in module.modules() if m.training]
        module.eval()
        try:
            captured = capture(module, items[0])
        finally:
            for m in training:
                m.training = True
        return cls.of_captured(captured, items, recipe, name)

    @classmethod
    def of_captured(cls, captured: Any, items: Sequence[Item], recipe: Recipe, name: str) -> "Prepared":
        """Calibrate a captured module; migrates ranges into weights first where the recipe says so."""
        from bitship.quantization.handlers import handler_of
        from bitship.quantization.migration import migrate, norms_before_layers

        for node in computed(captured):  # refuse an op without integer form before anything is calibrated
            if node.op == "call_function":
                handler_of(node)
        if recipe.migration is not Migration.NONE:
            norms = norms_before_layers(captured)
            seen = calibrate(captured, items, recipe, channels=norms)
            migrate(captured, norms, seen.channels, recipe)
        return cls(name, captured, items, make_plan(captured, calibrate(captured, items, recipe), recipe))

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
