"""Small vision models of our own: trained, shipped as float weights and as integer graphs.

module = bitship.models.load_module("vit_micro")   # a torch module with trained weights
graph  = bitship.load("vit_micro")                 # its integer graph; needs no torch
"""

from bitship.models.shipped import (
    CHECKPOINTS,
    MODELS,
    ShippedModel,
    fresh,
    graph_names,
    load_graph,
    load_module,
    load_weights,
    save_weights,
    shipped,
)
from bitship.models.surgery import redistribute

__all__ = [
    "CHECKPOINTS",
    "MODELS",
    "ShippedModel",
    "fresh",
    "graph_names",
    "load_graph",
    "load_module",
    "load_weights",
    "redistribute",
    "save_weights",
    "shipped",
]
