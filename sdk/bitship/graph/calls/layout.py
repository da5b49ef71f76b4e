"""Ops that move elements as kernel calls."""

from collections.abc import Sequence
from math import prod

from bitship.errors import UnsupportedError
from bitship.graph import ops
from bitship.graph.base import TensorType
from bitship.graph.calls.structs import Call, CArray, Lowered, Types, dtype, fill, merged, steps, struct
from bitship.graph.ir import Node


def pad(op: ops.Pad, out: TensorType, types: Types, tile: int) -> Lowered:
    """Constant around a tensor."""
    if not -(1 << 31) <= op.value < 1 << 31:
        raise UnsupportedError(f"pad: value {op.value} outside int32, which the C kernel takes")
    params = struct(
        "pad",
        item_bytes=out.dtype.itemsize,
        shape=fill(types[0].shape, 1),
        before=fill([p[0] for p in op.padding], 0),
        after=fill([p[1] for p in op.padding], 0),
        value=op.value,
    )
    return "pad", params, 0


def _strided(name: str, out: TensorType, offset: int, steps: Sequence[int]) -> Lowered:
    shape, step = merged(out.shape, steps)
    return name, struct("strided", item_bytes=out.dtype.itemsize, offset=offset, shape=shape, step=step), 0


def slice(op: ops.Slice, out: TensorType, types: Types, tile: int) -> Lowered:
    """A box of a tensor."""
    dense = steps(types[0].shape)
    offset = sum(b * s for b, s in zip(op.start, dense, strict=True))
    return _strided("slice", out, offset, [s * k for s, k in zip(dense, op.steps(), strict=True)])


def transpose(op: ops.Transpose, out: TensorType, types: Types, tile: int) -> Lowered:
    """Axes in another order."""
    dense = steps(types[0].shape)
    return _strided("transpose", out, 0, [dense[p] for p in op.perm])


def reshape(op: ops.Reshape, out: TensorType, types: Types, tile: int) -> Lowered:
    """The same bytes."""
    return "reshape", struct("copy", bytes=out.nbytes), 0


def gather(op: ops.Gather, out: TensorType, types: Types, tile: int) -> Lowered:
    """Slices by index."""
    shape = types[0].shape
    params = struct(
        "gather",
        outer=prod(shape[: op.axis]),
        extent=shape[op.axis],
        count=types[1].shape[0],
        inner_bytes=prod(shape[op.axis + 1 :]) * out.dtype.itemsize,
    )
    return "gather", params, 0


def resize(op: ops.Resize, out: TensorType, types: Types, tile: int) -> Lowered:
    """Rows and columns mixed."""
    x = types[0].shape
    tables = {
        f"{axis}_{part}": CArray("int32_t", getattr(table, part))
        for axis, table in (("row", op.rows), ("column", op.columns))
        for part in ("lo", "hi", "weight")
    }
    extents = dict(
        zip(("batch", "in_h", "in_w", "channels", "out_h", "out_w"), (*x, *out.shape[1:3]), strict=True), bits=op.bits
    )
    return "resize", struct("resize", x_dtype=dtype(types[0].dtype), **extents, **tables), 0


def concat(op: ops.Concat, node: Node, types: Types) -> tuple[Call, ...]:
    """One call per operand."""
    item = types[0].dtype.itemsize
    runs = [prod(t.shape[op.axis :]) * item for t in types]
    outer = prod(types[0].shape[: op.axis])
    return tuple(
        Call(
            "bitship_concat",
            struct("concat", outer=outer, run_bytes=n, out_offset_bytes=sum(runs[:i]), out_step_bytes=sum(runs)),
            (name,),
            node.output,
        )
        for i, (name, n) in enumerate(zip(node.inputs, runs, strict=True))
    )
