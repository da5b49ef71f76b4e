"""What runs a tail on a server: the integer graph through any back end of this machine, or a torch module."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from bitship.errors import GraphError, TargetError
from bitship.extras import require
from bitship.graph import Graph, GraphBuilder, verify
from bitship.graph.base import Array
from bitship.graph.ir import Quant
from bitship.graph.ops import Reshape
from bitship.targets import ConverterName

HOST = "host"
TAILS = (HOST, ConverterName.TVM.value, ConverterName.EXECUTORCH.value, ConverterName.FIRMWARE.value)


class Tail(Protocol):
    """A loaded tail.

    batch  the most inputs that one run takes; datatype  of the logits, as the protocol names it
    quant  what the logits' codes mean
    """

    batch: int
    datatype: str
    quant: Quant | None

    def run(self, codes: Array) -> Array:
        """Return the logits [n, classes] of codes [n, H, W, C] int8, n up to ``batch``."""
        ...

    def close(self) -> None:
        """Let go of what was opened."""
        ...


def rebatch(graph: Graph, batch: int) -> Graph:
    """Return the graph for ``batch`` inputs at once; GraphError where an op's parameters hold the batch."""
    b = GraphBuilder(f"{graph.name}_x{batch}")
    names: dict[str, str] = {}
    for port in graph.inputs:
        names[port.name] = b.input(port.name, (batch, *port.type.shape[1:]), port.type.dtype, port.quant)
    for name, value in graph.constants.items():
        names[name] = b.constant(name, value, graph.packing.get(name))
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Reshape):
            op = msgspec.structs.replace(op, shape=(batch * op.shape[0], *op.shape[1:]))
        names[node.output] = b.node(node.output, op, *(names[i] for i in node.inputs))
    for port in graph.outputs:
        found, wanted = b.types[names[port.name]].shape, (batch, *port.type.shape[1:])
        if found != wanted:
            raise GraphError(f"{graph.name}: output '{port.name}' of a batch of {batch}: {found}, {wanted} is needed")
    made = b.finish([(names[p.name], p.quant) for p in graph.outputs])
    verify(made)
    return made


class GraphTail:
    """The integer graph. A batch is one run of a graph made for it, or runs in turn where there can be none.

    run_graph  how a graph of one or of ``batch`` inputs is run, by its batch
    """

    def __init__(self, graph: Graph, batch: int, load: Callable[[Graph], Callable[[Array], Array]]) -> None:
        self.batch = max(batch, 1)
        self.datatype = graph.outputs[0].type.dtype.numpy.name.upper()
        self.quant = graph.outputs[0].quant
        self._one = load(graph)
        self._many: Callable[[Array], Array] | None = None
        if self.batch > 1:
            try:
                self._many = load(rebatch(graph, self.batch))
            except GraphError:
                self._many = None
        self._stack = ExitStack()
        for run in filter(None, (self._one, self._many)):  # the first run of a graph makes its program
            run(np.zeros((1 if run is self._one else self.batch, *graph.inputs[0].type.shape[1:]), np.int8))

    def run(self, codes: Array) -> Array:
        n = len(codes)
        if n == 1 or self._many is None:
            return np.concatenate([self._one(codes[i : i + 1]) for i in range(n)])
        whole = codes
        if n < self.batch:
            whole = np.concatenate([codes, np.repeat(codes[-1:], self.batch - n, axis=0)])
        return self._many(whole)[:n]

    def close(self) -> None:
        self._stack.close()

    @classmethod
    def on_host(cls, graph: Graph, batch: int = 1) -> "GraphTail":
        """Run through bitship's own kernels."""
        return cls(graph, batch, lambda g: lambda codes: g.run(codes)[0])

    @classmethod
    def on_back_end(cls, graph: Graph, converter: ConverterName, batch: int = 1) -> "GraphTail":
        """Run through a package for this machine, made by one of its converters in a scratch folder."""
        from bitship.device.host import HostDevice
        from bitship.exporting import export

        stack = ExitStack()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bitship-tail-")))

        def load(g: Graph) -> Callable[[Array], Array]:
            package = export(g, HOST, folder / f"x{g.inputs[0].type.shape[0]}", converter)
            session = stack.enter_context(HostDevice().open(package, None))
            return lambda codes: session.run([(codes,)])[0][0]

        try:
            made = cls(graph, batch, load)
        except BaseException:
            stack.close()
            raise
        made._stack = stack
        return made


class TorchTail:
    """A torch module that takes codes as float32 [n, C, H, W] and gives logits [n, classes]; int32 of them go out.

    scale  what a step of the int32 logits means
    """

    def __init__(self, module: Any, batch: int = 8, scale: float = 2.0**-16) -> None:
        self._torch = require("torch", "torch", "a torch tail")
        self._module = module.eval()
        self.batch = max(batch, 1)
        self.quant: Quant | None = Quant(scale)
        self._scale = scale
        self.datatype = "INT32"

    def run(self, codes: Array) -> Array:
        with self._torch.inference_mode():
            x = self._torch.from_numpy(np.ascontiguousarray(codes.transpose(0, 3, 1, 2), np.float32))
            logits = self._module(x).numpy()
        result: Array = np.clip(np.rint(logits / self._scale), -(2**31), 2**31 - 1).astype(np.int32)
        return result

    def close(self) -> None:
        """Nothing was opened."""


def check_tail(name: str) -> None:
    """Raise TargetError for a name that is none of TAILS."""
    if name not in TAILS:
        raise TargetError(f"tail '{name}': unknown, there are {', '.join(TAILS)}")


def open_tail(graph: Graph, name: str, batch: int) -> Tail:
    """Load the integer graph through ``name``, one of TAILS; TargetError for another."""
    check_tail(name)
    if name == HOST:
        return GraphTail.on_host(graph, batch)
    return GraphTail.on_back_end(graph, ConverterName(name), batch)
