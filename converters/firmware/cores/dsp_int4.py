"""Convolutions and fully connected layers of packed weights for the DSP extension: the order of ``dsp/int4.c``."""

import msgspec
import numpy as np

from bitship.converters.firmware.cores.dsp_conv import PIXELS, Weights, call, epilogue, ordered, wrapped
from bitship.converters.firmware.cores.epilogues import SIXTEENTH, Epilogue, sixteenth
from bitship.graph import Graph, Node
from bitship.graph.base import Array, Ints
from bitship.graph.calls import Call, Packed
from bitship.graph.ops import Conv2D, FullyConnected
from bitship.graph.packing import split

_PAIR = 8  # elements of a word


def _words(codes: Ints) -> Array:
    """Return [..., n] codes, n a multiple of 8, as [..., n / 2] bytes: low halves a quad, high halves the next."""
    pairs = (codes & 15).astype(np.uint8).reshape(*codes.shape[:-1], -1, 2, 4)
    return np.asarray((pairs[..., 0, :] | pairs[..., 1, :] << 4).reshape(*codes.shape[:-1], -1))


def _pack(codes: Ints, multipliers: Array, group: int, bias: Ints, form: Epilogue) -> Packed:
    """Return every channel's bias, words, each group's after its multiplier, and factors; codes [channels, n]."""
    channels = len(codes)
    parts = [bias.astype("<i4").view(np.uint8).reshape(channels, 4)]
    step = group or codes.shape[1]
    for i, first in enumerate(range(0, codes.shape[1], step)):
        if group:
            parts.append(multipliers[:, i].astype("<i4").view(np.uint8).reshape(channels, 4))
        parts.append(_words(codes[:, first : first + step]))
    parts.append(form.factors().astype("<i4").view(np.uint8).reshape(channels, -1))
    return Packed(np.concatenate(parts, 1).tobytes())


def conv2d(
    graph: Graph, node: Node, op: Conv2D | FullyConnected, size: dict[str, int], shape: tuple[int, int, int, int]
) -> Call | None:
    """Return the call of a convolution whose weights, [O, KH, KW, C], are packed; None where the kernel has no form.

    Left to int8: two roundings or none, a weight zero point, groups of inputs that are no whole words or not in order,
    sums that sixteen times leave int32.
    """
    name = node.inputs[1]
    packing = graph.packing.get(name)
    o, kh, kw, _ = shape
    if packing is None or op.weight_zero_point or sixteenth(op.requant) is None:
        return None
    if packing.group % _PAIR or (packing.group and (kh, kw) != (1, 1)):
        return None
    w = graph.constants[name].astype(np.int64)
    bias = graph.constants[node.inputs[2]].astype(np.int64)
    codes, multipliers = split(graph.constants[name], packing, name)
    form = epilogue(sixteenth(op.requant), w.reshape(o, -1) << SIXTEENTH, bias << SIXTEENTH, op.input_zero_point, True)
    reach = (np.abs(w.reshape(o, -1)).sum(1) * 255 + np.abs(bias)) << SIXTEENTH
    if reach.max() >= 1 << 31:
        return None
    flat = ordered(codes.astype(np.int64).reshape(shape), size["dilation_w"] != 1)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % _PAIR)))
    folded = wrapped(((bias - op.input_zero_point * w.reshape(o, -1).sum(1)) << SIXTEENTH) + form.added)
    packed = _pack(flat, multipliers, packing.group, folded, form)
    pixels = size["batch"] * size["out_h"] * size["out_w"]
    scratch = flat.shape[1] * 2 * (PIXELS if pixels > 2 else 1)
    changed = msgspec.structs.replace(node, op=msgspec.structs.replace(op, requant=sixteenth(op.requant)))
    return call(
        "dsp_conv2d_int4", changed, size, shape, packed, form, Weights.NIBBLES, scratch, lag=0, group=packing.group
    )
