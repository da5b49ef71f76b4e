"""Sums and products of two tensors, and padding, for MVE."""

from math import prod

import numpy as np

from bitship.converters.firmware.cores.mve.packing import epilogue
from bitship.graph import Graph, Node, ops
from bitship.graph.base import Ints
from bitship.graph.calls import Call, CStruct, Operand, Packed
from bitship.graph.calls.overlap import elementwise_distance
from bitship.graph.calls.structs import struct
from bitship.graph.dtypes import DType

_CODES = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int64)  # by their byte


def _alike(graph: Graph, node: Node) -> bool:
    """Whether operands and output are int8 of one shape."""
    out = graph.types[node.output]
    return out.dtype is DType.INT8 and all(graph.types[i] == out for i in node.inputs)


def _params(name: str, r: ops.Rescale | None, **fields: int) -> CStruct | None:
    """Return a struct of these fields and a rescale of one factor; None where there is none."""
    found = epilogue(r, 1) if r is not None and not r.per_channel else None
    if r is None or found is None:
        return None
    entry = [int(column[0]) for column in found.columns]
    names = ("multiplier", "shift", "left", "below")
    return struct(
        name,
        **fields,
        **dict(zip(names, (*entry, 0, 0), strict=False)),
        output_zero_point=r.output_zero_point,
        qmin=r.qmin,
        qmax=r.qmax,
        rounding=int(found.rounding),
    )


def _factor(term: Ints) -> int | None:
    """Return what a code counts in a term that is a multiple of it and a constant; None for any other."""
    factor = int(term[1] - term[0])
    return factor if np.array_equal(term, term[0] + factor * _CODES) else None


def _words(term: Ints) -> Packed:
    return Packed((term & 0xFFFFFFFF).astype("<u4").tobytes())  # the sum of two is proven, modulo 2^32 it is exact


def total(graph: Graph, node: Node) -> Call | None:
    """A sum or a difference."""
    op = node.op
    assert isinstance(op, ops.Add | ops.Sub)
    terms = [r.apply(_CODES) if r else _CODES for r in (op.a, op.b)]
    if isinstance(op, ops.Sub):
        terms[1] = -terms[1]
    names = list(node.inputs)
    factor = _factor(terms[1])
    if factor is None:
        factor = _factor(terms[0])
        if factor is not None:
            names.reverse()
            terms.reverse()
    out = graph.types[node.output]
    fields = {"size": out.size, "b_factor": factor or 0}
    params = _params("mve_binary", op.requant, **fields) if _alike(graph, node) else None
    if params is None:
        return None
    at = elementwise_distance(out.size, 1, 1, 0)
    if factor is None:
        operands: tuple[Operand, ...] = (*names, _words(terms[0]), _words(terms[1]))
        return Call("bitship_mve_add", params, operands, node.output, 0, (at, at, None, None))
    operands = (*names, _words(terms[0] + terms[1][0]))
    return Call("bitship_mve_add_linear", params, operands, node.output, 0, (at, at, None))


def product(graph: Graph, node: Node) -> Call | None:
    """A product."""
    op = node.op
    assert isinstance(op, ops.Mul)
    out = graph.types[node.output]
    fields = {"size": out.size, "a_zero_point": op.a_zero_point, "b_factor": op.b_zero_point}
    params = _params("mve_binary", op.requant, **fields) if _alike(graph, node) else None
    if params is None:
        return None
    at = elementwise_distance(out.size, 1, 1, 0)
    return Call("bitship_mve_mul", params, node.inputs, node.output, 0, (at, at))


def pad(graph: Graph, node: Node) -> Call | None:
    """A constant around two neighbouring axes."""
    op = node.op
    assert isinstance(op, ops.Pad)
    x = graph.types[node.inputs[0]]
    padded = [i for i, pair in enumerate(op.padding) if any(pair)]
    if not padded or len(x.shape) < 2 or padded[-1] - padded[0] > 1 or (x.dtype.itemsize > 1 and op.value):
        return None
    row = min(padded[0], len(x.shape) - 2)
    inner = prod(x.shape[row + 2 :]) * x.dtype.itemsize
    params = struct(
        "mve_pad",
        batch=prod(x.shape[:row]),
        rows=x.shape[row],
        bytes=x.shape[row + 1] * inner,
        top=op.padding[row][0],
        bottom=op.padding[row][1],
        left=op.padding[row + 1][0] * inner,
        right=op.padding[row + 1][1] * inner,
        value=op.value,
    )
    return Call("bitship_mve_pad", params, node.inputs, node.output)


def reduce_sum(graph: Graph, node: Node) -> Call | None:
    """A sum along neighbouring axes of int8."""
    op = node.op
    assert isinstance(op, ops.ReduceSum)
    x = graph.types[node.inputs[0]]
    axes = [i for i in sorted(op.axes) if x.shape[i] != 1] or sorted(op.axes)[:1]
    if x.dtype is not DType.INT8 or not axes or prod(x.shape[axes[0] : axes[-1] + 1]) != prod(x.shape[i] for i in axes):
        return None
    extent = prod(x.shape[i] for i in axes)
    bias = -op.input_zero_point * extent
    if extent >= 1 << 23 or abs(bias) >= 1 << 31:
        return None
    fields = {"outer": prod(x.shape[: axes[0]]), "extent": extent, "inner": prod(x.shape[axes[-1] + 1 :]), "bias": bias}
    params = _params("mve_reduce", op.requant, **fields)
    return None if params is None else Call("bitship_mve_reduce_sum", params, node.inputs, node.output)


def table(graph: Graph, node: Node) -> Call | None:
    """A function of one code, int8 to int8."""
    out, values = graph.types[node.output], graph.constants.get(node.inputs[1])
    if graph.types[node.inputs[0]].dtype is not DType.INT8 or out.dtype is not DType.INT8 or values is None:
        return None
    operands = (node.inputs[0], Packed(np.roll(values, 128).tobytes()))
    at = elementwise_distance(out.size, 1, 1, 0)
    return Call("bitship_mve_table", struct("mve_table", size=out.size), operands, node.output, 0, (at, None))
