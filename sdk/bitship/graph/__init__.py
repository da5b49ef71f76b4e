"""The integer graph: op set, specification, verification, storage."""

from bitship.graph.base import Interval, TensorType
from bitship.graph.builder import GraphBuilder
from bitship.graph.dtypes import DType
from bitship.graph.ir import Graph, Node, Port, Quant
from bitship.graph.store import load, save
from bitship.graph.verify import verify

__all__ = [
    "DType",
    "Graph",
    "GraphBuilder",
    "Interval",
    "Node",
    "Port",
    "Quant",
    "TensorType",
    "load",
    "save",
    "verify",
]
