"""Quantization-aware training whose forward is the integer graph.

Every forward writes the graph from the weights as they are, runs it on the exact integer kernels, and hands each
tensor's real value on; the gradient is the float op's, straight through the rounding and zero where a value saturated
(Bengio et al., arXiv 1308.3432). What training sees is what ships, by construction.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bitship.errors import FormatError, QuantizationError
from bitship.extras import quiet
from bitship.graph import Graph, host
from bitship.quantization import items_of, prepare
from bitship.quantization.migration import migrate
from bitship.quantization.planned import PlannedWalk
from bitship.quantization.prepared import Prepared, capture_eval
from bitship.quantization.recipe import Recipe
from bitship.quantization.rewrite import computed, reached
from bitship.quantization.sensitivity import feed, ordered

_FORMAT = "bitship-qat-1"


def _straight_through() -> Any:
    import torch

    class StraightThrough(torch.autograd.Function):  # type: ignore[misc]
        """``exact`` forward; backward to ``value`` where it lies within [low, high]."""

        @staticmethod
        def forward(ctx: Any, value: Any, exact: Any, low: float, high: float) -> Any:
            ctx.save_for_backward((value >= low) & (value <= high))
            return exact

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            (inside,) = ctx.saved_tensors
            return gradient * inside, None, None, None

    return StraightThrough


class Trainer:
    """A module under quantization-aware training.

    prepared  batch 1, as ``prepare`` gives it; ``graph`` gives it the trained weights
    batch     inputs per forward, fixed by the capture
    """

    def __init__(
        self, module: Any, calibration: Iterable[Any], recipe: Recipe | str, batch: int, name: str = ""
    ) -> None:
        """Capture and calibrate; arguments as ``quantize`` takes them, and the batch of every forward."""
        import torch

        items = list(items_of(calibration))
        self.prepared: Prepared = prepare(module, items, recipe, name)
        self.batch = batch
        example = tuple(t.expand(batch, *t.shape[1:]).contiguous() for t in items[0])
        with quiet():
            self.module = capture_eval(module, example)
            if self.prepared.channels:
                migrate(self.module, self.prepared.channels, self.prepared.plan.recipe)
        if [n.name for n in computed(self.module)] != [n.name for n in computed(self.prepared.module)]:
            raise QuantizationError("training: the module's graph depends on the batch size")
        self._function = _straight_through()
        constants = {
            str(n.target): reached(self.module, str(n.target)) for n in self.module.graph.nodes if n.op == "get_attr"
        }
        self._parameters = {
            target: torch.nn.Parameter(value.detach().clone())
            for target, value in constants.items()
            if value.is_floating_point()
        }
        for target, parameter in self._parameters.items():
            _assign(self.module, target, parameter)

    def parameters(self) -> list[Any]:
        """Return what an optimizer trains."""
        return list(self._parameters.values())

    def forward(self, *xs: Any) -> Any:
        """Return the integer graph's outputs as real numbers (float32) with gradients; inputs [batch, ...] float32."""
        import torch

        with torch.no_grad(), quiet():
            walk = PlannedWalk(self.module, self.prepared.name, self.prepared.plan)
            graph = walk.run()
            values = host.trace(graph, *feed(graph, xs))
        through = self._function.apply

        class Forward(torch.fx.Interpreter):  # type: ignore[misc]
            def run_node(self, n: Any) -> Any:
                value = super().run_node(n)
                if n.op == "get_attr" and n.name in walk.constants:
                    exact = torch.from_numpy(np.asarray(walk.constants[n.name])).to(value.dtype)
                    return through(value, exact.reshape(value.shape), -torch.inf, torch.inf)
                tensor = walk.tensors.get(n.name)
                if tensor is None or tensor.name not in values:
                    return value
                low, high = ((end - tensor.q.zero_point) * tensor.q.scale for end in tensor.q.ends)
                exact = torch.from_numpy(ordered(tensor, values)).to(torch.float32)
                return through(value, exact.sub_(tensor.q.zero_point).mul_(tensor.q.scale), low, high)

        return Forward(self.module).run(*xs)

    def recalibrate(self) -> None:
        """Take the ranges anew from the weights as they are now."""
        self._share()
        self.prepared.recalibrate()

    def graph(self) -> Graph:
        """Return the verified integer graph for batch 1 with the weights as they are now."""
        self._share()
        with quiet():
            return self.prepared.graph()

    def _share(self) -> None:
        for target, parameter in self._parameters.items():
            _assign(self.prepared.module, target, parameter)

    def save(self, path: str | Path) -> None:
        """Write weights and ranges as safetensors; ``load`` gives them back without loss."""
        from safetensors import numpy as st

        from bitship.graph.store import write_atomic

        ranges = msgspec.json.encode(self.prepared.plan.ranges.tensors).decode()
        arrays = {k: v.detach().numpy() for k, v in self._parameters.items()}
        write_atomic(Path(path), st.save(arrays, {"format": _FORMAT, "ranges": ranges}))

    def load(self, path: str | Path) -> None:
        """Read what ``save`` wrote for the same module; FormatError when it does not fit, or ranges are missing."""
        import torch
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        try:
            with safe_open(str(path), "numpy") as file:
                meta = file.metadata() or {}
                found = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
            ranges = msgspec.json.decode(meta.get("ranges", "{}"), type=dict[str, tuple[float, float]])
        except (OSError, SafetensorError, msgspec.DecodeError, ValueError) as e:
            raise FormatError(f"{path}: not a readable training state: {' '.join(str(e).split())[:160]}") from None
        wanted = {k: tuple(v.shape) for k, v in self._parameters.items()}
        if meta.get("format") != _FORMAT or {k: v.shape for k, v in found.items()} != wanted:
            raise FormatError(f"{path}: not a training state of this module")
        missing = sorted(set(self.prepared.plan.ranges.tensors) - set(ranges))
        if missing:
            raise FormatError(f"{path}: the ranges of {len(missing)} tensors are missing, '{missing[0]}' the first")
        for name, ends in ranges.items():
            if not (np.isfinite(ends).all() and ends[0] <= ends[1]):
                raise FormatError(f"{path}: the range of '{name}' is {ends}; two finite numbers in order are needed")
        self.prepared.plan.ranges.tensors = ranges
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(torch.from_numpy(found[name]))


def _assign(module: Any, target: str, parameter: Any) -> None:
    """Make a parameter what a get_attr node of this target reads."""
    parent, _, last = target.rpartition(".")
    module = module.get_submodule(parent)
    for store in (module._parameters, module._buffers, module.__dict__):
        store.pop(last, None)
    module.register_parameter(last, parameter)
