"""The rules every graph obeys after import and after every pass, and the proof that no accumulator overflows."""

from collections.abc import Mapping

from bitship.errors import GraphError, OverflowProofError
from bitship.graph.base import Interval, Operand
from bitship.graph.ir import Graph
from bitship.graph.ops import OPS
from bitship.graph.packing import split


def verify(graph: Graph) -> Mapping[str, Interval]:
    """Check shapes, dtypes, order, op set and ranges; return the proven range of every tensor.

    The ranges are sound for every input: an interval analysis from the inputs' dtypes through constant weights.
    Raises GraphError, or OverflowProofError where an intermediate could leave its dtype.
    """
    known: dict[str, Operand] = {}
    types = graph.types
    for port in graph.inputs:
        known[port.name] = Operand(port.type, Interval.of(port.type.dtype))
    for name, value in graph.constants.items():
        known[name] = Operand(types[name], Interval(int(value.min()), int(value.max())), value)
    for name, how in graph.packing.items():
        split(graph.constants[name], how, f"{graph.name}: constant '{name}'")
    for node in graph.nodes:
        if type(node.op) not in OPS:
            raise GraphError(f"{graph.name}: node '{node.output}': {type(node.op).__name__} is not an op of the graph")
        out = types[node.output]
        try:
            found = node.op.bounds(out, *(known[i] for i in node.inputs))
        except OverflowProofError as e:
            raise OverflowProofError(f"{graph.name}: node '{node.output}': {e}") from None
        except GraphError as e:
            raise GraphError(f"{graph.name}: node '{node.output}': {e}") from None
        known[node.output] = Operand(out, found)
    return {name: operand.range for name, operand in known.items()}
