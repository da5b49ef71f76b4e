"""What each node of a graph is in terms of the C kernels: function, parameter struct, operands, scratch.

The host runs these calls through the shared library; the firmware converter prints them as C. One lowering for both,
so what is proven of one holds for the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from bitship.errors import UnsupportedError
from bitship.graph import ops
from bitship.graph.base import Op, TensorType
from bitship.graph.dtypes import DType
from bitship.graph.ir import Graph, Node

RANK = 6
WIDE_TILE = 8
SMALL_TILE = 2


@dataclass(frozen=True)
class CArray:
    """A constant C array that a struct points to: element type and values."""

    ctype: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class CStruct:
    """A constant ``struct bitship_<name>``; a CArray or CStruct in a field is pointed to, None is a null pointer."""

    name: str
    fields: tuple[tuple[str, "CValue"], ...]


CValue = int | tuple[int, ...] | CArray | CStruct | None


@dataclass(frozen=True)
class Call:
    """``function(&params, operands..., [scratch, scratch_bytes,] output)``; operands and output are tensor names."""

    function: str
    params: CStruct
    operands: tuple[str, ...]
    output: str
    scratch_bytes: int = 0


_DTYPES = {DType.BOOL: 0, DType.INT8: 1, DType.UINT8: 2, DType.INT16: 3, DType.INT32: 4}
Types = Sequence[TensorType]


def _dtype(t: DType) -> int:
    if t not in _DTYPES:
        raise UnsupportedError(f"{t.value}: the C kernels compute on {', '.join(d.value for d in _DTYPES)}")
    return _DTYPES[t]


def _struct(name: str, **fields: CValue) -> CStruct:
    return CStruct(name, tuple(fields.items()))


def _rescale(r: ops.Rescale | None) -> CStruct | None:
    if r is None:
        return None
    return _struct(
        "rescale",
        multiplier=CArray("int32_t", r.multiplier),
        shift=CArray("int8_t", r.shift),
        count=len(r.multiplier),
        input_zero_point=r.input_zero_point,
        output_zero_point=r.output_zero_point,
        pre_shift=r.pre_shift,
        rounding=int(r.rounding is ops.Rounding.DOUBLE),
        dtype=_dtype(r.dtype),
        qmin=r.qmin,
        qmax=r.qmax,
    )


def _fill(values: Sequence[int], value: int) -> tuple[int, ...]:
    """Pad in front to rank 6."""
    return (value,) * (RANK - len(values)) + tuple(values)


def _steps(shape: Sequence[int]) -> list[int]:
    """Element distance along every axis of a dense tensor."""
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


def _merged(shape: Sequence[int], *steps: Sequence[int], keep_last: bool = False) -> tuple[tuple[int, ...], ...]:
    """Merge neighbouring axes that every operand walks as one; return (shape, steps...) padded to rank 6."""
    axes: list[tuple[int, ...]] = list(zip(shape, *steps, strict=True))
    last = [axes.pop()] if keep_last else []
    axes = [axis for axis in axes if axis[0] != 1]
    result: list[tuple[int, ...]] = []
    for axis in axes:
        if result and all(a == b * axis[0] for a, b in zip(result[-1][1:], axis[1:], strict=True)):
            result[-1] = (result[-1][0] * axis[0], *axis[1:])
        else:
            result.append(axis)
    result += last or ([] if result else [(1, *(1 for _ in steps))])
    columns = list(zip(*result, strict=True))
    return (_fill(columns[0], 1), *(_fill(c, 0) for c in columns[1:]))


_WINDOW = {
    **dict.fromkeys(("batch", "in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "kernel_h", "kernel_w"), 1),
    **dict.fromkeys(("stride_h", "stride_w", "dilation_h", "dilation_w"), 1),
    **dict.fromkeys(("pad_top", "pad_left"), 0),
    **dict.fromkeys(("groups", "tile"), 1),
    **dict.fromkeys(("input_zero_point", "weight_zero_point", "division", "qmin", "qmax"), 0),
}


def _window(x: TensorType, **fields: CValue) -> CStruct:
    return _struct("window", x_dtype=_dtype(x.dtype), **{**_WINDOW, "requant": None, **fields})


def _geometry(x: TensorType, out: TensorType, kernel: Sequence[int], op: Any) -> dict[str, CValue]:
    dilation = getattr(op, "dilation", (1, 1))
    return dict(
        zip(
            ("batch", "in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "kernel_h", "kernel_w"),
            (*x.shape, *out.shape[1:], *kernel),
            strict=True,
        ),
        stride_h=op.stride[0],
        stride_w=op.stride[1],
        dilation_h=dilation[0],
        dilation_w=dilation[1],
        pad_top=op.padding[0],
        pad_left=op.padding[2],
    )


def _dot(
    op: Any, geometry: dict[str, CValue], x: TensorType, depth: int, pixels: int, tile: int
) -> tuple[CStruct, int]:
    """Return the parameters of a conv2d call and its scratch in bytes (bitship_conv2d_scratch_bytes)."""
    if x.dtype is DType.INT16 and op.input_zero_point != 0:
        raise UnsupportedError(f"{op.name}: an int16 input with zero point {op.input_zero_point}; 0 is allowed")
    tile = 1 if pixels == 1 else tile
    if op.weight_zero_point and depth > (511 if x.dtype is DType.INT16 else 65536):
        tile = WIDE_TILE  # small tiles' raw sums could leave int32
    step = -(-depth // 16) * 16 if tile == WIDE_TILE else depth
    widened = 2 if tile == WIDE_TILE else 0
    params = _window(
        x,
        **geometry,
        tile=tile,
        input_zero_point=op.input_zero_point,
        weight_zero_point=op.weight_zero_point,
        requant=_rescale(op.requant),
    )
    return params, step * 2 * (tile + widened)


def _conv2d(op: ops.Conv2D, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    x, w = types[0], types[1]
    geometry = _geometry(x, out, w.shape[1:3], op) | {"groups": op.groups}
    params, scratch = _dot(op, geometry, x, prod(w.shape[1:]), out.shape[1] * out.shape[2], tile)
    return "conv2d", params, scratch


def _fully_connected(op: ops.FullyConnected, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    rows, depth = types[0].shape
    geometry: dict[str, CValue] = {"in_w": rows, "out_w": rows, "in_c": depth, "out_c": out.shape[1]}
    params, scratch = _dot(op, geometry, types[0], depth, rows, tile)
    return "conv2d", params, scratch


def _depthwise(op: ops.DepthwiseConv2D, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    params = _window(
        types[0],
        **_geometry(types[0], out, types[1].shape[:2], op),
        input_zero_point=op.input_zero_point,
        weight_zero_point=op.weight_zero_point,
        requant=_rescale(op.requant),
    )
    return "depthwise_conv2d", params, 0


def _pool(op: ops.AvgPool2D | ops.MaxPool2D, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    half_up = isinstance(op, ops.AvgPool2D) and op.rounding is ops.DivRounding.HALF_UP
    geometry = _geometry(types[0], out, op.kernel, op)
    return op.name, _window(types[0], **geometry, division=int(half_up), qmin=op.qmin, qmax=op.qmax), 0


def _matmul(op: ops.MatMul, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    a, b = types
    params = _struct(
        "matmul",
        a_dtype=_dtype(a.dtype),
        batch=a.shape[0],
        rows=a.shape[1],
        depth=a.shape[2],
        columns=b.shape[2],
        a_zero_point=op.a_zero_point,
        b_zero_point=op.b_zero_point,
        requant=_rescale(op.requant),
    )
    return "matmul", params, 0


def _rescale_op(op: ops.Rescale, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    channels = out.shape[-1] if out.shape else 1
    extents: dict[str, CValue] = {"rows": out.size // channels, "channels": channels}
    return "rescale", _struct("rescale_op", x_dtype=_dtype(types[0].dtype), **extents, requant=_rescale(op)), 0


def _binary(op: ops.Add | ops.Sub | ops.Mul, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    steps = [[0 if n == 1 else s for n, s in zip(t.shape, _steps(t.shape), strict=True)] for t in types]
    per_channel = op.requant is not None and op.requant.per_channel
    shape, a_step, b_step = _merged(out.shape, *steps, keep_last=per_channel)
    add = None if isinstance(op, ops.Mul) else op
    params = _struct(
        "binary",
        a_dtype=_dtype(types[0].dtype),
        b_dtype=_dtype(types[1].dtype),
        shape=shape,
        a_step=a_step,
        b_step=b_step,
        a_zero_point=op.a_zero_point if isinstance(op, ops.Mul) else 0,
        b_zero_point=op.b_zero_point if isinstance(op, ops.Mul) else 0,
        rescale_a=_rescale(add.a if add else None),
        rescale_b=_rescale(add.b if add else None),
        requant=_rescale(op.requant),
    )
    return op.name, params, 0


def _unary(op: Any, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    params = _struct(
        "unary",
        x_dtype=_dtype(types[0].dtype),
        out_dtype=_dtype(out.dtype),
        size=out.size,
        amount=getattr(op, "amount", 0),
        half_up=int(getattr(op, "rounding", None) is ops.ShiftRounding.HALF_UP),
        qmin=getattr(op, "qmin", 0),
        qmax=getattr(op, "qmax", 0),
    )
    return op.name, params, 0


def _reduce(op: Any, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    kinds: dict[Any, int] = {ops.ReduceSum: 0, ops.ReduceMax: 1, ops.ReduceMin: 2, ops.ReduceAny: 3}
    rank = len(types[0].shape)
    params = _struct(
        "reduce",
        x_dtype=_dtype(types[0].dtype),
        reduction=kinds[type(op)],
        shape=_fill(types[0].shape, 1),
        reduced=_fill([int(i in op.axes) for i in range(rank)], 0),
        input_zero_point=getattr(op, "input_zero_point", 0),
        requant=_rescale(getattr(op, "requant", None)),
    )
    return "reduce", params, 0


def _argmax(op: ops.ArgMax, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    shape = types[0].shape
    outer, inner = prod(shape[: op.axis]), prod(shape[op.axis + 1 :])
    fields: dict[str, CValue] = {"outer": outer, "extent": shape[op.axis], "inner": inner}
    return "argmax", _struct("argmax", x_dtype=_dtype(types[0].dtype), **fields), 0


def _pad(op: ops.Pad, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    if not -(1 << 31) <= op.value < 1 << 31:
        raise UnsupportedError(f"pad: value {op.value} outside int32, which the C kernel takes")
    params = _struct(
        "pad",
        item_bytes=out.dtype.itemsize,
        shape=_fill(types[0].shape, 1),
        before=_fill([p[0] for p in op.padding], 0),
        after=_fill([p[1] for p in op.padding], 0),
        value=op.value,
    )
    return "pad", params, 0


def _strided(name: str, out: TensorType, offset: int, steps: Sequence[int]) -> tuple[str, CStruct, int]:
    shape, step = _merged(out.shape, steps)
    return name, _struct("strided", item_bytes=out.dtype.itemsize, offset=offset, shape=shape, step=step), 0


def _slice(op: ops.Slice, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    dense = _steps(types[0].shape)
    offset = sum(b * s for b, s in zip(op.start, dense, strict=True))
    return _strided("slice", out, offset, [s * k for s, k in zip(dense, op.steps(), strict=True)])


def _transpose(op: ops.Transpose, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    dense = _steps(types[0].shape)
    return _strided("transpose", out, 0, [dense[p] for p in op.perm])


def _reshape(op: ops.Reshape, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    return "reshape", _struct("copy", bytes=out.nbytes), 0


def _gather(op: ops.Gather, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    shape = types[0].shape
    params = _struct(
        "gather",
        outer=prod(shape[: op.axis]),
        extent=shape[op.axis],
        count=types[1].shape[0],
        inner_bytes=prod(shape[op.axis + 1 :]) * out.dtype.itemsize,
    )
    return "gather", params, 0


def _resize(op: ops.Resize, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    x = types[0].shape
    tables = {
        f"{axis}_{part}": CArray("int32_t", getattr(table, part))
        for axis, table in (("row", op.rows), ("column", op.columns))
        for part in ("lo", "hi", "weight")
    }
    extents = dict(
        zip(("batch", "in_h", "in_w", "channels", "out_h", "out_w"), (*x, *out.shape[1:3]), strict=True), bits=op.bits
    )
    return "resize", _struct("resize", x_dtype=_dtype(types[0].dtype), **extents, **tables), 0


def _softmax(op: ops.Softmax, out: TensorType, types: Types, tile: int) -> tuple[str, CStruct, int]:
    return "softmax", _struct("softmax", rows=out.size // out.shape[-1], channels=out.shape[-1]), 0


_LOWER: dict[type[Op], Callable[[Any, TensorType, Types, int], tuple[str, CStruct, int]]] = {
    ops.Conv2D: _conv2d,
    ops.DepthwiseConv2D: _depthwise,
    ops.FullyConnected: _fully_connected,
    ops.MatMul: _matmul,
    ops.Rescale: _rescale_op,
    ops.Add: _binary,
    ops.Sub: _binary,
    ops.Mul: _binary,
    ops.Table: _unary,
    ops.Clamp: _unary,
    ops.Cast: _unary,
    ops.LogicalLeftShift: _unary,
    ops.ArithmeticRightShift: _unary,
    ops.AvgPool2D: _pool,
    ops.MaxPool2D: _pool,
    ops.ReduceSum: _reduce,
    ops.ReduceMax: _reduce,
    ops.ReduceMin: _reduce,
    ops.ReduceAny: _reduce,
    ops.ArgMax: _argmax,
    ops.Pad: _pad,
    ops.Slice: _slice,
    ops.Reshape: _reshape,
    ops.Transpose: _transpose,
    ops.Gather: _gather,
    ops.Resize: _resize,
    ops.Softmax: _softmax,
}


def _concat(op: ops.Concat, node: Node, types: Types) -> tuple[Call, ...]:
    """One call per operand."""
    item = types[0].dtype.itemsize
    runs = [prod(t.shape[op.axis :]) * item for t in types]
    outer = prod(types[0].shape[: op.axis])
    return tuple(
        Call(
            "bitship_concat",
            _struct("concat", outer=outer, run_bytes=n, out_offset_bytes=sum(runs[:i]), out_step_bytes=sum(runs)),
            (name,),
            node.output,
        )
        for i, (name, n) in enumerate(zip(node.inputs, runs, strict=True))
    )


def lower(graph: Graph, node: Node, tile: int) -> tuple[Call, ...]:
    """Return the kernel calls of one node, in order.

    tile  pixels a convolution gathers at once: WIDE_TILE for a vectorising host, SMALL_TILE for a microcontroller
    Raises UnsupportedError for a combination of dtypes that the kernels do not have.
    """
    types = [graph.types[i] for i in node.inputs]
    try:
        if isinstance(node.op, ops.Concat):
            return _concat(node.op, node, types)
        function, params, scratch = _LOWER[type(node.op)](node.op, graph.types[node.output], types, tile)
    except UnsupportedError as e:
        raise UnsupportedError(f"{graph.name}: node '{node.output}': {e}") from None
    return (Call(f"bitship_{function}", params, node.inputs, node.output, scratch),)
