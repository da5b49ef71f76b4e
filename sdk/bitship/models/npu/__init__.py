"""Models shaped for NPUs, written from the papers: a depthwise vision encoder and a hybrid language backbone.

encoder   MobileNetV5-style vision encoder: inverted residuals, late multi-query attention, multi-scale fusion (torch)
backbone  LFM2-style language backbone: gated short convolutions with a few attention layers (torch)
integer   one decoding step of a backbone as an integer graph with explicit state tensors
decoding  greedy decoding with such a graph through any session

AutoNeural (arXiv 2512.02924) pairs the two. What imports torch is imported where it is used.
"""

from bitship.models.npu.config import BackboneConfig, EncoderConfig, LayerKind

__all__ = ["BackboneConfig", "EncoderConfig", "LayerKind"]
