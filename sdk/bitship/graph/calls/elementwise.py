"""Rescale, binary and unary ops and reductions as kernel calls."""

from math import prod
from typing import Any

from bitship.graph import ops
from bitship.graph.base import TensorType
from bitship.graph.calls.structs import CValue, Lowered, Types, dtype, fill, merged, rescale, steps, struct


def rescale_op(op: ops.Rescale, out: TensorType, types: Types, tile: int) -> Lowered:
    """A rescale of its own."""
    channels = out.shape[-1] if out.shape else 1
    extents: dict[str, CValue] = {"rows": out.size // channels, "channels": channels}
    return "rescale", struct("rescale_op", x_dtype=dtype(types[0].dtype), **extents, requant=rescale(op)), 0


def binary(op: ops.Add | ops.Sub | ops.Mul, out: TensorType, types: Types, tile: int) -> Lowered:
    """Two operands that broadcast."""
    walks = [[0 if n == 1 else s for n, s in zip(t.shape, steps(t.shape), strict=True)] for t in types]
    per_channel = op.requant is not None and op.requant.per_channel
    shape, a_step, b_step = merged(out.shape, *walks, keep_last=per_channel)
    add = None if isinstance(op, ops.Mul) else op
    params = struct(
        "binary",
        a_dtype=dtype(types[0].dtype),
        b_dtype=dtype(types[1].dtype),
        shape=shape,
        a_step=a_step,
        b_step=b_step,
        a_zero_point=op.a_zero_point if isinstance(op, ops.Mul) else 0,
        b_zero_point=op.b_zero_point if isinstance(op, ops.Mul) else 0,
        rescale_a=rescale(add.a if add else None),
        rescale_b=rescale(add.b if add else None),
        requant=rescale(op.requant),
    )
    return op.name, params, 0


def unary(op: Any, out: TensorType, types: Types, tile: int) -> Lowered:
    """One element from one."""
    params = struct(
        "unary",
        x_dtype=dtype(types[0].dtype),
        out_dtype=dtype(out.dtype),
        size=out.size,
        amount=getattr(op, "amount", 0),
        half_up=int(getattr(op, "rounding", None) is ops.ShiftRounding.HALF_UP),
        qmin=getattr(op, "qmin", 0),
        qmax=getattr(op, "qmax", 0),
    )
    return op.name, params, 0


def reduce(op: Any, out: TensorType, types: Types, tile: int) -> Lowered:
    """Reduction along axes."""
    kinds: dict[Any, int] = {ops.ReduceSum: 0, ops.ReduceMax: 1, ops.ReduceMin: 2, ops.ReduceAny: 3}
    rank = len(types[0].shape)
    params = struct(
        "reduce",
        x_dtype=dtype(types[0].dtype),
        reduction=kinds[type(op)],
        shape=fill(types[0].shape, 1),
        reduced=fill([int(i in op.axes) for i in range(rank)], 0),
        input_zero_point=getattr(op, "input_zero_point", 0),
        requant=rescale(getattr(op, "requant", None)),
    )
    return "reduce", params, 0


def argmax(op: ops.ArgMax, out: TensorType, types: Types, tile: int) -> Lowered:
    """Index of the largest."""
    shape = types[0].shape
    outer, inner = prod(shape[: op.axis]), prod(shape[op.axis + 1 :])
    fields: dict[str, CValue] = {"outer": outer, "extent": shape[op.axis], "inner": inner}
    return "argmax", struct("argmax", x_dtype=dtype(types[0].dtype), **fields), 0
