"""Depthwise convolutions for the DSP extension: weights in the order of ``firmware/src/dsp/depthwise.c``."""

import numpy as np

from bitship.converters.firmware.cores.dsp_conv import Weights, call, constants, dense, epilogue, geometry, wrapped
from bitship.converters.firmware.cores.epilogues import SIXTEENTH, Epilogue, Form, sixteenth
from bitship.graph import Graph, Node
from bitship.graph.base import Ints
from bitship.graph.calls import Call, Packed
from bitship.graph.ops import DepthwiseConv2D

GROUP = 4
MOST_TAPS = 81


def _pack(w: Ints, bias: Ints, form: Epilogue) -> Packed:
    """Return the packed groups of [taps, channels] weights; the bias is folded already."""
    taps, channels = w.shape
    w = np.pad(w, ((0, (1 - taps) % 4), (0, 0))).astype(np.int16)
    starts = list(range(0, channels - GROUP + 1, GROUP))
    starts += [channels - GROUP] if channels % GROUP else []
    factors, parts = form.factors(), []
    for first in starts:
        group = w[:, first : first + GROUP]
        pairs = group[:-1].reshape(-1, 2, GROUP).transpose(0, 2, 1)
        parts += [bias[first : first + GROUP].tobytes(), np.ascontiguousarray(pairs).tobytes()]
        parts += [group[-1, [0, 2, 1, 3]].tobytes(), factors[first : first + GROUP].tobytes()]
    return Packed(b"".join(parts))


def depthwise_conv2d(graph: Graph, node: Node) -> Call | None:
    """A depthwise convolution with multiplier 1; of a single channel it is a convolution like any other."""
    op = node.op
    assert isinstance(op, DepthwiseConv2D)
    found = constants(graph, node, op)
    if found is None:
        return None
    w, bias = found
    kh, kw, c, m = w.shape
    size = geometry(op, graph.types[node.inputs[0]], graph.types[node.output])
    if c == 1:
        return dense(op, node, size, w.transpose(3, 0, 1, 2), bias)
    if m != 1 or c < GROUP or kh * kw > MOST_TAPS:
        return None
    flat = w.reshape(kh * kw, c)
    form = epilogue(op.requant, flat.T, bias, op.input_zero_point)
    larger = sixteenth(op.requant) if np.abs(flat).max() <= 1 << SIXTEENTH else None
    if form.form is Form.RAW and larger is not None:  # factors of half and more: sums of four-bit weights are small
        other = epilogue(larger, flat.T << SIXTEENTH, bias << SIXTEENTH, op.input_zero_point)
        if other.form is not Form.RAW:
            flat, bias, form = flat << SIXTEENTH, bias << SIXTEENTH, other
    packed = _pack(flat, wrapped(bias - op.input_zero_point * flat.sum(0) + form.added), form)
    return call("dsp_depthwise_conv2d", node, size, (c, kh, kw, c), packed, form, Weights.HALVES, c, lag=1)
