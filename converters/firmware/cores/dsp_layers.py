"""Which kernel of the DSP extension a convolution or a fully connected layer gets."""

import numpy as np

from bitship.converters.firmware.cores import dsp_int4
from bitship.converters.firmware.cores.dsp_conv import constants, dense, epilogue, geometry, wrapped
from bitship.converters.firmware.cores.epilogues import Epilogue, Form
from bitship.graph import Graph, Node
from bitship.graph.base import Ints
from bitship.graph.calls import Call, Packed
from bitship.graph.calls.structs import struct
from bitship.graph.ops import Conv2D, FullyConnected


def conv2d(graph: Graph, node: Node) -> Call | None:
    """A convolution of one group."""
    op = node.op
    assert isinstance(op, Conv2D)
    found = constants(graph, node, op)
    if found is None or op.groups != 1:
        return None
    size = geometry(op, graph.types[node.inputs[0]], graph.types[node.output])
    o, kh, kw, c = graph.types[node.inputs[1]].shape
    return dsp_int4.conv2d(graph, node, op, size, (o, kh, kw, c)) or dense(op, node, size, *found)


def fully_connected(graph: Graph, node: Node) -> Call | None:
    """One row as it is; several as a 1x1 convolution whose pixels are the rows."""
    op = node.op
    assert isinstance(op, FullyConnected)
    found = constants(graph, node, op)
    if found is None:
        return None
    rows, depth = graph.types[node.inputs[0]].shape
    size = {"batch": 1, "in_h": 1, "in_w": rows, "out_h": 1, "out_w": rows, "stride_h": 1, "stride_w": 1}
    size |= {"pad_top": 0, "pad_left": 0, "dilation_h": 1, "dilation_w": 1}
    small = dsp_int4.conv2d(graph, node, op, size, (len(found[0]), 1, 1, depth))
    if small is not None:
        return small
    if rows == 1 and depth % 4 == 0 and found[0].min() >= -128 and found[0].max() <= 127:
        form = epilogue(op.requant, found[0], found[1], op.input_zero_point)
        if form.form in (Form.FLOOR, Form.DOUBLE):
            return _one_row(node, op, *found, form)
    return dense(op, node, size, found[0].reshape(-1, 1, 1, depth), found[1])


def _one_row(node: Node, op: FullyConnected, w: Ints, bias: Ints, form: Epilogue) -> Call:
    """Return the call for one row: weights in blocks of four channels."""
    channels, depth = w.shape
    more = -channels % 4
    folded = wrapped(bias - op.input_zero_point * w.sum(1) + form.added)
    words = np.pad(w.astype(np.int8), ((0, more), (0, 0))).view(np.int32).reshape(-1, 4, depth // 4)
    factors = np.pad(form.factors(), ((0, more), (0, 0))).reshape(-1, 12)
    parts = (np.pad(folded, (0, more)).reshape(-1, 4), words.transpose(0, 2, 1).reshape(len(words), -1), factors)
    packed = Packed(np.ascontiguousarray(np.concatenate(parts, 1).astype(np.int32)).tobytes())
    params = struct("dsp_dense", quads=depth // 4, channels=channels, epilogue=int(form.form))
    return Call("bitship_dsp_fully_connected", params, (node.inputs[0], packed), node.output)
