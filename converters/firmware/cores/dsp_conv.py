"""Convolutions and fully connected layers for the DSP extension: weights in the order of ``firmware/src/dsp/dot.h``."""

import enum

import numpy as np

from bitship.converters.firmware.cores.epilogues import Epilogue, Form, fit, raw
from bitship.graph import DType, Graph, Node
from bitship.graph.base import Array, Interval, Ints, TensorType
from bitship.graph.calls import Call, Packed
from bitship.graph.calls.overlap import Walk, window_distance
from bitship.graph.calls.structs import CValue, rescale, struct
from bitship.graph.ops import Conv2D, DepthwiseConv2D, FullyConnected, Rescale

PIXELS = 4
SMALL_BYTES = 2560  # weights that are stored as int16 whatever flash costs


class Weights(enum.IntEnum):
    """``enum bitship_dsp_weights``: HALVES cost twice the flash and about a tenth fewer instructions."""

    BYTES = 0
    HALVES = 1
    NIBBLES = 2


_INT8 = Interval(-128, 127)


def constants(graph: Graph, node: Node, op: Conv2D | DepthwiseConv2D | FullyConnected) -> tuple[Ints, Ints] | None:
    """Return centred weights and bias as int64, None when they are computed or x is not int8."""
    if graph.types[node.inputs[0]].dtype is not DType.INT8:
        return None
    if any(name not in graph.constants for name in node.inputs[1:]):
        return None
    w, bias = (graph.constants[name].astype(np.int64) for name in node.inputs[1:])
    return w - op.weight_zero_point, bias


def epilogue(requant: Rescale | None, w: Ints, bias: Ints, zero_point: int, wide: bool = False) -> Epilogue:
    """Return the epilogue for [channels, taps] weights and any int8 input; ``wide``: int16 has one too."""
    reach = np.stack([w * (_INT8.lo - zero_point), w * (_INT8.hi - zero_point)])
    lo, hi = bias + reach.min(0).sum(1), bias + reach.max(0).sum(1)
    if lo.min() < -(1 << 31) or hi.max() >= 1 << 31:  # fits only because the input is known to be narrower
        return raw(len(bias))
    return fit(requant, lo, hi, wide=wide)


def wrapped(values: Ints) -> Array:
    """Return values modulo 2^32 as int32."""
    return values.astype(np.uint64).astype(np.uint32).view(np.int32)


def ordered(w: Ints, dilated: bool) -> Ints:
    """Return [O, quads * 4] weights in the order of a patch: whole quads of every segment, then what is left."""
    o, kh, kw, c = w.shape
    segments = w.reshape(o, kh * kw, c) if dilated else w.reshape(o, kh, kw * c)
    whole = segments.shape[2] // 4 * 4
    flat = np.concatenate([segments[..., :whole].reshape(o, -1), segments[..., whole:].reshape(o, -1)], 1)
    return np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4)))


def pack(w: Ints, bias: Ints, zero_point: int, form: Epilogue, weights: Weights) -> Packed:
    """Return every channel's bias, weights and factors; ``w`` is [channels, quads * 4]."""
    folded = wrapped(bias - zero_point * w.sum(1) + form.added)[:, None]
    if weights is Weights.HALVES:
        halves = w.reshape(len(w), -1, 4)[..., [0, 2, 1, 3]].astype(np.int16)
        stored = np.ascontiguousarray(halves).reshape(len(w), -1).view(np.int8)
    else:
        stored = w.astype(np.int8)
    parts = (folded.view(np.int8), stored, form.factors().view(np.int8).reshape(len(w), -1))
    return Packed(np.concatenate(parts, 1).tobytes())


def geometry(op: Conv2D | DepthwiseConv2D, x: TensorType, out: TensorType) -> dict[str, int]:
    """Return the fields of a window op that do not depend on its weights."""
    return {
        "batch": x.shape[0],
        "in_h": x.shape[1],
        "in_w": x.shape[2],
        "out_h": out.shape[1],
        "out_w": out.shape[2],
        "stride_h": op.stride[0],
        "stride_w": op.stride[1],
        "dilation_h": op.dilation[0],
        "dilation_w": op.dilation[1],
        "pad_top": op.padding[0],
        "pad_left": op.padding[2],
    }


def call(
    function: str,
    node: Node,
    geometry: dict[str, int],
    shape: tuple[int, int, int, int],
    packed: Packed,
    form: Epilogue,
    weights: Weights,
    scratch_bytes: int,
    lag: int,
    group: int = 0,
) -> Call:
    """Return the call of a window kernel.

    shape  (O, KH, KW, C)
    group  inputs that share a multiplier of NIBBLES; 0: none do
    """
    op = node.op
    assert isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected)
    o, kh, kw, c = shape
    fields: dict[str, CValue] = {
        **geometry,
        "in_c": c,
        "out_c": o,
        "kernel_h": kh,
        "kernel_w": kw,
        "input_zero_point": op.input_zero_point,
        "epilogue": int(form.form),
        "weights": int(weights),
        "group": group,
        "requant": rescale(op.requant) if form.form is Form.RAW else None,
    }
    item = op.requant.dtype.itemsize if op.requant else 4
    rows = Walk(geometry["in_h"], geometry["out_h"], geometry["stride_h"], geometry["pad_top"])
    columns = Walk(geometry["in_w"], geometry["out_w"], geometry["stride_w"], geometry["pad_left"])
    return Call(
        f"bitship_{function}",
        struct("dsp_conv2d", **fields),
        (node.inputs[0], packed),
        node.output,
        scratch_bytes=scratch_bytes,
        overlap=(window_distance(geometry["batch"], rows, columns, c, o * item, lag), None),
    )


def dense(
    op: Conv2D | DepthwiseConv2D | FullyConnected, node: Node, geometry: dict[str, int], w: Ints, bias: Ints
) -> Call:
    """Return the call of a convolution with [O, KH, KW, C] weights."""
    form = epilogue(op.requant, w.reshape(len(w), -1), bias, op.input_zero_point, wide=True)
    flat = ordered(w, geometry["dilation_w"] != 1)
    small = w.size <= SMALL_BYTES or w.min() < -128 or w.max() > 127
    weights = Weights.HALVES if small else Weights.BYTES
    packed = pack(flat, bias, op.input_zero_point, form, weights)
    pixels = geometry["batch"] * geometry["out_h"] * geometry["out_w"]
    scratch = flat.shape[1] * 2 * (PIXELS if pixels > 2 else 1)
    o, kh, kw, c = w.shape
    return call("dsp_conv2d", node, geometry, (o, kh, kw, c), packed, form, weights, scratch, lag=0)
